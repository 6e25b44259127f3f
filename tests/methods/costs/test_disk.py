"""Bytes by hand; tests/cli/test_plan.py holds them to the files of a run."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax.checkpoints import train_state
from art_jax.methods.costs import disk
from art_jax.methods.costs.shapes import state_shapes, tree_bytes
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher


def test_an_index_is_its_padded_rows(run, cluster):
    assert disk.index_bytes(run, cluster(8)) == 32 * 4 * 2


def test_evidence_by_hand(run, stage):
    # 20 bytes of text and their two offsets, an id of 2 and its offset; two token ids,
    # an offset and a title's length.
    row = 20 + 16 + 2 + 8 + 2 * 2 + 8 + 4
    assert disk.evidence_bytes(run) == 30 * row + 3 * 8
    taught = dataclasses.replace(stage, teacher=QueryLikelihoodTeacher())
    run = dataclasses.replace(run, stages=(stage, taught))
    assert disk.evidence_bytes(run) == 30 * (row + 3 * 2 + 8 + 4) + 4 * 8


def test_a_checkpoint_holds_the_tables_weights_or_the_table(run, stage, cluster):
    state = tree_bytes(state_shapes(run.encoder, stage))
    tower = tree_bytes(state_shapes(run.encoder, stage).params) // 2
    assert disk.checkpoint_bytes(run, stage, cluster()) == state + tower
    for name in ("rolling_refresh", "write_back"):
        mixed = dataclasses.replace(stage, **{name: True})
        assert disk.checkpoint_bytes(run, mixed, cluster()) == state + 30 * 4 * 2


def test_a_checkpoint_takes_about_as_much_as_its_arrays(
    run, stage, cluster, encoder, tmp_path
):
    # Large enough that Orbax's own files, some 100 KB, do not count.
    config = dataclasses.replace(
        encoder.config, vocab_size=2000, hidden_size=128, intermediate_size=256
    )
    run = dataclasses.replace(run, encoder=dataclasses.replace(encoder, config=config))
    random = np.random.default_rng(0)

    def fill(leaf):
        values = 0.02 * random.standard_normal(leaf.shape)
        return jax.numpy.asarray(values.astype(leaf.dtype))

    state = jax.tree.map(fill, state_shapes(run.encoder, stage))
    tree = {"train": state, "table_params": {"passage": state.params["passage"]}}
    train_state.save_checkpoint(tmp_path, 1, tree, {}, keep=1)
    files = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    # Noise in float32 is squeezed by some 7 %.
    assert files == pytest.approx(disk.checkpoint_bytes(run, stage, cluster()), rel=0.1)


def test_a_folder_keeps_some_checkpoints_of_each_stage(run, stage, cluster):
    run = dataclasses.replace(run, stages=(stage, stage))
    parts = disk.run_bytes(run, cluster())
    one = disk.checkpoint_bytes(run, stage, cluster())
    assert parts["checkpoints"] == 2 * 2 * one
    assert parts["best weights"] == 2 * 2 * parts["retriever"]
