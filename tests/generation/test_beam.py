import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.generation import beam
from art_jax.generation.beam import BeamRules, transformers_rules

EOS, PAD = 2, 9
STATES = 23


def step(tables, state, tokens):
    """A model of whole histories: the next logits are of a hash of all tokens."""
    rows_each = len(tokens) // len(tables)
    state = (state * 5 + tokens + 1) % STATES
    question = jnp.arange(len(tokens)) // rows_each
    return tables[question, state], state


@functools.partial(jax.jit, static_argnames=("rules", "max_tokens", "allowed"))
def search(tables, rules, max_tokens, allowed=None):
    questions = len(tables)
    return beam.search(
        functools.partial(step, tables),
        jnp.zeros(questions, jnp.int32),
        jnp.zeros(questions, jnp.int32),
        rules,
        max_tokens=max_tokens,
        eos_id=EOS,
        pad_id=PAD,
        allowed=allowed,
    )


def log_likelihood(table, tokens):
    state, last, total = 0, 0, 0.0
    for token in tokens:
        state = (state * 5 + last + 1) % STATES
        total += table[state][token] - np.log(np.exp(table[state]).sum())
        last = token
    return total


def penalty(rules, length):
    base = (5 + length) / 6 if rules.penalty == "t5x" else length
    return base**rules.alpha


def exhaustive(table, rules, max_tokens, vocab=3):
    """Every sequence there is, best first: (score, tokens)."""
    found = []
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(vocab), repeat=length):
            if EOS in tokens[:-1]:
                continue
            is_cut = length == max_tokens and rules.keep_cut
            if tokens[-1] == EOS or is_cut:
                score = log_likelihood(table, tokens) / penalty(rules, length)
                found.append((score, tokens))
    return sorted(found, reverse=True)


def plain(table, rules, max_tokens):
    """Beam search in plain Python, by the definitions; (score, tokens), best first."""
    live, finished = [(0.0, ())], []
    for length in range(1, max_tokens + 1):
        grown = []
        for _, prefix in live:
            for token in range(table.shape[1]):
                tokens = (*prefix, token)
                grown.append((log_likelihood(table, tokens), tokens))
        grown = sorted(grown, reverse=True)[: 2 * rules.beams]
        for rank, (total, tokens) in enumerate(grown):
            ends = tokens[-1] == EOS
            ends |= rules.keep_cut and length == max_tokens and rank < rules.beams
            if ends and not (rules.finish_among_beams and rank >= rules.beams):
                finished.append((total / penalty(rules, length), tokens))
        finished = sorted(finished, reverse=True)[: rules.beams]
        live = [pair for pair in grown if pair[1][-1] != EOS][: rules.beams]
        if len(finished) == rules.beams:
            best, worst = live[0][0], finished[-1][0]
            hopes = {
                "full": [-np.inf],
                "likely": [best / penalty(rules, length)],
                "proven": [
                    best / penalty(rules, n) for n in range(length + 1, max_tokens + 1)
                ],
            }[rules.stop]
            if worst >= max(hopes, default=-np.inf):
                break
    if not finished:
        finished = [
            (total / penalty(rules, max_tokens), tokens) for total, tokens in live
        ]
    return finished


def as_arrays(found, rules, max_tokens):
    tokens = np.full((rules.beams, max_tokens), PAD)
    scores = np.full(rules.beams, -np.inf)
    for place, (score, sequence) in enumerate(found[: rules.beams]):
        tokens[place, : len(sequence)] = sequence
        scores[place] = score
    return tokens, scores


def assert_found(found, wanted, rules, max_tokens):
    for place, want in enumerate(wanted):
        tokens, scores = as_arrays(want, rules, max_tokens)
        np.testing.assert_allclose(found.scores[place], scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.tokens[place], tokens)


RULES = {
    "t5x": BeamRules(3),
    "longer": BeamRules(3, alpha=2.0),
    "shorter": BeamRules(3, alpha=-1.0),
    "transformers": transformers_rules(3),
    "transformers full": transformers_rules(3, 0.0, True),
    "transformers proven": transformers_rules(3, 1.5, "never"),
    "transformers shorter": transformers_rules(3, -1.0, "never"),
}


@pytest.mark.parametrize("name", RULES)
def test_it_is_beam_search_by_its_definition(name):
    rules = RULES[name]
    rng = np.random.default_rng(0)
    tables = (2 * rng.normal(size=(40, STATES, 4))).astype(np.float32)
    found = search(tables, rules, 5)
    wanted = [plain(table, rules, 5) for table in tables]
    assert_found(found, wanted, rules, 5)


def test_a_question_depends_on_no_other():
    # Those that stop at once go on while others do; nothing more may change.
    rules = RULES["transformers full"]
    rng = np.random.default_rng(0)
    # As many as above, for which the search is compiled.
    tables = (2 * rng.normal(size=(40, STATES, 4))).astype(np.float32)
    together = search(tables, rules, 5)
    for place in range(8):
        alone = search(tables[place : place + 1], rules, 5)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[place])
        np.testing.assert_array_equal(alone.scores[0], together.scores[place])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["t5x", "transformers"]))
def test_with_room_for_every_prefix_it_finds_the_best_of_all(seed, form):
    # 3 * 3 prefixes at most go on after two of three tokens; all 27 fit.
    rules = BeamRules(27, alpha=1.3)
    if form == "transformers":
        rules = transformers_rules(27, 1.3, "never")
    tables = np.random.default_rng(seed).normal(size=(2, STATES, 3)).astype(np.float32)
    found = search(tables, rules, 3)
    wanted = [exhaustive(table, rules, 3) for table in tables]
    assert_found(found, wanted, rules, 3)


