"""Bytes on disk: evidence, index and checkpoints."""

import jax.numpy as jnp

from art_jax.methods.costs.shapes import (
    passage_shapes,
    retriever_shapes,
    state_shapes,
    tree_bytes,
)
from art_jax.methods.costs.sizes import (
    Cluster,
    RunSizes,
    StageSizes,
    shard_rows,
    teacher_words,
    token_bytes,
)

# Bytes of a number of the evidence store.
_OFFSET, _TITLE_LENGTH = 8, 4


def index_bytes(run: RunSizes, cluster: Cluster) -> int:
    """Returns the bytes of `index/` on disk, but for its manifest."""
    rows = shard_rows(run.evidence.num_rows, cluster) * cluster.num_devices
    itemsize = jnp.dtype(run.table_dtype).itemsize
    return rows * run.encoder.width * itemsize


def evidence_bytes(run: RunSizes) -> int:
    """Returns the bytes of `evidence/` on disk, but for its manifest."""
    evidence = run.evidence
    teachers = [stage.teacher for stage in run.stages if stage.teacher is not None]
    row = evidence.text_bytes + 2 * _OFFSET + evidence.id_bytes + _OFFSET
    tables = [(evidence.passage_ids, run.encoder.config.vocab_size)]
    if teachers:
        tables.append((evidence.teacher_ids, teacher_words(teachers[0])))
    for ids, words in tables:
        row += ids * token_bytes(words) + _OFFSET + _TITLE_LENGTH
    # Where the last one ends: of texts, of ids, of each table's tokens.
    return round(evidence.num_rows * row) + (2 + len(tables)) * _OFFSET


def checkpoint_bytes(run: RunSizes, stage: StageSizes, cluster: Cluster) -> int:
    """Returns the bytes of one checkpoint's arrays, before Orbax compresses them.

    Beside the training state it holds the weights that made the table or, where its
    rows are of several steps, the table.
    """
    state = tree_bytes(state_shapes(run.encoder, stage))
    if stage.refresh_every_steps is None:
        return state
    if stage.rolling_refresh or stage.write_back:
        return state + index_bytes(run, cluster)
    return state + tree_bytes(passage_shapes(run.encoder))


def run_bytes(run: RunSizes, cluster: Cluster) -> dict[str, int]:
    """Returns the bytes a finished run's folder holds, by part."""
    params = tree_bytes(retriever_shapes(run.encoder))
    return {
        "evidence": evidence_bytes(run),
        "index": index_bytes(run, cluster),
        "retriever": params,
        "checkpoints": sum(
            stage.keep_checkpoints * checkpoint_bytes(run, stage, cluster)
            for stage in run.stages
        ),
        # Each kept checkpoint may have a best step of its own.
        "best weights": sum(stage.keep_checkpoints * params for stage in run.stages),
    }
