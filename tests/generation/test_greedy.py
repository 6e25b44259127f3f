import functools

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.generation import greedy

EOS, PAD = 2, 7


def step(tables, state, tokens):
    """A model of whole histories: the next logits are of a hash of all tokens."""
    state = (state * 5 + tokens + 1) % tables.shape[1]
    return tables[jnp.arange(len(tokens)), state], state


@functools.partial(jax.jit, static_argnames=("max_tokens", "allowed"))
def decode(tables, max_tokens, allowed=None):
    rows = len(tables)
    return greedy.decode(
        functools.partial(step, tables),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        max_tokens=max_tokens,
        eos_id=EOS,
        pad_id=PAD,
        allowed=allowed,
    )


def by_hand(table, max_tokens, forbidden=()):
    """The same in plain Python."""
    state, last, tokens, total = 0, 0, [], 0.0
    while len(tokens) < max_tokens and EOS not in tokens:
        state = (state * 5 + last + 1) % len(table)
        scores = table[state] - np.log(np.exp(table[state]).sum())
        scores = scores.copy()
        scores[list(forbidden)] = -np.inf
        last = int(np.argmax(scores))
        tokens.append(last)
        total += scores[last]
    return tokens + [PAD] * (max_tokens - len(tokens)), total


def random_tables(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 17, 4)).astype(np.float32)


def test_each_row_takes_its_likeliest_token_until_it_ends():
    tables = random_tables(9)
    found = decode(tables, max_tokens=6)
    want = [by_hand(table, 6) for table in tables]
    np.testing.assert_array_equal(found.tokens, [tokens for tokens, _ in want])
    np.testing.assert_allclose(found.scores, [total for _, total in want], rtol=1e-5)
    np.testing.assert_array_equal(found.log_likelihoods, found.scores)
    # Some end, some are cut: both ways are seen.
    assert 0 < sum(EOS in tokens for tokens, _ in want) < 9


def test_of_equally_likely_tokens_the_lowest_is_taken():
    found = decode(np.zeros((1, 17, 4), np.float32), max_tokens=2)
    np.testing.assert_array_equal(found.tokens, [[0, 0]])
    np.testing.assert_allclose(found.scores, [2 * np.log(0.25)], rtol=1e-6)


def no_threes(tokens, num_tokens):
    return jnp.arange(4)[None] != 3


def test_a_forbidden_token_is_never_taken():
    tables = random_tables(9, seed=1)
    found = decode(tables, max_tokens=6, allowed=no_threes)
    want = [by_hand(table, 6, forbidden=[3]) for table in tables]
    np.testing.assert_array_equal(found.tokens, [tokens for tokens, _ in want])
    assert any(3 in by_hand(table, 6)[0] for table in tables)


def one_then_nothing(tokens, num_tokens):
    return ((jnp.arange(4)[None] == 1) & (num_tokens == 0)) | (num_tokens > 1)


def test_a_row_that_nothing_may_follow_ends_without_a_score():
    found = decode(random_tables(2), max_tokens=6, allowed=one_then_nothing)
    np.testing.assert_array_equal(found.tokens, [[1, PAD, PAD, PAD, PAD, PAD]] * 2)
    assert (np.asarray(found.scores) == -np.inf).all()


def test_the_loop_ends_with_the_last_row():
    tables = np.zeros((2, 17, 4), np.float32)
    tables[..., EOS] = 5.0
    called = []

    def counted(state, tokens):
        jax.debug.callback(lambda: called.append(1))
        return step(jnp.asarray(tables), state, tokens)

    zeros = jnp.zeros(2, jnp.int32)
    found = greedy.decode(counted, zeros, zeros, max_tokens=50, eos_id=EOS)
    jax.effects_barrier()
    np.testing.assert_array_equal(found.tokens[:, :2], [[EOS, 0]] * 2)
    assert len(called) == 1
