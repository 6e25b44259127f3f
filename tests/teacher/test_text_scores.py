"""Scores of texts are the teacher's own, in calls of any size."""

import jax
import numpy as np
import pytest

from art_jax.data.layouts import layout_rows, make_token_table
from art_jax.data.passages import Passage
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.text_scores import build_score_texts, load_for_texts

TEACHER = QueryLikelihoodTeacher(mu=5.0, max_passage_tokens=100, max_question_tokens=4)
SOME = [Passage(str(n), f"word{n} and word{n % 3} " * (1 + n), "t") for n in range(9)]
QUESTIONS = ["about word1", "word5 or word2"]
PASSAGES = [SOME[:2], [*SOME[3:], SOME[0]]]


@pytest.mark.parametrize("pairs_a_call", [3, 64])
def test_they_are_those_of_the_teacher(mesh, pairs_a_call):
    tokenizer, params = load_for_texts(TEACHER, lambda: iter(SOME), mesh)
    score = build_score_texts(
        TEACHER, tokenizer, params, mesh, pairs_a_call=pairs_a_call
    )
    found = score(QUESTIONS, PASSAGES)
    assert [len(scores) for scores in found] == [2, 7]
    encode = tokenizer.encode_batch
    for question, passages, scores in zip(QUESTIONS, PASSAGES, found, strict=True):
        titles = encode([one.title for one in passages])
        tokens = make_token_table(titles, encode([one.text for one in passages]))
        rows = layout_rows(
            TEACHER.passage_layout(tokenizer), tokens, np.arange(len(passages))
        )
        question_rows = TEACHER.question_rows(tokenizer, [question])
        want = TEACHER.score(jax.device_get(params), question_rows, rows[None])
        np.testing.assert_allclose(scores, want[0], rtol=1e-6)
