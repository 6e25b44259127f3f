"""Eight CPU devices for every test, and silent mistakes made loud.

And the fixtures of tiny_run.py, which is loaded by its path: tests are no package.
"""

import importlib.util
import pathlib
import sys

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # raises if JAX has started already
# Eight devices on two cores: with programs in flight while the next one compiles, a
# collective was once seen to wait for ever.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=[1, 2, 8], ids="shards={}".format)
def mesh(request):
    """A mesh of one, two and eight devices, rows of the table over all of them."""
    from art_jax import partitioning

    return partitioning.make_mesh(request.param)


def _load_tiny_run():
    if "tiny_run" not in sys.modules:
        path = pathlib.Path(__file__).parent / "tiny_run.py"
        spec = importlib.util.spec_from_file_location("tiny_run", path)
        sys.modules["tiny_run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tiny_run"])
    return sys.modules["tiny_run"]


@pytest.fixture(scope="session")
def tiny():
    """The module tiny_run."""
    return _load_tiny_run()


@pytest.fixture(scope="session")
def tiny_evidence(tiny, tmp_path_factory):
    """The evidence store of its passages."""
    return tiny.build_evidence(tmp_path_factory.mktemp("tiny") / "evidence")
