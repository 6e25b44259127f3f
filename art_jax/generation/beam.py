"""Beam search: the best sequences of those that grow from the best prefixes."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from art_jax.errors import ConfigError
from art_jax.generation.steps import (
    AllowedFn,
    Decoded,
    State,
    StepFn,
    next_log_likelihoods,
)

# Neighbours of which the best is looked at first.
_BLOCK = 128

PENALTIES = ("t5x", "power")
STOPS = ("proven", "likely", "full")


@dataclasses.dataclass(frozen=True)
class BeamRules:
    """How beam search ranks, and when it stops; the default is T5X's way.

    A sequence's score is its log-likelihood over a penalty for its length n, its
    end-of-sequence token counted: the larger `alpha`, the longer the winners.

    Attributes:
        beams: W, prefixes followed for each question.
        alpha: of the penalty; 0: none.
        penalty: "t5x", ((5 + n) / 6) ** alpha, which is Wu et al.'s; "power",
            n ** alpha, which is transformers'.
        stop: a question is done when it has W finished sequences and
            "proven": no prefix can end in a score above theirs, whatever follows
                (T5X; transformers' early_stopping="never");
            "likely": none would if it ended as it is (transformers' False, and its
                default); for a positive `alpha` a longer one still might;
            "full": at once (transformers' True).
        finish_among_beams: a sequence may finish only if it is among the W best
            continuations (transformers), not among the 2 W (T5X).
        keep_cut: sequences without an end after the most tokens count like finished
            ones (transformers); False: only where a question has no finished one (T5X).

    Raises:
        ConfigError: a field is out of range.

    Source: Wu et al., arXiv:1609.08144, section 7; T5X's decoding.py; transformers
        5.23. Differs in: T5X gives cut sequences their log-likelihood for a score.
    """

    beams: int = 4
    alpha: float = 0.6
    penalty: str = "t5x"
    stop: str = "proven"
    finish_among_beams: bool = False
    keep_cut: bool = False

    def __post_init__(self):
        if self.beams < 1:
            raise ConfigError(
                f"BeamRules.beams is {self.beams}: it must be at least 1."
            )
        for name, allowed in (("penalty", PENALTIES), ("stop", STOPS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"BeamRules.{name} is {getattr(self, name)!r}: it must be one of "
                    f"{', '.join(allowed)}."
                )


def transformers_rules(
    beams: int, length_penalty: float = 1.0, early_stopping: bool | str = False
) -> BeamRules:
    """Returns the rules of transformers' `generate`, its names and defaults.

    Args:
        beams: its num_beams.
        length_penalty: its exponent.
        early_stopping: False, True or "never".

    Raises:
        ConfigError: `early_stopping` is none of these.
    """
    stops = {False: "likely", True: "full", "never": "proven"}
    if early_stopping not in stops:
        raise ConfigError(
            f"early_stopping is {early_stopping!r}: it must be False, True or 'never'."
        )
    return BeamRules(
        beams=beams,
        alpha=length_penalty,
        penalty="power",
        stop=stops[early_stopping],
        finish_among_beams=True,
        keep_cut=True,
    )


def length_penalty(rules: BeamRules, num_tokens: jax.Array | int) -> jax.Array:
    """Returns what divides the log-likelihood of so many tokens, float32."""
    length = jnp.asarray(num_tokens, jnp.float32)
    if rules.penalty == "t5x":
        length = (5.0 + length) / 6.0
    return length ** jnp.float32(rules.alpha)


@flax.struct.dataclass
class _Beams:
    """Sequences of each question, best first.

    tokens: [B, W, T] int32.
    scores: [B, W] float32; -inf where there is no sequence.
    totals: [B, W] float32, log-likelihoods.
    """

    tokens: jax.Array
    scores: jax.Array
    totals: jax.Array


@flax.struct.dataclass
class _Search:
    """What the loop carries.

    num_tokens: [] int32, decoded so far.
    state: the model's, of B * W rows.
    last: [B, W] int32, what it reads next.
    live: prefixes; their scores are their log-likelihoods.
    finished: the best finished sequences.
    is_done: [B] bool, what has finished is the result.
    """

    num_tokens: jax.Array
    state: State
    last: jax.Array
    live: _Beams
    finished: _Beams
    is_done: jax.Array


def search(
    step: StepFn,
    state: State,
    start_tokens: jax.Array,
    rules: BeamRules,
    *,
    max_tokens: int,
    eos_id: int,
    pad_id: int = 0,
    allowed: AllowedFn | None = None,
) -> Decoded:
    """Returns the best sequences of each question, best first.

    For use under jit, with shapes that do not depend on what is decoded: the loop ends
    when every question is done. Of equal continuations the one of the better prefix,
    then the lower token, comes first. A question's result depends on no other's.

    Args:
        step: the model; it is called with B * W rows, those of a question together.
        state: of B rows, before the first token; each is repeated for its beams.
        start_tokens: [B] int32, read first and no part of the result.
        rules: how to rank and when to stop.
        max_tokens: T, at least 1.
        eos_id: ends a sequence.
        pad_id: fills what follows.
        allowed: which tokens may come next, asked with B * W rows; None: all. The
            likelihood of those that may not is lost, not shared by the others.

    Returns:
        tokens [B, W, T], scores and log_likelihoods [B, W]. Where fewer sequences
        were found, scores of -inf and padding follow.
    """
    shape = len(start_tokens), rules.beams
    empty = _Beams(
        tokens=jnp.full((*shape, max_tokens), pad_id, jnp.int32),
        scores=jnp.full(shape, -jnp.inf),
        totals=jnp.full(shape, -jnp.inf),
    )
    # One prefix at first, and W - 1 that nothing grows from.
    zeros = jnp.where(jnp.arange(rules.beams)[None] == 0, 0.0, empty.scores)
    start = _Search(
        num_tokens=jnp.int32(0),
        state=jax.tree.map(lambda leaf: jnp.repeat(leaf, rules.beams, axis=0), state),
        last=jnp.repeat(start_tokens.astype(jnp.int32)[:, None], rules.beams, axis=1),
        live=_Beams(empty.tokens, zeros, zeros),
        finished=empty,
        is_done=jnp.zeros(shape[:1], bool),
    )

    def take_step(search: _Search) -> _Search:
        logits, state = step(search.state, search.last.reshape(-1))
        tokens = search.live.tokens.reshape(-1, max_tokens)
        gains = next_log_likelihoods(logits, allowed, tokens, search.num_tokens)
        candidates, parents = _grow(search, gains)
        is_end = candidates.tokens[:, :, search.num_tokens] == eos_id
        num_tokens = search.num_tokens + 1
        going_on = jnp.where(is_end, -jnp.inf, candidates.totals)
        live, places = _best(
            candidates.replace(scores=going_on, totals=going_on), rules.beams
        )
        parents = jnp.take_along_axis(parents, places, axis=1)
        finished = _with_finished(
            search, candidates, is_end, num_tokens, rules, max_tokens
        )
        return _Search(
            num_tokens=num_tokens,
            state=_gather_rows(state, parents),
            last=live.tokens[:, :, search.num_tokens],
            live=live,
            finished=finished,
            is_done=search.is_done
            | _nothing_to_gain(finished, live, num_tokens, rules, max_tokens),
        )

    def is_going_on(search: _Search) -> jax.Array:
        return (search.num_tokens < max_tokens) & ~jnp.all(search.is_done)

    end = jax.lax.while_loop(is_going_on, take_step, start)
    has_none = jnp.all(end.finished.scores == -jnp.inf, axis=1)[:, None]
    cut = end.live.totals / length_penalty(rules, end.num_tokens)
    found = _choose(has_none, end.live.replace(scores=cut), end.finished)
    tokens = jnp.where((found.scores == -jnp.inf)[..., None], pad_id, found.tokens)
    return Decoded(tokens, found.scores, found.totals)


def _grow(search: _Search, gains: jax.Array) -> tuple[_Beams, jax.Array]:
    """The 2 W likeliest continuations of each question's prefixes, and the prefixes.

    Twice W, so that W prefixes go on even where W sequences end at once.

    Args:
        search: the loop's.
        gains: [B * W, V], log-likelihoods of each next token.
    """
    questions, beams = search.live.totals.shape
    totals = search.live.totals[..., None] + gains.reshape(questions, beams, -1)
    vocab_size = totals.shape[-1]
    totals, places = _top(
        totals.reshape(questions, -1), min(2 * beams, beams * vocab_size)
    )
    parents = places // vocab_size
    tokens = jnp.take_along_axis(search.live.tokens, parents[..., None], axis=1)
    tokens = tokens.at[:, :, search.num_tokens].set(places % vocab_size)
    return _Beams(tokens, totals, totals), parents


def _with_finished(
    search: _Search,
    candidates: _Beams,
    is_end: jax.Array,
    num_tokens: jax.Array,
    rules: BeamRules,
    max_tokens: int,
) -> _Beams:
    """The best finished sequences, those of `candidates` included that end here."""
    rank = jnp.arange(is_end.shape[1])[None]
    is_finished = is_end
    if rules.keep_cut:
        is_finished |= num_tokens == max_tokens
    if rules.finish_among_beams:
        is_finished &= rank < rules.beams
    scores = candidates.totals / length_penalty(rules, num_tokens)
    candidates = candidates.replace(scores=jnp.where(is_finished, scores, -jnp.inf))
    both = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], axis=1),
        search.finished,
        candidates,
    )
    best, _ = _best(both, rules.beams)
    return _choose(search.is_done[:, None], search.finished, best)


def _nothing_to_gain(
    finished: _Beams,
    live: _Beams,
    num_tokens: jax.Array,
    rules: BeamRules,
    max_tokens: int,
) -> jax.Array:
    """Whether a question's finished sequences are its result, [B] bool."""
    worst, likeliest = finished.scores[:, -1], live.totals[:, 0]
    if rules.stop == "full":
        return (worst > -jnp.inf) | (likeliest == -jnp.inf)
    if rules.stop == "likely":
        return worst >= likeliest / length_penalty(rules, num_tokens)
    # The penalty grows or falls with the length: one of the ends is the best.
    bounds = [
        likeliest / length_penalty(rules, length)
        for length in (num_tokens + 1, max_tokens)
    ]
    return worst >= jnp.maximum(*bounds)


def _best(beams: _Beams, count: int) -> tuple[_Beams, jax.Array]:
    """The `count` of highest score, best first, and their places, [B, count]."""
    _, places = _top(beams.scores, count)

    def take(leaf: jax.Array) -> jax.Array:
        index = places.reshape(places.shape + (1,) * (leaf.ndim - 2))
        return jnp.take_along_axis(leaf, index, axis=1)

    return jax.tree.map(take, beams), places


def _top(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """What `lax.top_k` gives of each row of values, [B, n], float32; exact.

    The best lie in the `count` blocks of the highest maxima, so that two short sorts
    do: where rows are split over devices `top_k` gathers them on each, and on GPUs it
    sorts them whole.
    """
    if values.shape[1] <= 2 * count * _BLOCK:
        return _top_of_few(values, count)
    missing = -values.shape[1] % _BLOCK
    blocks = jnp.pad(values, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    blocks = blocks.reshape(len(values), -1, _BLOCK)
    _, chosen = _top_of_few(blocks.max(axis=2), count)
    # In order of place, so that of equals the first comes first.
    chosen = jnp.sort(chosen, axis=1)
    kept = jnp.take_along_axis(blocks, chosen[..., None], axis=1)
    best, places = _top_of_few(kept.reshape(len(values), -1), count)
    chosen = jnp.take_along_axis(chosen, places // _BLOCK, axis=1)
    return best, chosen * _BLOCK + places % _BLOCK


def _top_of_few(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """What `_top` gives, of short rows: a sort, which stays on a row's own device."""
    places = jnp.argsort(-values, axis=1, stable=True)[:, :count].astype(jnp.int32)
    return jnp.take_along_axis(values, places, axis=1), places


def _choose(where: jax.Array, chosen: _Beams, other: _Beams) -> _Beams:
    """Of each question one of two results; `where` is [B, 1] bool."""
    return jax.tree.map(
        lambda a, b: jnp.where(where.reshape(where.shape + (1,) * (a.ndim - 2)), a, b),
        chosen,
        other,
    )


def _gather_rows(state: State, parents: jax.Array) -> State:
    """The model's state of each question's rows `parents`, [B, W]."""
    questions, beams = parents.shape

    def gather(leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(questions, beams, *leaf.shape[1:])
        # Batched, so that devices that hold other questions are not asked.
        return jax.vmap(lambda row, index: row[index])(rows, parents).reshape(
            leaf.shape
        )

    return jax.tree.map(gather, state)
