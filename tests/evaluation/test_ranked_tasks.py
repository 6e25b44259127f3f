"""SeqIO's evaluator gives rankings at hand what hand arithmetic gives."""

import dataclasses

import numpy as np
import pytest

from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.host_tensorflow import seqio
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import DataError
from art_jax.evaluation.ranked_tasks import evaluate_rankings

TEXTS = {"a": "an apple", "p": "a pear", "n": "nothing"}
BOTH = Question("1", "which", ("apple", "pear"), answer_groups=(("apple",), ("pear",)))
ONE = Question("2", "which", ("apple",))
UNKNOWN = Question("3", "which")


def ranked(question, order):
    passages = [Passage(name, TEXTS[name]) for name in order]
    return RankedQuestion(question, tuple(Candidate(one) for one in passages))


def test_rankings_are_measured_side_by_side():
    before = [ranked(BOTH, "anp"), ranked(UNKNOWN, "nap"), ranked(ONE, "nap")]
    after = [ranked(BOTH, "apn"), ranked(UNKNOWN, "nap"), ranked(ONE, "anp")]
    tasks = seqio.TaskRegistry.names()
    found = evaluate_rankings({"before": before, "after": after}, ks=(1, 2, 9))
    assert seqio.TaskRegistry.names() == tasks
    # The question without answers is left out.
    assert found["before"]["num_questions"] == 2
    # Both answers want both fruits among the first two; one answer wants apple.
    assert found["before"]["mrecall_at_2"] == 0.5
    assert found["before"]["multi_mrecall_at_2"] == 0.0
    assert found["after"]["mrecall_at_2"] == found["after"]["multi_mrecall_at_2"] == 1.0
    assert found["before"]["top_1_accuracy"] == 0.5
    assert found["after"]["top_1_accuracy"] == 1.0
    # alpha-nDCG@2 before: 1 of 1 + 1/log2(3) for the first; 1/log2(3) for the other.
    second = 1 / np.log2(3)
    want = (1 / (1 + second) + second) / 2
    np.testing.assert_allclose(found["before"]["alpha_ndcg_at_2"], want)
    assert "mrecall_at_9" not in found["before"]


def test_rankings_of_other_questions_or_without_answers_are_refused():
    one = [ranked(ONE, "an")]
    with pytest.raises(DataError, match="no question has answers"):
        evaluate_rankings({"x": [ranked(UNKNOWN, "an")]}, ks=(1,))
    other = [dataclasses.replace(one[0], question=BOTH)]
    with pytest.raises(DataError, match="before, after are rankings of different"):
        evaluate_rankings({"before": one, "after": other}, ks=(1,))
