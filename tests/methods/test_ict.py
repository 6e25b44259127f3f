"""ICT: which sentence, which passage, and the loss, by hand."""

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
    queries, passages = ict.sample_pairs(
        table(), np.array([row]), END_IDS, rng, **settings
    )
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


def test_passages_of_one_title_are_no_negatives():
    loss, _ = loss_of(ict.Ict(mask_same_title=True), batch([5, 5]))
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="temperature is 0"):
        ict.Ict(temperature=0)


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
