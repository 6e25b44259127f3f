import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.methods import mmr
from art_jax.methods.mmr import Mmr


def ranked(*texts, scores=None):
    scores = scores or [float(len(texts) - place) for place in range(len(texts))]
    candidates = tuple(
        Candidate(Passage(str(place), text), score)
        for place, (text, score) in enumerate(zip(texts, scores, strict=True))
    )
    return RankedQuestion(Question("q", "why"), candidates)


def order(worth):
    return np.argsort(-worth, kind="stable").tolist()


def test_by_hand():
    relevance = np.array([1.0, 0.9, 0.5])
    similarity = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.1], [0.0, 0.1, 1.0]])
    worth = mmr.marginal_relevance(relevance, similarity, 0.5)
    # First .5 of 1; then .45 - .4 against .25 - 0; then .45 - .4.
    np.testing.assert_allclose(worth, [0.5, 0.05, 0.25], rtol=1e-6)
    assert order(worth) == [0, 2, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_worth_falls_in_the_order_of_choice(seed, weight):
    # Few values, so that ties are common.
    rng = np.random.default_rng(seed)
    relevance = rng.integers(0, 3, 6) / 2
    similarity = rng.integers(0, 3, (6, 6)) / 2
    similarity = np.maximum(similarity, similarity.T)
    chosen, left = [], list(range(6))
    while left:

        def value(place):
            nearest = max((similarity[place, other] for other in chosen), default=0)
            return weight * relevance[place] - (1 - weight) * nearest

        best = max(left, key=lambda place: (value(place), -place))
        left.remove(best)
        chosen.append(best)
    assert order(mmr.marginal_relevance(relevance, similarity, weight)) == chosen


def test_a_passage_that_repeats_another_comes_later():
    one = ranked(
        "herons eat fish", "herons eat fish", "granite is hard", scores=[3.0, 2.9, 2.0]
    )
    (worth,) = Mmr(0.5).score([one])
    assert order(worth) == [0, 2, 1]
    (worth,) = Mmr(1.0).score([one])
    assert order(worth) == [0, 1, 2]


def test_rankings_may_be_empty_and_of_one_score():
    questions = [ranked(), ranked("fish", "stone", scores=[2.0, 2.0]), ranked("fish")]
    assert [len(worth) for worth in Mmr().score(questions)] == [0, 2, 1]
    assert list(Mmr().score([])) == []


def test_tf_idf_by_hand():
    weights = np.array([0.0, 1.0, 2.0, 0.0])
    texts = [np.array([1, 1, 2]), np.array([3]), np.array([2])]
    vectors = mmr.tf_idf(texts, weights)
    half = np.sqrt(0.5)  # Twice weight 1, once weight 2.
    np.testing.assert_allclose(vectors, [[half, half, 0], [0, 0, 0], [0, 1, 0]])


def test_relevance_runs_from_0_to_1():
    np.testing.assert_allclose(
        mmr.relevance_of(ranked("a", "b", "c", scores=[7.0, 4.0, 3.0])), [1, 0.25, 0]
    )


def test_a_run_without_scores_or_a_weight_out_of_range_is_an_error():
    unknown = ranked("fish", "stone", scores=[1.0, 2.0])
    unknown = RankedQuestion(
        unknown.question, (Candidate(Passage("1", "x")), *unknown.candidates)
    )
    with pytest.raises(DataError, match="question 'q' has no score"):
        list(Mmr().score([unknown]))
    with pytest.raises(ConfigError, match="relevance_weight is 1.5"):
        Mmr(1.5)
