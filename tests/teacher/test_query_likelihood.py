"""The query-likelihood teacher against arithmetic and a slow twin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.data.layouts import make_token_table
from art_jax.errors import ConfigError
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher

# Words 2..6; 0 pads, 1 is unknown. Six words in all, unknown ones not counted.
EVIDENCE = make_token_table([[2], []], [[3, 3, 1], [2, 4, 5]])


def test_by_hand():
    teacher = QueryLikelihoodTeacher(mu=2.0)
    params = teacher.count_evidence(EVIDENCE, vocab_size=7)
    question = jnp.array([[2, 3, 0]], jnp.int32)
    passages = jnp.array([[[2, 3, 3, 1], [2, 4, 5, 0]]], jnp.int32)
    # p(2) = 2/6, p(3) = 2/6; passage 0 has length 4, passage 1 length 3.
    want = [
        (np.log((1 + 2 * 2 / 6) / 6) + np.log((2 + 2 * 2 / 6) / 6)) / 2,
        (np.log((1 + 2 * 2 / 6) / 5) + np.log((0 + 2 * 2 / 6) / 5)) / 2,
    ]
    got = teacher.score(params, question, passages)
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_equals_a_slow_twin():
    rng = np.random.default_rng(0)
    questions = rng.integers(0, 30, (3, 6)).astype(np.int32)
    passages = rng.integers(0, 30, (3, 4, 11)).astype(np.int32)
    table = make_token_table(
        [[]] * 12, [[t for t in row if t] for row in passages.reshape(12, 11).tolist()]
    )
    teacher = QueryLikelihoodTeacher(mu=7.0)
    params = teacher.count_evidence(table, vocab_size=31)
    everything = [t for t in passages.reshape(-1) if t > 1]
    want = np.zeros((3, 4))
    for b in range(3):
        words = [w for w in questions[b] if w in everything]
        for k in range(4):
            held = [t for t in passages[b, k] if t]
            logs = [
                np.log(
                    (held.count(w) + 7 * everything.count(w) / len(everything))
                    / (len(held) + 7)
                )
                for w in words
            ]
            want[b, k] = np.mean(logs)
    got = jax.jit(teacher.score)(params, questions, passages)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_unknown_words_favour_no_passage():
    teacher = QueryLikelihoodTeacher()
    params = teacher.count_evidence(EVIDENCE, vocab_size=8)
    passages = jnp.array([[[2, 3], [6, 7]]], jnp.int32)
    alone = teacher.score(params, jnp.array([[2, 0, 0]], jnp.int32), passages)
    # 1 is the unknown word, 7 is in the vocabulary but in no passage.
    beside = teacher.score(params, jnp.array([[2, 1, 7]], jnp.int32), passages)
    np.testing.assert_array_equal(alone, beside)
    nothing = teacher.score(params, jnp.array([[1, 7, 0]], jnp.int32), passages)
    np.testing.assert_array_equal(nothing, 0)


def test_layouts_hold_words_alone():
    class Words:
        pad_id = 0

        def encode_batch(self, texts):
            return [[len(word) for word in text.split()] for text in texts]

    teacher = QueryLikelihoodTeacher(max_question_tokens=3)
    rows = teacher.question_rows(Words(), ["aa bbb", "a bb ccc dddd"])
    np.testing.assert_array_equal(rows, [[2, 3, 0], [1, 2, 3]])
    assert teacher.passage_layout(Words()).prefix == ()


def test_refuses_mu_of_zero_and_evidence_without_words():
    with pytest.raises(ConfigError, match="mu"):
        QueryLikelihoodTeacher(mu=0.0)
    with pytest.raises(ConfigError, match="no known word"):
        QueryLikelihoodTeacher().count_evidence(
            make_token_table([[]], [[1, 1]]), vocab_size=4
        )


def test_it_says_what_it_is():
    assert QueryLikelihoodTeacher(mu=2.5).describe().endswith("unigrams, mu 2.5")


class Named:
    def __init__(self, digest):
        self.digest = digest


def test_its_digest_is_of_settings_and_tokeniser():
    teacher, tokenizer = QueryLikelihoodTeacher(mu=2.5), Named("abc")
    want = teacher.digest(tokenizer)
    assert want == QueryLikelihoodTeacher(mu=2.5).digest(Named("abc"))
    others = [
        QueryLikelihoodTeacher(mu=2.0),
        QueryLikelihoodTeacher(mu=2.5, max_passage_tokens=191),
        QueryLikelihoodTeacher(mu=2.5, max_question_tokens=31),
    ]
    digests = {other.digest(tokenizer) for other in others}
    assert len(digests | {want, teacher.digest(Named("abd"))}) == 5


def test_rows_change_no_score():
    teacher = QueryLikelihoodTeacher()
    params = teacher.count_evidence(EVIDENCE, vocab_size=7)
    question = jnp.array([[2, 3, 0]], jnp.int32)
    passages = jnp.array([[[2, 3, 3, 1], [2, 4, 5, 0], [2, 3, 3, 1]]], jnp.int32)
    want = teacher.score(params, question, passages)
    got = teacher.score(params, question, passages, jnp.array([[4, 0, 4]], jnp.int32))
    np.testing.assert_array_equal(got, want)


def test_scores_are_means_over_the_words_that_it_knows():
    rows = np.array([[5, 1, 7, 0], [1, 0, 0, 0]])
    counts = QueryLikelihoodTeacher().num_scored_tokens(rows)
    np.testing.assert_array_equal(counts, [2, 0])
