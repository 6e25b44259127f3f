"""ICT: which sentence, which passage, and the loss, by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.layouts import make_token_table
from art_jax.errors import ConfigError
from art_jax.methods import ict
from art_jax.training import update

STOP = 9  # The token that ends a sentence.
END_IDS = np.array([STOP])


def table():
    # Row 0: a title and three sentences; row 1: one sentence; row 2: no text.
    return make_token_table(
        [[70, 71], [], [72]], [[1, 2, 3, STOP, 4, STOP, 5, 6, 7], [8, 8, 8], []]
    )


def sample(row, seed, **settings):
    settings = {
        "remove_probability": 1.0,
        "title_probability": 0.0,
        "min_query_tokens": 3,
    } | settings
    rng = np.random.default_rng(seed)
    queries, passages, is_removed = ict.sample_pairs(
        table(), np.array([row]), END_IDS, rng, **settings
    )
    left = passages.token_ids[passages.title_lengths[0] :]
    is_there = settings["title_probability"] == 1.0 or set(queries[0]) <= set(left)
    assert is_removed.tolist() == [not is_there]
    return queries[0].tolist(), passages.token_ids.tolist()


def test_a_sentence_is_taken_out_of_its_passage():
    found = {tuple(map(tuple, sample(0, seed))) for seed in range(20)}
    assert found == {
        ((1, 2, 3, STOP), (70, 71, 4, STOP, 5, 6, 7)),
        ((5, 6, 7), (70, 71, 1, 2, 3, STOP, 4, STOP)),
    }


def test_a_short_sentence_is_asked_for_where_that_is_allowed():
    found = {tuple(sample(0, seed, min_query_tokens=1)[0]) for seed in range(30)}
    assert (4, STOP) in found


def test_it_may_stay_in():
    _, passage = sample(0, 0, remove_probability=0.0)
    assert passage == [70, 71, 1, 2, 3, STOP, 4, STOP, 5, 6, 7]


def test_a_passage_of_one_sentence_keeps_it():
    assert sample(1, 0) == ([8, 8, 8], [8, 8, 8])


def test_a_title_may_be_asked_for_and_stays():
    query, passage = sample(0, 0, title_probability=1.0)
    assert query == [70, 71]
    assert passage == [70, 71, 1, 2, 3, STOP, 4, STOP, 5, 6, 7]
    assert sample(1, 0, title_probability=1.0)[0] == [8, 8, 8]


def test_a_passage_without_text_gives_an_empty_query():
    assert sample(2, 0) == ([], [72])


def test_a_long_passage_keeps_whole_sentences_around_the_one_asked_for():
    text = np.array([1, STOP, 2, 2, STOP, 3, STOP, 4, 4, STOP, 5, STOP, 6])
    # In the middle "3 STOP": first 3 tokens before it, then 3 behind it, and so on.
    for max_tokens, want in (
        (2, (5, 7)),
        (3, (2, 7)),
        (5, (0, 7)),
        (6, (2, 10)),
        (8, (0, 10)),
        (10, (0, 12)),
        (99, (0, 13)),
    ):
        assert ict.surround(text, END_IDS, 5, 7, max_tokens) == want
    cut = {"remove_probability": 0.0, "context_tokens": 5}
    assert {tuple(map(tuple, sample(0, seed, **cut))) for seed in range(20)} == {
        ((1, 2, 3, STOP), (70, 71, 1, 2, 3, STOP)),
        ((5, 6, 7), (70, 71, 4, STOP, 5, 6, 7)),
    }
    missing = {tuple(sample(0, seed, context_tokens=3)[1]) for seed in range(20)}
    assert missing == {(70, 71, 4, STOP)}


def test_some_sentences_are_cut():
    queries = [np.arange(20)] * 400
    cut = ict.shorten_some(queries, np.random.default_rng(0), 0.5, 8)
    lengths = [len(query) for query in cut]
    assert set(lengths) == {5, 6, 7, 8, 20}
    assert 150 < lengths.count(20) < 250
    assert all((query == np.arange(len(query))).all() for query in cut)


def test_passages_may_be_read_without_titles():
    passages = ict.without_titles(table())
    assert passages.title_lengths.tolist() == [0, 0, 0]
    assert passages.offsets.tolist() == [0, 9, 12, 12]
    assert passages.token_ids.tolist() == [1, 2, 3, STOP, 4, STOP, 5, 6, 7, 8, 8, 8]


def test_titles_are_known_by_how_they_begin_and_end():
    titles = [[5, 6], [5, 6, 7], [5], [], [7, 5, 6]]
    some = make_token_table(titles, [[6]] * 5)
    begins = ict.has_in_title(some, [5, 6], at_end=False)
    ends = ict.has_in_title(some, [5, 6], at_end=True)
    assert begins.tolist() == [True, True, False, False, False]
    assert ends.tolist() == [True, False, False, False, True]


def test_equal_titles_have_equal_numbers():
    passages = make_token_table([[1, 2], [1], [1, 2], [], []], [[3]] * 5)
    assert ict.number_titles(passages).tolist() == [0, 1, 0, 3, 4]


class Identity:
    """An encoder whose tokens are the embeddings."""

    width = 4

    def encode_query(self, params, tokens, *, key):
        return params["scale"] * tokens.astype("float32")

    encode_passage = encode_query


def batch(titles):
    return {
        "query_tokens": jnp.array([[1, 0], [0, 2]], jnp.int32),
        "passage_tokens": jnp.array([[3, 0], [1, 1]], jnp.int32),
        "title_numbers": jnp.array(titles, jnp.int32),
        "is_removed": jnp.array([True, False]),
    }


def loss_of(method, batch):
    params = {"scale": jnp.float32(1)}
    embeddings = method.embed(Identity(), params, batch, jax.random.key(0))
    return method.loss(Identity(), embeddings, batch)


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_by_hand(symmetric):
    # Scores [[3, 1], [0, 2]], divided by the square root of the width, 2.
    first = np.log(np.exp(1.5) + np.exp(0.5)) - 1.5
    second = np.log(np.exp(0) + np.exp(1.0)) - 1.0
    want = (first + second) / 2
    if symmetric:
        passage_0 = np.log(np.exp(1.5) + np.exp(0)) - 1.5
        passage_1 = np.log(np.exp(0.5) + np.exp(1.0)) - 1.0
        want = (want + (passage_0 + passage_1) / 2) / 2
    loss, metrics = loss_of(ict.Ict(symmetric=symmetric), batch([0, 1]))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["query_loss"], (first + second) / 2, rtol=1e-6)
    assert (metrics["masked_accuracy"], metrics["unmasked_accuracy"]) == (1, 1)


def test_accuracy_of_sentences_taken_out_and_left_in():
    # Scores [[3, 1], [2, 2]]: of equal ones the first is best, and not its own.
    tied = batch([0, 1]) | {"query_tokens": jnp.array([[1, 0], [0, 2]], jnp.int32)}
    tied["passage_tokens"] = jnp.array([[3, 1], [1, 1]], jnp.int32)
    _, metrics = loss_of(ict.Ict(), tied)
    assert (metrics["masked_accuracy"], metrics["unmasked_accuracy"]) == (1, 0)
    tied["is_removed"] = jnp.array([True, True])
    _, metrics = loss_of(ict.Ict(), tied)
    assert (metrics["masked_accuracy"], metrics["unmasked_accuracy"]) == (0.5, 0)


def test_passages_of_one_title_are_no_negatives():
    loss, _ = loss_of(ict.Ict(mask_same_title=True), batch([5, 5]))
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="temperature is 0"):
        ict.Ict(temperature=0)
    with pytest.raises(ConfigError, match="without titles"):
        ict.Ict(around_sentence=True)


def gradient(problem, params, num_chunks):
    # One unit of plain descent, so that the change of a parameter is its gradient.
    optimizer = optax.sgd(1.0)
    step = update.make_update(
        problem.loss, optimizer, prepare=problem.prepare, num_chunks=num_chunks
    )
    state = update.init_state(jax.tree.map(jnp.copy, params), optimizer)
    state, metrics = step(state, problem.make_batch(0), None, jax.random.key(0))
    grads = jax.tree.map(jnp.subtract, params, state.params)
    return grads, (metrics["loss"], metrics["query_loss"])


def test_a_batch_in_chunks_has_the_gradient_of_the_whole(tiny, tiny_evidence):
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(1), tiny.bag_encoder()
    )
    method = ict.Ict(symmetric=True, mask_same_title=True, dropout=False)
    params = tiny.init_params(space)
    with tiny.quick_compilation():
        whole, *parts = (
            gradient(
                method.bind(space, batch_size=8, seed=0, num_chunks=num_chunks),
                params,
                num_chunks,
            )
            for num_chunks in (1, 2, 8)
        )
    assert np.abs(whole[0]["query"]["embedding"]).max() > 1e-3
    for part in parts:
        # Differences of parameters of size 1.
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=3e-7), part, whole
        )
    with pytest.raises(ConfigError, match="NUM_MICROBATCHES is 3"):
        method.check(space, 8, num_chunks=3)


def test_megatrons_form_and_pages_of_lists(tiny, tmp_path):
    some = [
        dataclasses.replace(one, title=title)
        for one, title in zip(
            tiny.SOME_PASSAGES[:9],
            ["List of t1", "Index of", "Outline of t2", "t3 (disambiguation)"]
            + ["The list of t4"] * 5,
            strict=True,
        )
    ]
    store = tiny.build_evidence(tmp_path / "store", some)
    space = tiny.make_workspace(store, partitioning.make_mesh(1), tiny.bag_encoder())
    method = ict.Ict(
        skip_lists=True,
        with_titles=False,
        around_sentence=True,
        short_query_probability=0.1,
        remove_probability=0.9,
        max_passage_tokens=12,
    )
    with pytest.raises(ConfigError, match="there are 5"):
        method.check(space, 6)
    arrays = method.bind(space, batch_size=5, seed=0).make_batch(0)
    # Whole sentences alone: what is read ends as a sentence does, then [SEP].
    (end,) = space.tokenizers["retriever"].encode_batch(["."])[0]
    for row in np.asarray(arrays["passage_tokens"]):
        ids = row[row > 0]
        assert len(ids) <= 12
        assert ids[-2] in (end, ids[0])
    numbers = np.asarray(arrays["title_numbers"])
    assert (numbers == numbers[0]).all()
