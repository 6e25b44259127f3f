"""Which ranked questions are trained on, and what is drawn of them for a batch."""

import dataclasses

import numpy as np

from art_jax.data import oracle
from art_jax.data.oracle import OracleRules
from art_jax.errors import ConfigError, DataError
from art_jax.methods.ranked_table import RankedTable


def draw_batch(
    table: RankedTable,
    questions: np.ndarray,
    rules: OracleRules,
    seed: tuple[int, int],
) -> dict[str, np.ndarray]:
    """What is drawn of some questions: [B, n] indexes, is_positive, passages; prefix.

    Args:
        table: of them.
        questions: [B] int.
        rules: how to draw.
        seed: a run's, and its step.

    Returns:
        `passages` are rows of the table's passages, -1 for none.
    """
    drawn = []
    for place, question in enumerate(questions.tolist()):
        held = table.held[question]
        priors = table.priors[question, : len(held)]
        drawn.append(oracle.draw(held, priors, rules, (*seed, place)))
    fields = {
        field.name: np.stack([getattr(one, field.name) for one in drawn])
        for field in dataclasses.fields(oracle.OracleDraw)
    }
    places = fields.pop("places")
    passages = np.take_along_axis(
        table.rows[questions], np.maximum(places, 0).astype(np.int64), axis=1
    )
    return fields | {"passages": np.where(places >= 0, passages, -1)}


def fit_rules(rules: OracleRules, depth: int) -> OracleRules:
    """The rules with a number of passages, so that all questions have one shape."""
    if rules.num_passages is not None:
        return rules
    if depth > rules.num_indexes or depth < rules.k:
        raise ConfigError(
            f"rankings of {depth} passages are to be read whole, for k {rules.k} and "
            f"{rules.num_indexes} indexes: from 1 on, none may be above the next."
        )
    return dataclasses.replace(rules, num_passages=depth)


def find_answerable(table: RankedTable) -> np.ndarray:
    """The questions to train on, [m] int64.

    Raises:
        DataError: there is none.
    """
    found = table.answerable()
    if not len(found):
        raise DataError(
            f"{table.num_questions} questions, and no passage holds an answer of any: "
            "there is nothing to train on. Where files tell what is right, as training "
            "examples do, the match is 'given'."
        )
    return found


def describe(table: RankedTable) -> str:
    """One line for people."""
    count = len(table.answerable())
    return (
        f"{count:,} ranked questions with {table.passages.num_rows:,} passages "
        f"({table.num_questions - count:,} without an answer in their passages left "
        "out)"
    )
