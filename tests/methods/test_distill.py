"""What a batch holds, the loss against a plain twin, and that scores are learned."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.example_files import write_examples
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.layouts import make_token_table
from art_jax.errors import ConfigError
from art_jax.methods.distill import Distill, draw_scored
from art_jax.methods.ranked_table import RankedSet, RankedTable
from art_jax.training import loop, update

BATCH, SEED = 8, 3


@pytest.fixture(scope="module")
def ranked_file(tiny, tmp_path_factory):
    """Of each question three passages or two; its own has the highest score."""
    ranked = []
    for number, question in enumerate(tiny.QUESTIONS[:16]):
        places = [(number + 5) % 16, number, (number + 9) % 16][: 2 + number % 2]
        candidates = tuple(
            Candidate(tiny.SOME_PASSAGES[place], 2.0 if place == number else -rank)
            for rank, place in enumerate(places)
        )
        ranked.append(RankedQuestion(question, candidates))
    path = tmp_path_factory.mktemp("scored") / "attention.json"
    write_examples(path, ranked, "dpr-results")
    return RankedSet(path=str(path))


@pytest.fixture(scope="module")
def method(ranked_file):
    return Distill([ranked_file], dropout=False, teacher_scale=0.5)


def make_space(tiny, tiny_evidence, num_devices=1):
    return tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(num_devices), tiny.bag_encoder()
    )


def mean_vectors(embedding, tokens):
    mask = (tokens > 0).astype(np.float64)
    total = (np.float64(embedding)[tokens] * mask[..., None]).sum(axis=-2)
    return total / mask.sum(axis=-1)[..., None]


def one_step(tiny, space, method, num_chunks=1):
    problem = method.bind(space, batch_size=BATCH, seed=SEED, num_chunks=num_chunks)
    run = update.make_update(problem.loss, optax.sgd(1.0), num_chunks=num_chunks)
    batch = problem.make_batch(0)
    state = update.init_state(tiny.init_params(space), optax.sgd(1.0))
    with tiny.quick_compilation():
        state, metrics = run(state, batch, (), jax.random.key(0))
    return jax.device_get((metrics, batch, state.params))


@pytest.mark.parametrize(("num_devices", "num_chunks"), [(1, 4), (8, 1)])
def test_the_loss_equals_a_plain_twin(
    tiny, tiny_evidence, method, num_devices, num_chunks
):
    space = make_space(tiny, tiny_evidence, num_devices)
    metrics, batch, _ = one_step(tiny, space, method, num_chunks)
    params = jax.device_get(tiny.init_params(space))
    queries = mean_vectors(params["query"]["embedding"], batch["query_tokens"])
    passages = mean_vectors(params["passage"]["embedding"], batch["passage_tokens"])
    losses, agree = [], []
    for query, of_query, scores, where in zip(
        queries, passages, batch["scores"], batch["where"], strict=True
    ):
        student = (of_query[where] @ query) / np.sqrt(tiny.WIDTH)
        wanted = np.float64(scores[where]) * 0.5
        log_p, log_q = (one - np.log(np.exp(one).sum()) for one in (wanted, student))
        losses.append((np.exp(log_p) * (log_p - log_q)).sum())
        agree.append(wanted.argmax() == student.argmax())
    assert batch["where"].sum(axis=1).tolist() != [3] * BATCH
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["top_1_agreement"], np.mean(agree), rtol=1e-6)


def test_the_retriever_learns_to_prefer_as_the_scores_do(tiny, tiny_evidence, method):
    space = make_space(tiny, tiny_evidence)
    problem = method.bind(space, batch_size=16, seed=SEED)
    optimizer = optax.adam(0.05)
    state = update.init_state(tiny.init_params(space), optimizer)
    seen = []
    loop.run_steps(
        loop.RunState(state),
        problem,
        update.make_update(problem.loss, optimizer),
        train_steps=60,
        key=jax.random.key(0),
        observers=[lambda step, metrics: seen.append(jax.device_get(metrics))],
    )
    assert seen[0]["top_1_agreement"] < 0.9
    assert seen[-1]["top_1_agreement"] == 1
    assert seen[-1]["loss"] < 0.02 < seen[0]["loss"]


def test_dropout_changes_the_loss(tiny, tiny_evidence, method):
    space = make_space(tiny, tiny_evidence)
    batch = method.bind(space, batch_size=BATCH, seed=SEED).make_batch(0)
    params = tiny.init_params(space)

    def loss(dropout):
        chosen = dataclasses.replace(method, dropout=dropout)
        run = jax.jit(functools.partial(chosen.loss, space.encoder))
        with tiny.quick_compilation():
            return float(run(params, batch, jax.random.key(0))[0])

    assert abs(loss(False) - loss(True)) > 1e-4


def test_passages_are_drawn_anew_each_time():
    empty = make_token_table([], [])
    rows = np.array([[4, 5, 6, 7], [8, 9, -1, -1]], np.int32)
    table = RankedTable(empty, empty, rows, np.where(rows < 0, -np.inf, rows / 2), ())
    questions = np.array([1, 0, 0])
    whole = draw_scored(table, questions, None, (0, 0))
    np.testing.assert_array_equal(whole["rows"], rows[questions])
    np.testing.assert_array_equal(whole["scores"][0], [4, 4.5, 0, 0])
    np.testing.assert_array_equal(whole["where"][0], [True, True, False, False])
    seen = set()
    for step in range(20):
        drawn = draw_scored(table, questions, 3, (0, step))
        again = draw_scored(table, questions, 3, (0, step))
        np.testing.assert_array_equal(drawn["rows"], again["rows"])
        assert sorted(drawn["rows"][0].tolist()) == [-1, 8, 9]
        there = drawn["where"]
        np.testing.assert_array_equal(
            drawn["scores"], np.where(there, drawn["rows"] / 2, 0)
        )
        assert len(set(drawn["rows"][1].tolist())) == 3
        seen.add(tuple(sorted(drawn["rows"][1].tolist())))
    assert len(seen) == 4


def test_it_reads_its_sets_and_says_what_does_not_fit(tiny, tiny_evidence, method):
    space = make_space(tiny, tiny_evidence)
    method.check(space, BATCH)
    assert method.describe(space) == "16 questions with scores of 16 passages"
    with pytest.raises(ConfigError, match="a batch takes 24"):
        method.check(space, 24)
    with pytest.raises(ConfigError, match="no train_sets"):
        Distill().check(space, BATCH)
    with pytest.raises(ConfigError, match="num_passages is 1"):
        Distill(num_passages=1)
    for name in ("temperature", "teacher_scale"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            Distill(**{name: 0})
