"""ART learns retrieval from questions alone: from near chance to nearly all right."""

import jax

from art_jax import partitioning
from art_jax.methods.art import Art
from art_jax.training.metrics import read_metrics
from art_jax.training.optimizers import AdamW
from art_jax.training.stage import Stage


def test_top_1_accuracy_rises_from_chance(tiny, tiny_evidence, tmp_path):
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(1), tiny.bert_encoder()
    )
    stage = Stage(
        "art",
        # Without dropout it compiles in half the time; other tests have it.
        Art(tiny.TEACHER, num_passages=16, teacher_scale=8.0, dropout=False),
        train_steps=60,
        batch_size=20,
        optimizer=AdamW(peak_learning_rate=5e-3, warmup_share=0.1),
        refresh_every_steps=20,
        eval_every_steps=20,
        save_every_steps=60,
        choose_by="top_1_accuracy",
    )
    before = tiny.init_params(space)
    params, _ = tiny.run_stage(
        stage, space, tmp_path, evaluate=tiny.make_evaluate(space), params=before
    )
    accuracies = [
        record["dev/top_1_accuracy"]
        for record in read_metrics(tmp_path)
        if "dev/top_1_accuracy" in record
    ]
    assert accuracies[0] <= 0.1, accuracies  # Chance is 1 in 40.
    assert max(accuracies) >= 0.95, accuracies
    # Both towers moved.
    for tower in ("query", "passage"):
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, before)[tower]
        assert all(jax.tree.leaves(moved))
