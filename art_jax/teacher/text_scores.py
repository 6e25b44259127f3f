"""A teacher's scores of passages that are texts, of no table, a few at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.batches import filled_batches
from art_jax.data.layouts import (
    TokenTable,
    layout_lengths,
    layout_rows,
    make_token_table,
)
from art_jax.data.passages import Passage
from art_jax.teacher.interface import Teacher
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.types import Params

# (n questions, the passages of each) -> scores of each question's passages, [K] each.
ScoreTexts = Callable[[Sequence[str], Sequence[Sequence[Passage]]], list[np.ndarray]]

# Rows are as long as the longest of a call, in steps of this, so that few shapes are
# compiled.
_LENGTH_STEP = 64


def load_for_texts(
    teacher: Teacher, passages: Callable[[], Iterable[Passage]], mesh: Mesh
) -> tuple[Any, Params]:
    """Returns a teacher's tokeniser and weights, for `build_score_texts`.

    Args:
        teacher: the teacher.
        passages: gives the evidence, which the query likelihood learns from; others do
            not read it.
        mesh: where the weights go.
    """
    tokenizer = teacher.make_tokenizer(f"{one.title} {one.text}" for one in passages())
    tokens = make_token_table([], [])
    if isinstance(teacher, QueryLikelihoodTeacher):
        tokens = _tokens_of(tokenizer, list(passages()))
    return tokenizer, teacher.load(tokens, tokenizer, mesh)


def build_score_texts(
    teacher: Teacher,
    tokenizer: Any,
    params: Params,
    mesh: Mesh,
    *,
    pairs_a_call: int = 256,
) -> ScoreTexts:
    """Returns what scores the passages of some questions.

    Args:
        teacher: the teacher.
        tokenizer: its own.
        params: its weights, on the mesh.
        mesh: pairs are split over its data axis.
        pairs_a_call: of a question and a passage that it reads at once; rounded up to
            a multiple of the data axis.
    """
    data_size = mesh.shape[partitioning.DATA_AXIS]
    size = -(-pairs_a_call // data_size) * data_size
    sharding = partitioning.batch_sharding(mesh)
    layout = teacher.passage_layout(tokenizer)
    score = jax.jit(teacher.score)

    def score_texts(questions, passages):
        question_rows = teacher.question_rows(tokenizer, list(questions))
        lengths = list(map(len, passages))
        asked = np.repeat(np.arange(len(passages)), lengths)
        tokens = _tokens_of(tokenizer, [one for some in passages for one in some])
        every = np.arange(tokens.num_rows)
        longest = max(layout_lengths(layout, tokens, every), default=1)
        width = min(-(-int(longest) // _LENGTH_STEP) * _LENGTH_STEP, layout.max_tokens)
        rows = layout_rows(layout, tokens, every)[:, :width]
        found = np.zeros(len(rows), np.float32)
        for part, count in filled_batches(len(rows), size):
            scores = score(
                params,
                partitioning.put_global(question_rows[asked[part]], sharding),
                partitioning.put_global(rows[part][:, None], sharding),
            )
            found[part[:count]] = partitioning.to_host(scores)[:count, 0]
        return np.split(found, np.cumsum(lengths)[:-1])

    return score_texts


def _tokens_of(tokenizer: Any, passages: Sequence[Passage]) -> TokenTable:
    titles = tokenizer.encode_batch([one.title for one in passages])
    texts = tokenizer.encode_batch([one.text for one in passages])
    return make_token_table(titles, texts)
