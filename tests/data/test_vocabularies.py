import importlib
import os

import numpy as np
import pytest

from art_jax.data import host_tensorflow, vocabularies
from art_jax.data.host_tensorflow import seqio, tf
from art_jax.data.tokenizers import WordPieceTokenizer, save_tokenizer
from art_jax.errors import ConfigError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (*SPECIAL, "who", "wrote", "it", "?", "cat", "##s")
TOKENIZER = WordPieceTokenizer(PIECES)


@pytest.fixture(autouse=True)
def _no_choice_left_over(monkeypatch):
    monkeypatch.delenv(vocabularies.VOCABULARY_VARIABLE, raising=False)
    vocabularies.use(None)
    yield
    vocabularies.use(None)


def test_encodes_without_special_tokens_and_decodes_to_sep():
    vocabularies.use(TOKENIZER)
    vocabulary = vocabularies.query_vocabulary()
    assert vocabulary.encode("Who wrote cats?") == [5, 6, 9, 10, 8]
    assert vocabulary.encode("[SEP]") == [1, 1, 1]
    assert vocabulary.decode([2, 5, 6, 9, 10, 8, 3, 7, 0]) == "who wrote cats ?"
    assert vocabulary.vocab_size == len(PIECES)
    special = vocabulary.pad_id, vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id
    assert special == (0, 1, 2, 3)


def test_encodes_inside_tf_data_as_outside():
    vocabularies.use(TOKENIZER)
    vocabulary = vocabularies.query_vocabulary()
    texts = ["who wrote it?", "", "cats"]
    dataset = tf.data.Dataset.from_tensor_slices(texts)
    singly = dataset.map(vocabulary.encode_tf)
    assert singly.element_spec == tf.TensorSpec([None], tf.int32)
    want = [[5, 6, 7, 8], [], [9, 10]]
    assert [ids.tolist() for ids in singly.as_numpy_iterator()] == want
    assert vocabulary.encode_tf(tf.constant(texts)).to_list() == want
    decoded = vocabulary.decode_tf(tf.constant([2, 9, 10, 3, 0])).numpy()
    assert decoded == b"cats"


def test_nothing_is_loaded_before_the_first_use(tmp_path):
    path = tmp_path / "vocab.txt"
    vocabularies.use(path)
    feature = seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)
    assert feature.vocabulary == vocabularies.query_vocabulary()
    with pytest.raises(ConfigError, match="no vocabulary at .*vocab.txt"):
        feature.vocabulary.encode("cat")
    path.write_text("\n".join(PIECES) + "\n")
    assert feature.vocabulary.encode("cat") == [9]


def test_environment_names_a_directory_or_file_and_use_wins(tmp_path, monkeypatch):
    save_tokenizer(TOKENIZER, tmp_path / "tokenizer")
    monkeypatch.setenv("ART_JAX_VOCABULARY", os.fspath(tmp_path / "tokenizer"))
    assert vocabularies.chosen_tokenizer() == TOKENIZER
    other = WordPieceTokenizer((*PIECES, "dog"))
    vocabularies.use(other)
    assert vocabularies.chosen_tokenizer() is other


def test_no_choice_says_how_to_make_one():
    with pytest.raises(ConfigError, match=r"ART_JAX_VOCABULARY.*vocabularies.use"):
        vocabularies.query_vocabulary().encode("cat")


def test_another_kind_of_tokenizer_is_refused(tmp_path):
    from art_jax.data.tokenizers import WordTokenizer

    save_tokenizer(WordTokenizer(("[PAD]", "[UNK]", "cat")), tmp_path / "words")
    vocabularies.use(tmp_path / "words")
    with pytest.raises(ConfigError, match="kind 'words'"):
        vocabularies.chosen_tokenizer()


def test_tensorflow_leaves_gpus_alone(monkeypatch):
    hidden = []
    monkeypatch.setattr(
        tf.config, "set_visible_devices", lambda *devices: hidden.append(devices)
    )
    importlib.reload(host_tensorflow)
    assert hidden == [([], "GPU")]
    assert "TF_CPP_MIN_LOG_LEVEL" in os.environ


def test_arrays_are_int32():
    vocabularies.use(TOKENIZER)
    ids = vocabularies.query_vocabulary().encode_tf(tf.constant("cat")).numpy()
    assert ids.dtype == np.int32
