"""The retriever's WordPiece vocabulary as SeqIO wants it, loaded on first use.

A task names its vocabulary when its module is imported, long before anybody knows which
model will read it. So `query_vocabulary()` holds nothing: it asks for the tokeniser
that was chosen for this process at the moment a text is encoded.
"""

import functools
import os
import pathlib

import numpy as np

from art_jax.data.host_tensorflow import seqio, tf
from art_jax.data.tokenizers import WordPieceTokenizer, load_tokenizer, load_wordpiece
from art_jax.errors import ConfigError

VOCABULARY_VARIABLE = "ART_JAX_VOCABULARY"

# One choice a process, as SeqIO's registry is one a process: a task cannot be handed
# an argument when a dataset is built.
_chosen: WordPieceTokenizer | str | os.PathLike | None = None


def use(tokenizer: WordPieceTokenizer | str | os.PathLike | None) -> None:
    """Chooses the tokeniser of every task of this process.

    Args:
        tokenizer: a tokeniser; or where one is, a directory that `save_tokenizer`
            wrote or a vocab.txt, read on first use; or None, which leaves the choice
            to the environment variable ART_JAX_VOCABULARY, such a path.
    """
    global _chosen
    _chosen = tokenizer


def chosen_tokenizer() -> WordPieceTokenizer:
    """The tokeniser that was chosen.

    Raises:
        ConfigError: none was, or there is nothing at its path, or it is of another
            kind than WordPiece.
    """
    chosen = _chosen if _chosen is not None else os.environ.get(VOCABULARY_VARIABLE)
    if not chosen:
        raise ConfigError(
            "no vocabulary was chosen for the SeqIO tasks: set the environment "
            f"variable {VOCABULARY_VARIABLE} to a vocab.txt or to a tokeniser's "
            "directory, or call art_jax.data.vocabularies.use() with one"
        )
    return _load(os.fspath(chosen)) if isinstance(chosen, str | os.PathLike) else chosen


class QueryVocabulary(seqio.Vocabulary):
    """WordPiece ids of a question, without [CLS] and [SEP]; see the module."""

    @property
    def bos_id(self) -> int:
        """The id of [CLS]."""
        return chosen_tokenizer().cls_id

    @property
    def eos_id(self) -> int:
        """The id of [SEP], at which decoding stops."""
        return chosen_tokenizer().sep_id

    @property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return chosen_tokenizer().pad_id

    @property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return chosen_tokenizer().unk_id

    @property
    def _base_vocab_size(self) -> int:
        return chosen_tokenizer().vocab_size

    def _encode(self, s: str) -> list[int]:
        return chosen_tokenizer().encode_batch([s])[0]

    def _decode(self, ids: list[int]) -> str:
        """The pieces joined to words, without [CLS], [SEP] and [PAD]."""
        tokenizer = chosen_tokenizer()
        around = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id}
        pieces = [tokenizer.pieces[token] for token in ids if token not in around]
        return " ".join(pieces).replace(" ##", "")

    def _encode_tf(self, s):
        """The ids of a text, [t] int32; of [n] texts, a ragged [n, t] int32."""
        if s.shape.rank == 0:
            return self._encode_tf(s[None]).values

        def encode(texts):
            lists = chosen_tokenizer().encode_batch([text.decode() for text in texts])
            lengths = [len(ids) for ids in lists]
            flat = [token for ids in lists for token in ids]
            return np.array(flat, np.int32), np.array(lengths, np.int32)

        flat, lengths = tf.numpy_function(encode, [s], (tf.int32, tf.int32))
        flat.set_shape([None])
        lengths.set_shape([None])
        return tf.RaggedTensor.from_row_lengths(flat, lengths)

    def _decode_tf(self, ids):
        def decode(ids):
            return self._decode(ids.tolist()).encode()

        text = tf.numpy_function(decode, [ids], tf.string)
        text.set_shape([])
        return text

    def __eq__(self, other: object) -> bool:
        # All ask for the same tokeniser, so tasks of one mixture agree.
        return isinstance(other, QueryVocabulary)

    def __hash__(self) -> int:
        return hash(QueryVocabulary)


def query_vocabulary() -> QueryVocabulary:
    """The vocabulary that tasks give the feature "query"."""
    return QueryVocabulary()


@functools.lru_cache(maxsize=4)
def _load(path: str) -> WordPieceTokenizer:
    if not pathlib.Path(path).exists():
        raise ConfigError(
            f"there is no vocabulary at {path!r}: give a vocab.txt or a directory "
            "that save_tokenizer wrote"
        )
    if not pathlib.Path(path).is_dir():
        return load_wordpiece(path)
    tokenizer = load_tokenizer(path)
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise ConfigError(
            f"the vocabulary at {path!r} is of kind {tokenizer.kind!r}, but questions "
            "are laid out with [CLS] and [SEP]: give a WordPiece one"
        )
    return tokenizer
