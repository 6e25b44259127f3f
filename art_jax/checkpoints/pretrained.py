"""A retriever as some other tool saved it: what its files say, before it is read."""

import dataclasses
from collections.abc import Mapping

from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.models.bert import BertConfig
from art_jax.types import Params


@dataclasses.dataclass(frozen=True)
class PretrainedRetriever:
    """One or two BERT towers in files, and all that the files say about their use.

    What is None is not said there, and up to whoever uses the towers.

    format: what was recognised, for people: "Hugging Face BertModel".
    config: of each tower's BERT; sizes and form are the files', the rest default.
    towers: {"shared": tower} or {"query": tower, "passage": tower}, trees of
        `FileTensor`s as dual_encoder.py describes them.
    pooling: "cls", "mean" or "weighted_mean".
    normalize: whether embeddings are divided by their lengths.
    projection_dim: width of each tower's projection; 0: it has none.
    tokenizer: of both sides.
    max_query_tokens: Q.
    max_passage_tokens: L.
    training: facts about how it was made, JSON values.
    """

    format: str
    config: BertConfig
    towers: Mapping[str, Params]
    pooling: str | None = None
    normalize: bool | None = None
    projection_dim: int = 0
    tokenizer: WordPieceTokenizer | None = None
    max_query_tokens: int | None = None
    max_passage_tokens: int | None = None
    training: Mapping = dataclasses.field(default_factory=dict)
