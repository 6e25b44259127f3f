import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.errors import ConfigError
from art_jax.generation import tree
from art_jax.generation.tree import TreeRules

STATES, VOCAB, QUESTIONS = 4093, 9, 6


def step(table, state, tokens):
    """A model of whole histories: the next logits are of a hash of all tokens."""
    state = (state * 31 + tokens + 1) % STATES
    return table[state], state


def model(table, questions):
    return functools.partial(step, table), jnp.arange(questions, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames=("rules", "k", "over_vocabulary"))
def pick_tree(table, choices, where, rules, k, over_vocabulary=False):
    questions = len(choices)
    return tree.pick_tree(
        *model(table, questions),
        jnp.zeros(questions, jnp.int32),
        choices,
        where,
        rules,
        k=k,
        over_vocabulary=over_vocabulary,
    )


@functools.partial(jax.jit, static_argnames="k")
def pick_sequence(table, choices, where, k):
    questions = len(choices)
    start = jnp.zeros(questions, jnp.int32)
    return tree.pick_sequence(*model(table, questions), start, choices, where, k=k)


def log_p(table, question, tokens, choices, where, over_vocabulary=False):
    """Of each choice behind some tokens: {choice: log-likelihood}, from the start."""
    state = question
    for token in (0, *tokens):
        state = (state * 31 + token + 1) % STATES
    logits = table[state].astype(np.float64)
    there = np.flatnonzero(where)
    if not len(there):
        return {}
    pool = logits if over_vocabulary else logits[choices[there]]
    total = np.log(np.exp(pool).sum())
    return {int(choice): logits[choices[choice]] - total for choice in there}


def plain_tree(predict, k, weigh, max_nodes):
    """Algorithm 1 in plain Python: (choices in order, depth, nodes)."""
    found, nodes, looked_at = [], [], [()]
    available = len(predict(()))
    while len(found) < min(k, available):
        is_full = len(looked_at) >= max_nodes
        best = None
        for parent in looked_at:
            for choice, value in predict(parent).items():
                child = (*parent, choice)
                if child in nodes or choice in parent:
                    continue
                if is_full and choice in found:
                    continue
                worth = weigh(len(child)) * value
                if best is None or worth > best[0] + 1e-9:
                    best = worth, child
        _, child = best
        if child[-1] not in found:
            found.append(child[-1])
        nodes.append(child)
        if not is_full:
            looked_at.append(child)
    return found, max((len(node) for node in nodes), default=0), len(nodes)


def made_world(seed, num_choices):
    rng = np.random.default_rng(seed)
    table = (2 * rng.normal(size=(STATES, VOCAB))).astype(np.float32)
    choices = np.stack(
        [rng.permutation(VOCAB)[:num_choices] for _ in range(QUESTIONS)]
    ).astype(np.int32)
    where = rng.random((QUESTIONS, num_choices)) < 0.8
    return table, choices, where


def predictor(table, question, choices, where, over_vocabulary=False):
    @functools.cache
    def predict(path):
        tokens = [int(choices[question][choice]) for choice in path]
        return log_p(
            table, question, tokens, choices[question], where[question], over_vocabulary
        )

    return predict


def assert_tree_is_plain(world, rules, k, over_vocabulary=False):
    table, choices, where = world
    found = pick_tree(table, choices, where, rules, k, over_vocabulary)
    sign = {"multiply": 1, "divide": -1}[rules.length_penalty]

    def weigh(depth):
        return ((5 + depth) / 6) ** (sign * rules.beta)

    for question in range(len(choices)):
        predict = predictor(table, question, choices, where, over_vocabulary)
        want, depth, nodes = plain_tree(predict, k, weigh, rules.max_nodes or 4 * k)
        got = np.asarray(found.choices[question])
        assert got.tolist() == want + [-1] * (k - len(want))
        assert (int(found.depth[question]), int(found.nodes[question])) == (
            depth,
            nodes,
        )
    return found


# Shapes are few, since each compiles; what is random are models, choices and gaps.
@pytest.mark.parametrize(
    ("k", "num_choices", "rules"),
    [
        (1, 1, TreeRules()),
        (3, 5, TreeRules(beta=1.5)),
        (5, 5, TreeRules(beta=0.0)),
        (4, 8, TreeRules(beta=3.0)),
        (4, 8, TreeRules(beta=2.0, length_penalty="divide")),
        (6, 7, TreeRules(beta=6.0, length_penalty="divide", max_nodes=4)),
        (5, 8, TreeRules(beta=1.0, max_nodes=1)),
    ],
)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_is_algorithm_1(k, num_choices, rules, seed):
    assert_tree_is_plain(made_world(seed, num_choices), rules, k)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_likelihoods_may_be_shares_of_the_vocabulary(seed):
    assert_tree_is_plain(made_world(seed, 6), TreeRules(), 4, over_vocabulary=True)


