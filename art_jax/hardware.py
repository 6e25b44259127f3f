"""What accelerators can do by their data sheets, to plan runs and to report MFU."""

import dataclasses

from art_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DeviceKind:
    """One accelerator, as its maker states it.

    name: as `art-jax plan --device` takes it.
    jax_names: parts of what JAX calls it (`device_kind`), lower case.
    matmul_flops: dense bfloat16 operations a second.
    memory_bytes: of device memory.
    memory_bytes_per_second: bandwidth of that memory.
    link_bytes_per_second: to its neighbours, over all links, one direction.

    Source: the makers' public data sheets (Google Cloud's pages of the TPU versions;
        NVIDIA's of A100 SXM, H100 SXM and H200), without sparsity.
    """

    name: str
    jax_names: tuple[str, ...]
    matmul_flops: float
    memory_bytes: int
    memory_bytes_per_second: float
    link_bytes_per_second: float


_GIB = 1 << 30

# Longer names first where one holds another.
DEVICE_KINDS = (
    DeviceKind("v4", ("tpu v4",), 275e12, 32 * _GIB, 1.228e12, 150e9),
    DeviceKind("v5e", ("tpu v5 lite", "tpu v5e"), 197e12, 16 * _GIB, 0.819e12, 100e9),
    DeviceKind("v5p", ("tpu v5p", "tpu v5"), 459e12, 95 * _GIB, 2.765e12, 300e9),
    DeviceKind("v6e", ("tpu v6 lite", "tpu v6e"), 918e12, 32 * _GIB, 1.64e12, 200e9),
    DeviceKind(
        "A100-40",
        ("a100-sxm4-40gb", "a100-pcie-40gb"),
        312e12,
        40 * _GIB,
        1.555e12,
        300e9,
    ),
    DeviceKind("A100", ("a100",), 312e12, 80 * _GIB, 2.039e12, 300e9),
    DeviceKind("H100", ("h100",), 989e12, 80 * _GIB, 3.35e12, 450e9),
    DeviceKind("H200", ("h200",), 989e12, 141 * 10**9, 4.8e12, 450e9),
)


def device_kind(name: str) -> DeviceKind:
    """Returns the accelerator of that name, in any case.

    Raises:
        ConfigError: there is none.
    """
    for kind in DEVICE_KINDS:
        if kind.name.lower() == name.lower():
            return kind
    names = ", ".join(kind.name for kind in DEVICE_KINDS)
    raise ConfigError(f"no figures are known for device {name!r}: choose of {names}.")


def find_device_kind(jax_name: str) -> DeviceKind | None:
    """Returns the accelerator that JAX calls `jax_name`; None for a CPU or a new one.

    Args:
        jax_name: `jax.devices()[0].device_kind`.
    """
    for kind in DEVICE_KINDS:
        if any(part in jax_name.lower() for part in kind.jax_names):
            return kind
    return None