def test_log_likelihoods_are_the_scores_without_the_penalty():
    rules = BeamRules(2, alpha=1.0)
    tables = np.random.default_rng(3).normal(size=(3, STATES, 4)).astype(np.float32)
    found = search(tables, rules, 5)
    for question in range(3):
        for place in range(2):
            tokens = [int(t) for t in found.tokens[question, place] if t != PAD]
            want = log_likelihood(tables[question], tokens)
            got = found.log_likelihoods[question, place]
            np.testing.assert_allclose(got, want, rtol=1e-5)
            score = found.scores[question, place]
            np.testing.assert_allclose(score, want * 6 / (5 + len(tokens)), rtol=1e-5)


def never_ending(tokens, num_tokens):
    return jnp.arange(4)[None] != EOS


def test_where_nothing_ends_the_cut_ones_are_given():
    tables = np.random.default_rng(4).normal(size=(5, STATES, 4)).astype(np.float32)
    found = search(tables, BeamRules(3), 4, allowed=never_ending)
    assert (np.asarray(found.tokens) != EOS).all()
    assert (np.asarray(found.tokens) != PAD).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    want = found.log_likelihoods / ((5 + 4) / 6) ** 0.6
    np.testing.assert_allclose(found.scores, want, rtol=1e-6)


def end_at_once(tokens, num_tokens):
    return jnp.arange(4)[None] == EOS


def nothing(tokens, num_tokens):
    return jnp.zeros((1, 4), bool)


@pytest.mark.parametrize(
    ("stop", "keep_cut"), [("proven", False), ("likely", True), ("full", False)]
)
def test_sequences_that_do_not_exist_have_no_score(stop, keep_cut):
    rules = BeamRules(3, stop=stop, keep_cut=keep_cut)
    tables = np.random.default_rng(5).normal(size=(2, STATES, 4)).astype(np.float32)
    found = search(tables, rules, 4, allowed=end_at_once)
    np.testing.assert_array_equal(
        found.tokens, [[[EOS, PAD, PAD, PAD], [PAD] * 4, [PAD] * 4]] * 2
    )
    assert np.isfinite(found.scores[:, 0]).all()
    assert (np.asarray(found.scores[:, 1:]) == -np.inf).all()
    none = search(tables, rules, 4, allowed=nothing)
    assert (np.asarray(none.tokens) == PAD).all()
    assert (np.asarray(none.scores) == -np.inf).all()


@pytest.mark.parametrize(
    ("stop", "allowed"),
    [("proven", None), ("proven", nothing), ("full", nothing)],
    ids=["all end", "all are dead", "all are dead and none full"],
)
def test_the_loop_ends_when_nothing_better_can_come(stop, allowed):
    tables = np.zeros((2, STATES, 4), np.float32)
    tables[..., EOS] = 20.0
    called = []

    def counted(state, tokens):
        jax.debug.callback(lambda: called.append(1))
        return step(jnp.asarray(tables), state, tokens)

    zeros = jnp.zeros(2, jnp.int32)
    beam.search(
        counted,
        zeros,
        zeros,
        BeamRules(1, stop=stop),
        max_tokens=50,
        eos_id=EOS,
        allowed=allowed,
    )
    jax.effects_barrier()
    assert len(called) == 1


@pytest.mark.parametrize("length", [12, 900])
@pytest.mark.parametrize("count", [1, 3])
def test_the_largest_are_those_of_top_k(length, count):
    # Few values, so that ties are common, and rows of hardly anything.
    values = np.random.default_rng(0).integers(-3, 1, (8, length)).astype(np.float32)
    values[values == -3] = -np.inf
    values[3] = 0
    values[3, length - 3] = 1  # Its block comes first, and what equals the rest not.
    values[4] = np.where(np.arange(length) % 11 == 5, values[4], -np.inf)
    values[5] = -np.inf
    values[6, : length - 1] = -np.inf
    best, places = jax.jit(beam._top, static_argnums=1)(values, count)
    want_best, want_places = jax.lax.top_k(values, count)
    np.testing.assert_array_equal(best, want_best)
    np.testing.assert_array_equal(
        np.where(np.isfinite(best), places, 0),
        np.where(np.isfinite(best), want_places, 0),
    )
    assert (np.asarray(places) < length).all()


def test_no_device_is_given_questions_of_another():
    values = np.zeros((8, 900), np.float32)
    batch = partitioning.batch_sharding(partitioning.make_mesh(8))
    top = jax.jit(beam._top, static_argnums=1)
    program = top.lower(jax.device_put(values, batch), 3).compile()
    assert "all-gather" not in program.as_text()


def test_the_penalties_of_both_tools():
    rules = BeamRules(alpha=1.5)
    got = [float(beam.length_penalty(rules, n)) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(got, [1, 1.2601, 1.5396, 1.8371], atol=1e-4)
    power = dataclasses.replace(rules, penalty="power")
    np.testing.assert_allclose(beam.length_penalty(power, 4), 8.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BeamRules(0), "beams is 0"),
        (lambda: BeamRules(penalty="wu"), "penalty is 'wu': it must be one of t5x"),
        (lambda: BeamRules(stop="soon"), "stop is 'soon'.*proven, likely, full"),
        (lambda: transformers_rules(4, early_stopping="soon"), "early_stopping"),
    ],
)
def test_rules_that_do_not_exist_are_an_error(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