def test_branches_that_pick_the_same_add_nodes_and_no_choice():
    found = assert_tree_is_plain(made_world(1, 5), TreeRules(beta=0.0), 5)
    assert (found.nodes > (found.choices >= 0).sum(axis=1)).any()


def table_step(log_likelihoods):
    """A model of two histories: nothing picked, and choice 0 picked first."""

    def step(state, tokens):
        state = jnp.where(state < 0, 0, jnp.where(tokens == 0, 1, 2))
        return jnp.asarray(log_likelihoods, jnp.float32)[state], state

    return step, jnp.array([-1], jnp.int32)


@pytest.mark.parametrize(
    ("rules", "depth"),
    [
        (TreeRules(beta=1.5), 1),
        # a then b costs 1.0498 / 1.26 = .833, b alone .7985.
        (TreeRules(beta=1.5, length_penalty="divide"), 1),
        # Divided by more, the deeper b costs 1.0498 / 1.47 = .714.
        (TreeRules(beta=2.5, length_penalty="divide"), 2),
    ],
)
def test_the_worked_example(rules, depth):
    # P(()): a = .5, b = .45, c = .05; P((a)): a = .35, b = .35, c = .30. Multiplied,
    # b costs .7985 beside a and 1.0498 * 1.26 = 1.3228 behind it.
    logits = np.log([[0.5, 0.45, 0.05], [0.35, 0.35, 0.30], [1 / 3] * 3])
    found = tree.pick_tree(
        *table_step(logits),
        jnp.array([0], jnp.int32),
        jnp.arange(3, dtype=jnp.int32)[None],
        jnp.ones((1, 3), bool),
        rules,
        k=2,
    )
    assert found.choices.tolist() == [[0, 1]]
    assert (found.depth.tolist(), found.nodes.tolist()) == ([depth], [2])
    np.testing.assert_allclose(found.scores[0, 0], np.log(0.5), rtol=1e-6)
    if rules.length_penalty == "multiply":
        np.testing.assert_allclose(found.scores[0, 1], np.log(0.45), rtol=1e-6)


def test_what_the_model_rules_out_is_not_picked():
    # Two choices are left, in two branches of two nodes; the third is impossible.
    logits = [[1.0, 0.5, -np.inf]] * 3
    found = tree.pick_tree(
        *table_step(logits),
        jnp.array([0], jnp.int32),
        jnp.arange(3, dtype=jnp.int32)[None],
        jnp.ones((1, 3), bool),
        TreeRules(),
        k=3,
    )
    assert found.choices.tolist() == [[0, 1, -1]]
    assert found.scores[0, 2] == -np.inf
    assert (found.nodes.tolist(), found.depth.tolist()) == ([4], [2])


def test_length_penalties_are_the_published_ones():
    table = {
        1.5: (1, 1.2601, 1.5396, 1.8371),
        2.0: (1, 1.3611, 1.7778, 2.25),
        2.5: (1, 1.4702, 2.0528, 2.7557),
        3.0: (1, 1.588, 2.3704, 3.375),
    }
    for beta, factors in table.items():
        found = TreeRules(beta=beta).factors(4)
        np.testing.assert_allclose(found, factors, atol=6e-5)
        divided = TreeRules(beta=beta, length_penalty="divide").factors(4)
        np.testing.assert_allclose(divided * found, 1, rtol=1e-6)


@pytest.mark.parametrize(("k", "num_choices"), [(1, 1), (3, 8), (6, 6)])
def test_a_sequence_takes_the_likeliest_left_each_time(k, num_choices):
    table, choices, where = made_world(k, num_choices)
    found = pick_sequence(table, choices, where, k)
    for question in range(QUESTIONS):
        predict = predictor(table, question, choices, where)
        want = ()
        for _ in range(min(k, len(predict(())))):
            left = {c: v for c, v in predict(want).items() if c not in want}
            want = (*want, max(left, key=left.get))
        got = found.choices[question].tolist()
        assert got == [*want] + [-1] * (k - len(want))
        assert found.depth[question] == len(want)


def test_the_model_is_called_no_more_often_than_a_tree_has_nodes():
    table, choices, where = made_world(3, 6)
    calls = []

    def counted(state, tokens):
        jax.debug.callback(lambda: calls.append(1))
        return step(table, state, tokens)

    table = jnp.asarray(table)
    found = jax.jit(
        lambda: tree.pick_tree(
            counted,
            jnp.arange(QUESTIONS, dtype=jnp.int32),
            jnp.zeros(QUESTIONS, jnp.int32),
            jnp.asarray(choices),
            jnp.asarray(where),
            TreeRules(beta=2.0, length_penalty="divide"),
            k=4,
        )
    )()
    jax.effects_barrier()
    assert len(calls) == found.nodes.max()


def test_rules_say_what_is_out_of_range():
    with pytest.raises(ConfigError, match="length_penalty is 'add'"):
        TreeRules(length_penalty="add")
    with pytest.raises(ConfigError, match="max_nodes is 0"):
        TreeRules(max_nodes=0)
