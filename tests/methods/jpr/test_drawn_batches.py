"""A batch holds what `oracle.draw` gives; which questions are trained on."""

import dataclasses

import numpy as np
import pytest

from art_jax.data import oracle
from art_jax.data.oracle import OracleRules
from art_jax.errors import ConfigError, DataError
from art_jax.methods.jpr import drawn_batches

RULES = OracleRules(k=2, num_passages=7, num_indexes=9)


def test_each_line_is_drawn_by_seed_step_and_place(table):
    questions = np.array([3, 0, 3])
    batch = drawn_batches.draw_batch(table, questions, RULES, (5, 11))
    for place, question in enumerate(questions):
        held = table.held[question]
        want = oracle.draw(
            held, table.priors[question, : len(held)], RULES, (5, 11, place)
        )
        for name in ("indexes", "is_positive", "prefix"):
            np.testing.assert_array_equal(batch[name][place], getattr(want, name))
        # Seven are read, and a ranking has six at most: the rest are none.
        rows = [table.rows[question, one] if one >= 0 else -1 for one in want.places]
        assert batch["passages"][place].tolist() == rows
        assert -1 in rows
    assert (batch["indexes"][0] != batch["indexes"][2]).any()


def test_rules_take_the_depth_of_the_rankings_where_they_say_none():
    assert drawn_batches.fit_rules(RULES, 3) is RULES
    whole = dataclasses.replace(RULES, num_passages=None)
    assert drawn_batches.fit_rules(whole, 6).num_passages == 6
    for depth in (1, 10):
        with pytest.raises(ConfigError, match=f"rankings of {depth} passages"):
            drawn_batches.fit_rules(whole, depth)


def test_questions_without_an_answer_in_their_passages_are_left_out(table):
    found = drawn_batches.find_answerable(table)
    assert found.tolist() == [
        place for place, held in enumerate(table.held) if held.any()
    ]
    without = [np.zeros_like(held) for held in table.held]
    lost = dataclasses.replace(table, held=(table.held[0], *without[1:]))
    assert drawn_batches.describe(lost).endswith("passages left out)")
    assert drawn_batches.describe(lost).startswith("1 ranked questions")
    with pytest.raises(DataError, match="20 questions, and no passage holds"):
        drawn_batches.find_answerable(dataclasses.replace(lost, held=tuple(without)))
