"""DPR learns to find passages it was shown, and DPR+ without moving a passage."""

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.example_files import write_examples
from art_jax.data.example_table import ExampleSet
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.methods.dpr import Dpr
from art_jax.training.metrics import read_metrics
from art_jax.training.optimizers import AdamW
from art_jax.training.stage import Stage


@pytest.fixture(scope="module")
def examples(tiny, tmp_path_factory):
    """Each question with its passage, and two that share a word with that."""
    passages = tiny.SOME_PASSAGES
    path = tmp_path_factory.mktemp("examples") / "train.json"
    write_examples(
        path,
        (
            TrainingExample(
                question,
                (Candidate(passages[i]),),
                hard_negatives=tuple(
                    Candidate(passages[(i + step) % len(passages)]) for step in (7, 11)
                ),
            )
            for i, question in enumerate(tiny.QUESTIONS)
        ),
        "dpr",
    )
    return (ExampleSet(path=str(path)),)


def learn(tiny, tiny_evidence, folder, encoder, method, **settings):
    train_steps = 60
    space = tiny.make_workspace(tiny_evidence, partitioning.make_mesh(1), encoder)
    stage = Stage(
        "dpr",
        method,
        train_steps=train_steps,
        batch_size=20,
        save_every_steps=train_steps,
        **settings,
    )
    before = tiny.init_params(space)
    with tiny.quick_compilation():
        params, _ = tiny.run_stage(
            stage, space, folder, evaluate=tiny.make_evaluate(space), params=before
        )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, before)
    return read_metrics(folder), moved


def series(records, name):
    return [record[f"dev/{name}"] for record in records if f"dev/{name}" in record]


def test_top_1_accuracy_rises_from_chance(tiny, tiny_evidence, examples, tmp_path):
    # Without dropout it compiles in half the time; other tests have it.
    records, moved = learn(
        tiny,
        tiny_evidence,
        tmp_path,
        tiny.bert_encoder(),
        Dpr(examples, dropout=False, dev_sets=examples),
        optimizer=AdamW(
            peak_learning_rate=5e-3, warmup_steps=6, schedule_form="transformers"
        ),
        refresh_every_steps=30,
        eval_every_steps=30,
        choose_by="-average_rank",
    )
    accuracies = series(records, "top_1_accuracy")
    assert accuracies[0] <= 0.1, accuracies  # Chance is 1 in 40.
    assert max(accuracies) >= 0.95, accuracies
    ranks = series(records, "average_rank")
    # By chance 19.5 of 40 passages stand above the right one.
    assert ranks[0] > 8, ranks
    assert min(ranks) < 0.1, ranks
    assert all(jax.tree.leaves(moved))


def test_with_all_passages_as_negatives_the_questions_move_to_the_passages(
    tiny, tiny_evidence, examples, tmp_path
):
    records, moved = learn(
        tiny,
        tiny_evidence,
        tmp_path,
        tiny.bag_encoder(),
        Dpr(
            examples,
            negatives="all_passages",
            train_passage_tower=False,
            dropout=False,
        ),
        optimizer=AdamW(peak_learning_rate=0.2, warmup_share=0.1),
        refresh_every_steps=30,
        eval_every_steps=30,
        choose_by="top_1_accuracy",
    )
    accuracies = series(records, "top_1_accuracy")
    assert accuracies[0] <= 0.2, accuracies
    assert max(accuracies) >= 0.95, accuracies
    assert all(jax.tree.leaves(moved["query"]))
    assert not any(jax.tree.leaves(moved["passage"]))
    losses = [record["loss"] for record in records if "loss" in record]
    # A uniform choice among all 40 costs log(40).
    assert losses[0] > 0.8 * np.log(40), losses
    assert losses[-1] < 0.7 * np.log(40), losses
