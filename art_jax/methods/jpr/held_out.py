"""What is measured of a reranker on held-out rankings, to choose its best step by."""

from collections.abc import Callable, Sequence

import numpy as np

from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation.multi_answer import multi_answer_recall
from art_jax.methods.ranked_table import RankedSet, RankedTable, read_ranked_table
from art_jax.training.loop import RunState
from art_jax.types import Params


def read_held_out(
    sets: Sequence[RankedSet], tokenizer: Tokenizer, k: int
) -> RankedTable | None:
    """The table of held-out sets; None: there are none.

    Raises:
        ConfigError: k is above the depth of the rankings.
        DataError: a file breaks its format, or no question has an answer.
    """
    if not sets:
        return None
    table = read_ranked_table(tuple(sets), tokenizer)
    names = ", ".join(one.label for one in sets)
    if not any(held.shape[1] for held in table.held):
        raise DataError(
            f"no question of the dev_sets {names} has an answer: a reranker is "
            "measured by the answers that its passages hold."
        )
    depth = table.rows.shape[1]
    if not 1 <= k <= depth:
        raise ConfigError(
            f"dev_k is {k}, and the rankings of {names} have {depth} passages: choose "
            "from 1 to that."
        )
    return table


def mean_recalls(table: RankedTable, scores: np.ndarray, k: int) -> dict[str, float]:
    """MRecall@k of an order: `mrecall_at_5`, `multi_mrecall_at_5` and so on.

    The second is of questions with several answers, and is left out where there is
    none; questions whose answers nobody knows are not counted.

    Args:
        table: n rankings.
        scores: [n, K] float, by which their passages are put in order, highest first,
            equals as they were; of no matter where there is no passage.
        k: from 1 to K.
    """
    held = []
    for one, each in zip(table.held, scores, strict=True):
        order = np.argsort(-each[: len(one)], kind="stable")
        missing = scores.shape[1] - len(one)
        held.append(np.pad(one[order], ((0, missing), (0, 0))))
    held = [one for one in held if one.shape[1]]
    hits = multi_answer_recall(held, k)
    found = {f"mrecall_at_{k}": float(hits.mean())}
    has_several = np.array([one.shape[1] > 1 for one in held])
    if has_several.any():
        found[f"multi_mrecall_at_{k}"] = float(hits[has_several].mean())
    return found


def build_evaluation(
    table: RankedTable | None,
    score: Callable[[Params, RankedTable], np.ndarray],
    k: int,
) -> Callable[[RunState], dict[str, float]] | None:
    """Returns run -> `mean_recalls`, for `Problem.evaluate`; None: nothing is held out.

    Args:
        table: from `read_held_out`.
        score: (parameters, table) -> [n, K], see `mean_recalls`.
        k: see there.
    """
    if table is None:
        return None
    return lambda run: mean_recalls(table, score(run.train.params, table), k)
