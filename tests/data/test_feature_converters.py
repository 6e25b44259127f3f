import numpy as np
import pytest

from art_jax.data import vocabularies
from art_jax.data.feature_converters import RetrieverQueryConverter
from art_jax.data.host_tensorflow import tf
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (*SPECIAL, "a", "b", "c", "d", "e")


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(WordPieceTokenizer(PIECES))
    yield
    vocabularies.use(None)


def queries(*lists):
    ragged = tf.ragged.constant(lists, dtype=tf.int32, ragged_rank=1)
    dataset = tf.data.Dataset.from_tensor_slices({"query": ragged})
    return dataset.map(lambda example: {"query": tf.identity(example["query"])})


def test_the_example_of_the_docstring():
    dataset = queries([7, 8, 5], [7, 8, 5, 9, 4, 6, 1], [7, 8, 5, 9, 4, 6], [])
    converted = RetrieverQueryConverter(pack=False)(dataset, {"query": 8})
    assert converted.element_spec == {"query_tokens": tf.TensorSpec([8], tf.int32)}
    np.testing.assert_array_equal(
        [example["query_tokens"] for example in converted.as_numpy_iterator()],
        [
            [2, 7, 8, 5, 3, 0, 0, 0],
            [2, 7, 8, 5, 9, 4, 6, 3],
            [2, 7, 8, 5, 9, 4, 6, 3],
            [2, 3, 0, 0, 0, 0, 0, 0],
        ],
    )


def test_called_as_t5x_calls_it():
    converter = RetrieverQueryConverter(pack=False, use_custom_packing_ops=False)
    assert not converter.pack
    assert converter.get_model_feature_lengths({"query": 8}) == {"query_tokens": 8}
    with pytest.raises(ConfigError, match="set pack = False"):
        RetrieverQueryConverter(pack=True)


def test_a_task_feature_without_a_place_is_refused():
    with pytest.raises(ValueError, match="extra features"):
        RetrieverQueryConverter()(queries([1]), {"query": 8, "targets": 8})
