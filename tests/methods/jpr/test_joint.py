"""What a batch holds, losses against a plain twin, picks that no batch changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.example_files import write_examples
from art_jax.data.oracle import OracleRules
from art_jax.data.prompts import PassagePrompt
from art_jax.errors import ConfigError, DataError
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr import joint
from art_jax.methods.jpr.joint import IndepPr, Jpr
from art_jax.methods.ranked_table import RankedSet, build_ranked_table
from art_jax.models import fid
from art_jax.training import update

BATCH, SEED = 8, 3
RULES = OracleRules(k=3, num_passages=4, num_indexes=8)
SHARED = {
    "prompt": PassagePrompt(max_tokens=14),
    "index_tokens": tuple(range(3, 11)),
    "dropout": False,
}
JPR = Jpr(rules=RULES, **SHARED)
METHODS = {
    "jpr": JPR,
    "without negatives": dataclasses.replace(
        JPR, rules=dataclasses.replace(RULES, prefix="positives")
    ),
    "teacher forcing": dataclasses.replace(
        JPR,
        rules=dataclasses.replace(RULES, prefix="ranked"),
        objective="teacher_forcing",
    ),
    "whole vocabulary": dataclasses.replace(JPR, over_vocabulary=True),
    "indep_pr": IndepPr(rules=dataclasses.replace(RULES, positives="all"), **SHARED),
}


def one_batch(method, space, table, step=0):
    return method.bind(space, batch_size=BATCH, seed=SEED, table=table).make_batch(step)


def test_a_batch_is_what_was_drawn(make_space, table, tokenizer):
    batch = jax.device_get(one_batch(JPR, make_space(), table))
    assert batch["tokens"].shape == (BATCH, 4, 14)
    index = tokenizer.names.index("index:")
    for tokens, choices, where in zip(
        batch["tokens"], batch["choices"], batch["where"], strict=True
    ):
        for row, choice, is_there in zip(tokens, choices, where, strict=True):
            # The index that the encoder reads is the token that the decoder says.
            if is_there:
                assert row[row.tolist().index(index) + 1] == choice
            else:
                assert not row.any()
        assert len(set(choices.tolist())) == 4
        assert set(choices.tolist()) <= set(range(3, 11))
    assert batch["is_positive"].any(axis=1).all()
    assert not (batch["is_positive"] & ~batch["where"]).any()


def test_batches_are_of_seed_and_step_alone(make_space, table):
    first, again, next_one = (
        jax.device_get(one_batch(JPR, make_space(), table, step)) for step in (5, 5, 6)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert (first["choices"] != next_one["choices"]).any()


def test_all_passages_of_a_ranking_may_be_read(make_space, table):
    rules = dataclasses.replace(RULES, num_passages=None)
    batch = one_batch(dataclasses.replace(JPR, rules=rules), make_space(), table)
    assert batch["tokens"].shape == (BATCH, 6, 14)
    wanted = dataclasses.replace(RULES, num_passages=None, num_indexes=5)
    with pytest.raises(ConfigError, match="rankings of 6 passages"):
        one_batch(dataclasses.replace(JPR, rules=wanted), make_space(), table)


@functools.partial(jax.jit, static_argnums=0)
def read(config, params, tokens, inputs):
    encoded, mask = fid.encode(params, config, tokens)
    return fid.decode(params, config, encoded, mask, inputs)


def plain_loss(method, config, params, batch):
    """Question by question and step by step, in plain Python."""
    losses = []
    for place in range(BATCH):
        tokens = batch["tokens"][place, None]
        choices, where = batch["choices"][place], batch["where"][place]
        there = np.flatnonzero(where).tolist()
        positives = set(np.flatnonzero(batch["is_positive"][place]).tolist())
        prefix = batch["prefix"][place].tolist()
        if method.objective == "independent":
            prefix = prefix[:1]
        inputs = [0] + [int(choices[pick]) if pick >= 0 else 0 for pick in prefix[:-1]]
        logits = np.float64(read(config, params, tokens, jnp.array([inputs]))[0])
        total, picked = 0.0, set()
        for step, pick in enumerate(prefix):
            pool = (
                logits[step] if method.over_vocabulary else logits[step][choices[there]]
            )
            nats = np.log(np.exp(pool).sum()) - logits[step][choices]
            if method.objective == "teacher_forcing":
                total += nats[pick] if pick >= 0 else 0.0
            else:
                total += sum(nats[one] for one in positives - picked)
            picked.add(pick)
        losses.append(total)
    return np.mean(losses)


@pytest.mark.parametrize("name", METHODS)
def test_losses_equal_a_plain_twin(tiny, make_space, table, params, name):
    method, space = METHODS[name], make_space()
    batch = one_batch(method, space, table)
    with tiny.quick_compilation():
        loss, metrics = jax.jit(functools.partial(method.loss, space.config))(
            params, batch, jax.random.key(0)
        )
    want = plain_loss(method, space.config, params, jax.device_get(batch))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert 0 <= float(metrics["first_pick_accuracy"]) <= 1


def one_step(tiny, method, space, table, params, num_chunks=1):
    """Returns the loss, and the weights after a step of plain descent."""
    problem = method.bind(
        space, batch_size=BATCH, seed=SEED, table=table, num_chunks=num_chunks
    )
    optimizer = optax.sgd(0.1)
    step = update.make_update(problem.loss, optimizer, num_chunks=num_chunks)
    state = update.init_state(jax.tree.map(jnp.array, params), optimizer)
    with tiny.quick_compilation():
        state, metrics = step(state, problem.make_batch(0), (), jax.random.key(0))
    return float(metrics["loss"]), jax.device_get(state.params)


@pytest.fixture(scope="module")
def wanted_step(tiny, make_space, table, params):
    return one_step(tiny, JPR, make_space(), table, params)


def assert_steps_agree(found, want):
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found[1],
        want[1],
    )


@pytest.mark.parametrize("num_devices", [2, 8])
def test_any_number_of_devices_learns_the_same(
    tiny, make_space, table, params, wanted_step, num_devices
):
    space = make_space(partitioning.make_mesh(num_devices))
    assert_steps_agree(one_step(tiny, JPR, space, table, params), wanted_step)


def test_chunks_and_passages_at_once_change_nothing(
    tiny, make_space, table, params, wanted_step
):
    method = dataclasses.replace(JPR, passages_at_once=3)
    found = one_step(tiny, method, make_space(), table, params, num_chunks=2)
    assert_steps_agree(found, wanted_step)


def test_dropout_is_of_the_steps_key(make_space, table, params):
    space = make_space()
    config = dataclasses.replace(space.config, dropout_rate=0.5)
    batch = one_batch(JPR, space, table)

    @jax.jit
    def loss(key):
        method = dataclasses.replace(JPR, dropout=True)
        return method.loss(config, params, batch, key)[0]

    one, same, other = (float(loss(jax.random.key(seed))) for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("rules", [None, TreeRules(beta=0.5)], ids=["sequence", "tree"])
def test_picks_are_places_in_a_ranking_whatever_batch_and_devices(
    tiny, make_space, table, params, rules
):
    def pick(batch_size, num_devices=1, **more):
        space = make_space(partitioning.make_mesh(num_devices))
        with tiny.quick_compilation():
            return JPR.pick(
                params, space, table, rules=rules, batch_size=batch_size, **more
            )

    space, before = make_space(), joint._read_and_pick._cache_size()
    picks = pick(8)
    assert picks.choices.shape == (20, 3)
    for choices, row in zip(picks.choices, table.rows, strict=True):
        assert len(set(choices.tolist())) == 3
        assert (row[choices] >= 0).all()
    first = JPR.first_log_likelihoods(params, space, table)
    np.testing.assert_array_equal(picks.choices[:, 0], first.argmax(axis=1))
    others = pick(20)
    np.testing.assert_array_equal(others.choices, picks.choices)
    np.testing.assert_allclose(others.scores, picks.scores, rtol=1e-4)
    # Other indexes, other likelihoods: nothing was trained.
    assert (pick(8, seed=1).choices != picks.choices).any()
    # Compiled once for batches of 8 and once for those of 20.
    assert joint._read_and_pick._cache_size() == before + 2
    split = pick(8, num_devices=8)
    np.testing.assert_array_equal(split.choices, picks.choices)
    np.testing.assert_allclose(split.scores, picks.scores, rtol=1e-4)


def test_likelihoods_of_the_first_pick_add_up_to_one(make_space, table, params, mesh):
    method = IndepPr(rules=RULES, **SHARED)
    found = method.first_log_likelihoods(params, make_space(mesh), table)
    on_one = method.first_log_likelihoods(params, make_space(), table)
    np.testing.assert_allclose(found, on_one, rtol=1e-4)
    assert found.shape == table.rows.shape
    np.testing.assert_array_equal(found == -np.inf, table.rows < 0)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


def test_picks_come_first_in_a_new_order():
    scores = joint.scores_of_picks(np.array([2, 0, -1]), 5)
    assert np.argsort(-scores).tolist() == [2, 0, 1, 3, 4]


def without_answers(one):
    question = dataclasses.replace(one.question, answers=("kiwi",), answer_groups=())
    return dataclasses.replace(one, question=question)


def test_it_reads_its_sets(make_space, rankings, tmp_path):
    path = tmp_path / "ranked.json"
    rankings = [without_answers(rankings[0]), *rankings[1:]]
    write_examples(path, rankings, "dpr-results")
    method = dataclasses.replace(JPR, train_sets=[RankedSet(path=str(path))])
    space = make_space()
    method.check(space, BATCH)
    assert method.describe(space).startswith("19 ranked questions with")
    assert "(1 without an answer" in method.describe(space)
    problem = method.bind(space, batch_size=BATCH, seed=SEED)
    assert problem.make_batch(0)["tokens"].shape == (BATCH, 4, 14)
    with pytest.raises(ConfigError, match="a batch takes 80 examples"):
        method.check(space, 80)


def test_what_does_not_fit_is_said(make_space, rankings, tokenizer):
    change = dataclasses.replace
    with pytest.raises(ConfigError, match="objective is 'best'"):
        change(JPR, objective="best")
    with pytest.raises(ConfigError, match="go together"):
        change(JPR, objective="teacher_forcing")
    with pytest.raises(ConfigError, match="has no {i}"):
        change(JPR, prompt=PassagePrompt("{q} {c}"))
    with pytest.raises(ConfigError, match="7 index_tokens for 8"):
        change(JPR, index_tokens=range(3, 10))
    with pytest.raises(ConfigError, match="no train_sets"):
        JPR.check(make_space(), BATCH)
    with pytest.raises(ConfigError, match="index_tokens are 100 different tokens"):
        Jpr().bind(make_space(), batch_size=BATCH, seed=SEED)
    hopeless = [without_answers(one) for one in rankings]
    with pytest.raises(DataError, match="no passage holds an answer"):
        one_batch(JPR, make_space(), build_ranked_table(hopeless, tokenizer))
