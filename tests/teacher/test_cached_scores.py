"""Cached scores: what the teacher is asked, how often, and that numbers are its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.layouts import Layout
from art_jax.errors import ConfigError
from art_jax.index.refresh import refresh
from art_jax.methods.art import Art
from art_jax.methods.workspace import passage_side
from art_jax.teacher import cached_scores
from art_jax.teacher.score_cache import ScoreCache
from art_jax.training import loop, update

K, BATCH, SEED = 5, 8, 3


class Dictionary:
    """A cache in memory."""

    def __init__(self):
        self.scores, self.num_added = {}, 0

    def lookup(self, questions, rows):
        pairs = np.broadcast_arrays(questions[:, None], rows)
        found = [
            self.scores.get(pair, np.nan)
            for pair in zip(*(part.ravel().tolist() for part in pairs), strict=True)
        ]
        return np.array(found, np.float32).reshape(rows.shape)

    def add(self, questions, rows, scores):
        for question, some, values in zip(questions, rows, scores, strict=True):
            for row, value in zip(some, values, strict=True):
                self.scores[int(question), int(row)] = value
                self.num_added += 1


def test_only_pairs_that_are_not_known_are_asked_for_and_each_once():
    cache, asked = Dictionary(), []

    def score_pairs(questions, rows):
        asked.append(list(zip(questions.tolist(), rows.tolist(), strict=True)))
        return (10 * questions + rows).astype(np.float32)

    questions = np.array([4, 2])
    rows = np.array([[7, -1, 3], [3, 0, 7]], np.int32)
    for want in ([(4, 7), (4, 3), (2, 3), (2, 0), (2, 7)], None, [(2, 9)]):
        asked.clear()
        if want == [(2, 9)]:
            rows[1, 1] = 9
        scores = cached_scores.score_batch(cache, score_pairs, questions, rows)
        np.testing.assert_array_equal(
            scores, np.where(rows < 0, 0, 10 * questions[:, None] + rows)
        )
        assert scores.dtype == np.float32
        assert asked == ([want] if want else [])
    assert cache.num_added == 6


@pytest.mark.parametrize(
    ("pairs_a_call", "questions"), [(1, [1, 1, 1, 1]), (7, [2, 2]), (100, [4])]
)
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "not kept"])
def test_rankings_are_scored_by_whole_questions(
    is_kept, pairs_a_call, questions, tmp_path
):
    rows = np.array([[7, 3, -1], [3, -1, -1], [-1, -1, -1], [0, 1, 2]], np.int32)
    asked = []

    def score_pairs(questions, rows):
        asked.append(len(set(questions.tolist())))
        return (10 * questions + rows).astype(np.float32)

    cache = ScoreCache.open(tmp_path, {}) if is_kept else None
    scores = cached_scores.score_rankings(
        score_pairs, rows, pairs_a_call=pairs_a_call, cache=cache
    )
    want = np.where(rows < 0, 0, 10 * np.arange(4)[:, None] + rows)
    np.testing.assert_array_equal(next(scores), want[0])
    if is_kept:  # On disk before anything is given.
        assert ScoreCache.open(tmp_path, {}).lookup([0], rows[:1])[0, 0] == 7
    np.testing.assert_array_equal(list(scores), want[1:])
    # The third question, which has no passages, is never asked about.
    assert sum(asked) == 3
    assert len(asked) == len(questions) - (pairs_a_call == 1)
    if is_kept:
        again = cached_scores.score_rankings(
            None, rows, pairs_a_call=pairs_a_call, cache=cache
        )
        np.testing.assert_array_equal(list(again), want)


@dataclasses.dataclass(frozen=True)
class CountingTeacher:
    """Counts the pairs it scores; a score depends on its own pair alone."""

    scored: list = dataclasses.field(default_factory=list, hash=False, compare=False)
    name: str = "counting"

    def passage_layout(self, tokenizer):
        return Layout((), (), (), 12, 0)

    def question_rows(self, tokenizer, questions):
        return np.array([[len(text)] for text in questions], np.int32)

    def load(self, tokens, tokenizer, mesh):
        return {"weight": jnp.float32(-0.3)}

    def digest(self, tokenizer):
        return self.name

    def score(self, params, question_tokens, passage_tokens, passage_rows=None):
        jax.debug.callback(
            lambda rows: self.scored.append(int((np.asarray(rows) >= 0).sum())),
            passage_rows,
        )
        remainders = (passage_tokens.sum(axis=-1) * 7 + question_tokens) % 11
        return params["weight"] * remainders.astype(jnp.float32)


def train(tiny, space, art, directory, num_steps=10):
    """Returns parameters and metrics of two epochs with one table, dropout on."""
    problem = art.bind(space, batch_size=BATCH, seed=SEED, directory=directory)
    optimizer = optax.sgd(0.1)
    replicated = partitioning.replicated(space.mesh)
    state = jax.jit(
        lambda params: update.init_state(params, optimizer), out_shardings=replicated
    )(tiny.init_params(space))
    table = refresh(
        tiny.make_refresher(space),
        passage_side(tiny.init_params(space, 1)),
        step=0,
        generation=0,
    )
    metrics = []
    run = loop.run_steps(
        loop.RunState(state, table),
        problem,
        update.make_update(
            problem.loss,
            optimizer,
            prepare=problem.prepare,
            state_sharding=replicated,
        ),
        train_steps=num_steps,
        key=jax.random.key(1),
        observers=[lambda step, some: metrics.append(some)],
    )
    problem.flush()
    jax.effects_barrier()
    return jax.device_get((run.train.params, metrics))


@pytest.mark.parametrize(
    ("num_devices", "stream_tokens"),
    [(1, False), (2, True)],
    ids=["placed", "streamed"],
)
def test_scores_are_kept_and_change_no_number(
    tiny, tiny_evidence, tmp_path, num_devices, stream_tokens
):
    space = tiny.make_workspace(
        tiny_evidence,
        partitioning.make_mesh(num_devices),
        tiny.bag_encoder(),
        stream_tokens=stream_tokens,
    )
    # Without a rate of learning worth the name, an epoch finds what the last one did.
    teacher = CountingTeacher()
    art = Art(teacher, num_passages=K, dropout=False)
    want = train(tiny, space, art, None)
    assert sum(teacher.scored) == 10 * BATCH * K

    teacher = CountingTeacher()
    art = Art(teacher, num_passages=K, dropout=False, cache_scores=True)
    got = train(tiny, space, art, tmp_path)
    num_pairs = sum(teacher.scored)
    assert 40 * K <= num_pairs < 10 * BATCH * K
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want
    )
    # A run that goes on knows all of it.
    teacher.scored.clear()
    again = train(tiny, space, art, tmp_path)
    assert sum(teacher.scored) == 0
    tiny.assert_trees_equal(again, got)

    with pytest.raises(ConfigError, match="needs a directory"):
        art.bind(space, batch_size=BATCH, seed=SEED)
    other = Art(CountingTeacher(name="other"), num_passages=K, cache_scores=True)
    with pytest.raises(ConfigError):
        other.bind(space, batch_size=BATCH, seed=SEED, directory=tmp_path)
