"""What a reranker learns from a ranking of which it is known who holds which answer.

Drawn anew each time, on the host: which passages it reads, the index of each, which of
them are right, and which it is told it has picked already.

Source: Min et al., arXiv:2104.08445, section 3.2, appendix B.2 and algorithm 2. Where
they are silent, `OracleRules` says what is done.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from art_jax.errors import ConfigError

POSITIVES = ("covering", "all")
WALKS = ("ranked", "random")
PREFIXES = ("sampled", "answerless", "positives", "ranked")


@dataclasses.dataclass(frozen=True)
class OracleRules:
    """How passages, indexes and prefixes are drawn; the defaults are JPR's for k = 5.

    Attributes:
        k: right passages a question, at most, and length of a prefix.
        num_passages: n, that the model reads of a ranking: the right ones, and others
            drawn uniformly; a quarter of the ranking in the paper. None: all.
        num_indexes: each passage read is given one of so many indexes, drawn without
            regard to its rank; as many as there are passages when it is used.
        gamma: of the noise by which negatives come into a prefix: those with the
            highest s + gamma * Gumbel(0, 1), s being their prior score. 0: the best s.
        positives: "covering", those that algorithm 2 finds, so that another passage
            with an answer of theirs is a negative; "all" that hold an answer, as for
            IndepPR: if there are more than k, and not all are read, k of them are
            drawn, and the rest is left out.
        walk: algorithm 2 goes through the ranking from the top, "ranked", as printed;
            "random": in an order drawn each time, so that any passage with an answer
            is a positive sometimes.
        prefix: "sampled", the positives and negatives up to k, in random order;
            "answerless", the same, but of negatives only those that hold no answer, for
            after one that tells an answer again "sampled" asks for that answer once
            more (not in the paper);
            "positives", these alone, in random order (the ablation without negatives);
            "ranked", these alone, by prior score (teacher forcing).

    Raises:
        ConfigError: a field is out of range.
    """

    k: int = 5
    num_passages: int | None = 25
    num_indexes: int = 100
    gamma: float = 1.0
    positives: str = "covering"
    walk: str = "ranked"
    prefix: str = "sampled"

    def __post_init__(self):
        for name, known in (
            ("positives", POSITIVES),
            ("walk", WALKS),
            ("prefix", PREFIXES),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"OracleRules.{name} is {getattr(self, name)!r}: it must be one of "
                    f"{', '.join(known)}."
                )
        least = self.k if self.num_passages is None else self.num_passages
        if not 1 <= self.k <= least <= self.num_indexes:
            raise ConfigError(
                f"k is {self.k}, num_passages {self.num_passages} and num_indexes "
                f"{self.num_indexes}: from 1 on, none may be above the next."
            )
        if self.gamma < 0:
            raise ConfigError(f"OracleRules.gamma is {self.gamma}: it must be >= 0.")


@dataclasses.dataclass(frozen=True, eq=False)
class OracleDraw:
    """What was drawn for one question.

    places: [n] int32, in the ranking, of what is read: positives, then others; -1
        where there are fewer.
    indexes: [n] int32, all different.
    is_positive: [n] bool.
    prefix: [k] int32, numbers of these n; -1 behind a shorter one.
    """

    places: np.ndarray
    indexes: np.ndarray
    is_positive: np.ndarray
    prefix: np.ndarray


def choose_covering(held: np.ndarray, k: int) -> list[int]:
    """Passages that hold all answers that can be found, in the ranking's order.

    From the top, each that holds an answer which none before it does, up to k.

    Args:
        held: [K, number of answers] bool, which passage holds which answer.
        k: at most so many.

    Source: algorithm 2. Differs in: nothing.
    """
    is_left = np.ones(held.shape[1], bool)
    chosen = []
    for place, answers in enumerate(np.asarray(held, bool)):
        if len(chosen) == k:
            break
        if (answers & is_left).any():
            chosen.append(place)
            is_left &= ~answers
    return chosen


def draw(
    held: np.ndarray, priors: np.ndarray, rules: OracleRules, seed: Sequence[int]
) -> OracleDraw:
    """What a model is to learn of one question this time; the same for the same seed.

    Args:
        held: [K, number of answers] bool, which passage of the ranking holds which
            answer (`evaluation.multi_answer.answers_held`).
        priors: [K] float, s: how good each passage seemed before, such as IndepPR's
            logit; gamma is in its units.
        rules: how to draw.
        seed: such as a run's, its step and the question's place in the batch.

    Raises:
        ConfigError: all of the ranking is to be read, and it has more passages than
            there are indexes.
    """
    depth = len(held)
    size = depth if rules.num_passages is None else rules.num_passages
    _check_indexes(size, rules.num_indexes)
    # NumPy promises the raw stream of a bit generator across versions.
    bits = np.random.PCG64([*seed])
    is_holder = np.asarray(held, bool).any(axis=1)
    positives = _draw_positives(held, rules, bits)
    is_other = ~is_holder if rules.positives == "all" else np.ones(depth, bool)
    is_other[positives] = False
    others = _shuffled(np.flatnonzero(is_other), bits)[: size - len(positives)]
    read = np.concatenate([positives, others]).astype(np.int32)
    places = np.full(size, -1, np.int32)
    places[: len(read)] = read
    priors = np.array(priors, np.float64)
    if rules.prefix == "answerless":
        priors[is_holder] = -np.inf
    return OracleDraw(
        places=places,
        indexes=_draw_indexes(rules.num_indexes, size, bits),
        is_positive=np.arange(size) < len(positives),
        prefix=_draw_prefix(priors[read], len(positives), rules, bits),
    )


def draw_indexes(num_indexes: int, count: int, seed: Sequence[int]) -> np.ndarray:
    """Different indexes for so many passages, [count] int32, as `draw` gives them.

    Raises:
        ConfigError: there are fewer indexes than passages.
    """
    _check_indexes(count, num_indexes)
    return _draw_indexes(num_indexes, count, np.random.PCG64([*seed]))


def _check_indexes(count: int, num_indexes: int) -> None:
    if count > num_indexes:
        raise ConfigError(
            f"{count} passages to be read together need as many indexes, and there are "
            f"{num_indexes}: raise num_indexes, or cut the rankings."
        )


def _draw_indexes(num_indexes: int, count: int, bits: np.random.PCG64) -> np.ndarray:
    return _shuffled(np.arange(num_indexes, dtype=np.int32), bits)[:count]


def _draw_positives(
    held: np.ndarray, rules: OracleRules, bits: np.random.PCG64
) -> np.ndarray:
    """Places of right passages, [at most k] int; more where all are read."""
    if rules.positives == "all":
        holders = np.flatnonzero(np.asarray(held, bool).any(axis=1))
        if rules.num_passages is None or len(holders) <= rules.k:
            return holders
        return np.sort(_shuffled(holders, bits)[: rules.k])
    order = np.arange(len(held))
    if rules.walk == "random":
        order = _shuffled(order, bits)
    return order[choose_covering(np.asarray(held)[order], rules.k)]


def _draw_prefix(
    priors: np.ndarray, num_positives: int, rules: OracleRules, bits: np.random.PCG64
) -> np.ndarray:
    """The numbers picked so far, [k] int32, of passages of which the first are right.

    Args:
        priors: [passages read] float64; -inf for one that is no negative.
        num_positives: of them, the first.
        rules: how to draw.
        bits: consumed.
    """
    picked = np.arange(num_positives)
    if rules.prefix == "ranked":
        picked = np.argsort(-priors[:num_positives], kind="stable")
    elif rules.prefix == "positives":
        picked = _shuffled(picked, bits)
    else:
        perturbed = priors + rules.gamma * _gumbel(len(priors), bits)
        perturbed[:num_positives] = np.inf
        best = np.argsort(-perturbed, kind="stable")[: rules.k]
        picked = _shuffled(best[perturbed[best] > -np.inf], bits)
    prefix = np.full(rules.k, -1, np.int32)
    picked = picked[: rules.k]
    prefix[: len(picked)] = picked
    return prefix


def _shuffled(values: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    return values[np.argsort(bits.random_raw(len(values)), kind="stable")]


def _gumbel(count: int, bits: np.random.PCG64) -> np.ndarray:
    """Draws of Gumbel(0, 1), [count] float64."""
    # From 53 bits, strictly between 0 and 1.
    uniform = ((bits.random_raw(count) >> np.uint64(11)).astype(float) + 0.5) / 2**53
    return -np.log(-np.log(uniform))
