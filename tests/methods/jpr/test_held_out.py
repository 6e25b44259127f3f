"""Which step is the best one, by what its order of held-out passages finds."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.data.example_files import write_examples
from art_jax.data.oracle import OracleRules
from art_jax.data.prompts import PassagePrompt
from art_jax.errors import ConfigError, DataError
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr import held_out
from art_jax.methods.jpr.joint import IndepPr, Jpr, scores_of_picks
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.methods.ranked_table import RankedSet
from art_jax.training.loop import RunState
from art_jax.types import TrainState

JOINT = {
    "rules": OracleRules(k=2, num_passages=4, num_indexes=8),
    "prompt": PassagePrompt(max_tokens=14),
    "index_tokens": tuple(range(3, 11)),
}
APART = PassagePrompt("question: {q} context: {c} index:", 12)


def with_held(table, *held):
    rows = np.zeros((len(held), 3), np.int32)
    return dataclasses.replace(
        table, rows=rows, held=tuple(np.array(one, bool) for one in held)
    )


def test_recalls_are_of_the_order_that_scores_give(table):
    # Two answers, held by the first and the last; one answer, held by the second of
    # two; none known.
    table = with_held(
        table, [[1, 0], [1, 0], [0, 1]], [[0], [1]], np.zeros((3, 0), bool)
    )
    as_found = np.array([[3.0, 2.0, 1.0]] * 3)
    assert held_out.mean_recalls(table, as_found, 2) == {
        "mrecall_at_2": 0.5,
        "multi_mrecall_at_2": 0.0,
    }
    better = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, -np.inf], [0.0, 0.0, 0.0]])
    assert held_out.mean_recalls(table, better, 2) == {
        "mrecall_at_2": 1.0,
        "multi_mrecall_at_2": 1.0,
    }
    # Of equals the one that stood higher is first: the first question's two hold one.
    equal = np.zeros((3, 3))
    assert held_out.mean_recalls(table, equal, 2)["multi_mrecall_at_2"] == 0.0
    single = with_held(table, [[1], [0], [0]])
    assert held_out.mean_recalls(single, equal[:1], 1) == {"mrecall_at_1": 1.0}


@pytest.fixture
def dev_set(rankings, tmp_path):
    path = tmp_path / "dev.json"
    write_examples(path, rankings, "dpr-results")
    return RankedSet(path=str(path))


def joint_scores(picks, table):
    return np.stack([scores_of_picks(one, table.rows.shape[1]) for one in picks])


def test_each_method_is_measured_by_its_own_order(
    tiny, make_space, params, dev_set, tokenizer
):
    space, shared = make_space(), {"train_sets": [dev_set], "dev_sets": [dev_set]}
    table = held_out.read_held_out([dev_set], tokenizer, 2)
    rules = TreeRules(beta=0.5)
    sequence, tree = Jpr(**JOINT, **shared), Jpr(**JOINT, **shared, dev_rules=rules)
    apart = IndepPr(**JOINT, **shared, dev_k=3)
    pointwise = Pointwise(words=("yes", "no"), prompt=APART, dev_k=4, **shared)
    with tiny.quick_compilation():
        one, other = (
            each.pick(params, space, table, rules=each.dev_rules).choices
            for each in (sequence, tree)
        )
        assert (one != other).any()
        wanted = [
            (sequence, joint_scores(one, table), 2),
            (tree, joint_scores(other, table), 2),
            (apart, apart.first_log_likelihoods(params, space, table), 3),
            (pointwise, pointwise.log_likelihoods(params, space, table), 4),
        ]
        run = RunState(TrainState(jnp.int32(0), params, (), jnp.int32(0)))
        for method, scores, k in wanted:
            problem = method.bind(space, batch_size=16, seed=0, num_chunks=2)
            assert problem.evaluate(run) == held_out.mean_recalls(table, scores, k)
    table_at_hand = Jpr(**JOINT).bind(space, batch_size=8, seed=0, table=table)
    assert table_at_hand.evaluate is None


def test_what_cannot_be_measured_is_said(make_space, rankings, dev_set, tmp_path):
    shared = {"train_sets": [dev_set], "dev_sets": [dev_set]}
    method = Jpr(**JOINT, **shared, dev_k=7)
    with pytest.raises(ConfigError, match="dev_k is 7.*dev.json have 6 passages"):
        method.check(make_space(), 8)
    pointwise = Pointwise(words=("yes", "no"), prompt=APART, dev_k=7, **shared)
    with pytest.raises(ConfigError, match="dev_k is 7"):
        pointwise.check(make_space(), 8)
    path = tmp_path / "unknown.json"
    asked = [
        dataclasses.replace(
            one,
            question=dataclasses.replace(one.question, answers=(), answer_groups=()),
        )
        for one in rankings
    ]
    write_examples(path, asked, "dpr-results")
    with pytest.raises(DataError, match="no question of the dev_sets unknown.json"):
        Jpr(**JOINT, train_sets=[dev_set], dev_sets=[RankedSet(path=str(path))]).check(
            make_space(), 8
        )
