"""Eight CPU devices for every test, and silent mistakes made loud."""

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
