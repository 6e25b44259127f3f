import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import oracle
from art_jax.data.oracle import OracleRules
from art_jax.errors import ConfigError

# Passages that hold A, AB, nothing, BC and C.
HELD = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
SMALL = OracleRules(k=3, num_passages=5, num_indexes=9)


def draws(rules, count=60, held=HELD, priors=None):
    priors = np.zeros(len(held)) if priors is None else priors
    return [oracle.draw(held, priors, rules, (7, step)) for step in range(count)]


def change(**fields):
    return dataclasses.replace(SMALL, **fields)


@pytest.mark.parametrize(("k", "chosen"), [(5, [0, 1, 3]), (2, [0, 1]), (1, [0])])
def test_each_positive_holds_an_answer_that_none_before_it_does(k, chosen):
    assert oracle.choose_covering(HELD, k) == chosen


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 5))
def test_positives_cover_what_can_be_covered(seed, k):
    rng = np.random.default_rng(seed)
    held = rng.random((rng.integers(1, 9), rng.integers(1, 5))) < 0.3
    chosen = oracle.choose_covering(held, k)
    covered = np.zeros(held.shape[1], bool)
    for place in chosen:
        assert (held[place] & ~covered).any()
        covered |= held[place]
    assert len(chosen) <= k
    if len(chosen) < k:
        np.testing.assert_array_equal(covered, held.any(axis=0))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    positives=st.sampled_from(oracle.POSITIVES),
    walk=st.sampled_from(oracle.WALKS),
    prefix=st.sampled_from(oracle.PREFIXES),
    num_passages=st.sampled_from([3, 5, 8, None]),
)
def test_a_draw_is_sound(seed, positives, walk, prefix, num_passages):
    rng = np.random.default_rng(seed)
    held = rng.random((rng.integers(3, 9), 3)) < 0.3
    rules = change(
        positives=positives, walk=walk, prefix=prefix, num_passages=num_passages
    )
    drawn = oracle.draw(held, rng.normal(size=len(held)), rules, (seed, 1))
    is_read = drawn.places >= 0
    read = drawn.places[is_read].tolist()
    assert len(set(read)) == len(read)
    assert max(read, default=0) < len(held)
    assert not (drawn.is_positive & ~is_read).any()
    assert len(set(drawn.indexes.tolist())) == len(drawn.places)
    assert drawn.indexes.min() >= 0
    assert drawn.indexes.max() < rules.num_indexes
    assert held[drawn.places[drawn.is_positive]].any(axis=1).all()
    picked = drawn.prefix[drawn.prefix >= 0].tolist()
    assert len(set(picked)) == len(picked)
    assert drawn.prefix[: len(picked)].tolist() == picked
    assert set(picked) <= set(np.flatnonzero(is_read).tolist())
    right = np.flatnonzero(drawn.is_positive).tolist()
    assert len(set(right) & set(picked)) == min(rules.k, len(right))
    if prefix == "sampled":
        assert len(picked) == min(rules.k, len(read))
    elif prefix == "answerless":
        is_wrong = ~held[drawn.places].any(axis=1) & is_read
        assert set(picked) <= set(np.flatnonzero(drawn.is_positive | is_wrong).tolist())
    else:
        assert set(picked) <= set(right)


def test_covering_positives_are_of_the_ranking_or_of_any_order():
    ranked = {tuple(one.places[one.is_positive].tolist()) for one in draws(SMALL)}
    assert ranked == {(0, 1, 3)}
    others = draws(change(walk="random"))
    found = {frozenset(one.places[one.is_positive].tolist()) for one in others}
    assert {frozenset({0, 3}), frozenset({1, 4}), frozenset({1, 3})} <= found


def test_of_all_that_hold_an_answer_k_are_drawn_and_the_rest_left_out():
    found = draws(change(positives="all"))
    for one in found:
        assert one.is_positive.sum() == 3
        assert one.places[~one.is_positive].tolist() == [2, -1]
    assert len({tuple(one.places[:3].tolist()) for one in found}) == 4
    whole = draws(change(positives="all", num_passages=None), 1)[0]
    assert whole.places.tolist() == [0, 1, 3, 4, 2]
    assert whole.is_positive.sum() == 4


