"""Accelerators are found by our names and by JAX's."""

import pytest

from art_jax import hardware
from art_jax.errors import ConfigError


@pytest.mark.parametrize(
    ("jax_name", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_jax_names_are_recognised(jax_name, name):
    assert hardware.find_device_kind(jax_name) == hardware.device_kind(name.lower())


def test_a_cpu_has_no_data_sheet():
    assert hardware.find_device_kind("cpu") is None


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'v3'.*v4, v5e.*H200"):
        hardware.device_kind("v3")
