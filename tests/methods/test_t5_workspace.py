import numpy as np
import pytest

from art_jax.errors import ConfigError


def test_a_batch_is_split_over_the_devices(make_space, mesh):
    space = make_space(mesh)
    size = 2 * mesh.size
    batch = space.put_batch({"a": np.arange(size)})
    assert {shard.data.shape for shard in batch["a"].addressable_shards} == {(2,)}
    space.check_batch_size(size, 2)
    for wrong, chunks in ((size + 1, 2), (0, 1), (size, 0)):
        with pytest.raises(ConfigError, match="BATCH_SIZE"):
            space.check_batch_size(wrong, chunks)


@pytest.mark.parametrize("tokens", [(3, 3), (0, 1), (5, 999)])
def test_tokens_are_different_ones_of_the_vocabulary(make_space, tokens):
    with pytest.raises(ConfigError, match="index_tokens are"):
        make_space().check_tokens("index_tokens", tokens)