def test_indexes_say_nothing_of_the_rank():
    found = np.array([one.indexes for one in draws(SMALL, 900)])
    # Each of 9 indexes for each of 5 passages: 100 times, more or less.
    counts = np.array([np.bincount(column, minlength=9) for column in found.T])
    assert counts.min() > 60
    assert counts.max() < 145


def test_negatives_of_a_prefix_follow_priors_and_noise():
    held = np.zeros((9, 1), bool)
    held[4] = True
    priors = np.array([3.0, 0, 0, 0, 0, 0, 0, 0, 2.0])
    still = change(k=3, num_passages=9, gamma=0.0)
    for one in draws(still, 20, held, priors):
        assert set(one.places[one.prefix].tolist()) == {0, 4, 8}
    noisy = change(k=2, num_passages=9, gamma=1.0)
    picked = np.zeros(9)
    for one in draws(noisy, 1500, held, priors):
        picked[one.places[one.prefix]] += 1
    # The highest of s + Gumbel is drawn by the softmax of s.
    shares = np.exp(priors) * ~held[:, 0]
    assert picked[4] == 1500
    picked[4] = 0
    np.testing.assert_allclose(picked / 1500, shares / shares.sum(), atol=0.04)


@pytest.mark.parametrize("gamma", [0.0, 9.0])
def test_what_tells_an_answer_again_may_stay_out_of_a_prefix(gamma):
    held = np.zeros((8, 2), bool)
    held[[0, 1, 2], 0] = held[[2, 3], 1] = True
    priors = np.array([9.0, 9, 9, 9, 1, 1, 1, 1])
    rules = change(k=4, num_passages=8, gamma=gamma)
    sampled = {
        prefix: [
            one.places[one.prefix[one.prefix >= 0]].tolist()
            for one in draws(
                dataclasses.replace(rules, prefix=prefix), 40, held, priors
            )
        ]
        for prefix in ("sampled", "answerless")
    }
    # Passages 0 and 2 are the positives; what else holds an answer is redundant.
    assert all(len(one) == 4 for one in sampled["answerless"])
    assert all(
        {0, 2} <= set(one) <= {0, 2, 4, 5, 6, 7} for one in sampled["answerless"]
    )
    assert any({1, 3} & set(one) for one in sampled["sampled"])
    every = np.ones((5, 1), bool)
    alone = change(k=4, num_passages=5, prefix="answerless")
    for one in draws(alone, 9, every, np.zeros(5)):
        assert one.prefix.tolist() == [0, -1, -1, -1]


def test_a_prefix_has_its_positives_at_any_place_or_by_prior():
    places = [one.prefix.tolist().index(0) for one in draws(change(k=3))]
    assert set(places) == {0, 1, 2}
    by_prior = draws(change(prefix="ranked"), 1, priors=np.array([1, 3, 0, 2, 0]))
    assert by_prior[0].prefix.tolist() == [1, 2, 0]


def test_a_draw_is_of_its_seed_alone():
    one, same, other = (
        oracle.draw(HELD, np.zeros(5), SMALL, seed) for seed in ((1, 2), (1, 2), (1, 3))
    )
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(same, field.name)
        )
    assert one.indexes.tolist() != other.indexes.tolist()
    # Of PCG64's raw stream, which no version of NumPy changes.
    assert one.indexes.tolist() == [3, 4, 7, 1, 0]


@pytest.mark.parametrize(
    "fields",
    [{"k": 0}, {"k": 6}, {"num_indexes": 4}, {"gamma": -1.0}, {"walk": "up"}],
)
def test_what_is_out_of_range_is_said(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        change(**fields)


def test_a_ranking_longer_than_the_indexes_cannot_be_read_whole():
    with pytest.raises(ConfigError, match="5 passages to be read .* there are 4"):
        draws(change(num_passages=None, num_indexes=4, k=1), 1)
    with pytest.raises(ConfigError, match="5 passages"):
        oracle.draw_indexes(4, 5, (1,))


def test_indexes_may_be_drawn_alone():
    found = oracle.draw_indexes(6, 5, (3, 1))
    assert len(set(found.tolist())) == 5
    assert found.tolist() == oracle.draw_indexes(6, 5, (3, 1)).tolist()
    assert found.tolist() != oracle.draw_indexes(6, 5, (3, 2)).tolist()
