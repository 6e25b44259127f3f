"""Sizes to calculate with by hand, and the same run with real arrays."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.hardware import DeviceKind
from art_jax.index.search_options import SearchOptions
from art_jax.index.table import EmbeddingTable
from art_jax.methods.art import Art
from art_jax.methods.costs.sizes import Cluster, Evidence, RunSizes, StageSizes
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder
from art_jax.training import optimizers, update
from art_jax.training.optimizers import AdamW

# Round figures: 100 flops, 10 bytes of memory, 1 byte over links a second.
KIND = DeviceKind("v0", ("v0",), 100.0, 1000, 10.0, 1.0)

BATCH, K = 8, 4


@pytest.fixture
def kind():
    return KIND


@pytest.fixture
def cluster():
    """`cluster(devices, model=1)`, of which all of the data sheet is reached."""

    def make(num_devices=1, model_parallelism=1):
        return Cluster(KIND, num_devices, model_parallelism, 1.0, 1.0, 1.0)

    return make


@pytest.fixture
def encoder():
    """Two towers of one layer: V 10, D 4, one head, MLP of 8, 6 positions."""
    config = BertConfig(
        vocab_size=10,
        hidden_size=4,
        num_layers=1,
        num_heads=1,
        intermediate_size=8,
        max_positions=6,
        pre_layer_norm=True,
        embedding_layer_norm=False,
        type_vocab_size=0,
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )
    return DualEncoder(config)


@pytest.fixture
def stage():
    """Pairs of a question of 3 and a passage of 5 tokens, 8 a step."""
    return StageSizes(
        name="pairs",
        train_steps=10,
        batch_size=BATCH,
        optimizer=AdamW(),
        refresh_every_steps=5,
        query_tokens=3,
        passage_tokens=5,
        num_passages=1,
        num_products=BATCH,
        dropout=False,
    )


@pytest.fixture
def run(encoder, stage):
    """One stage over 30 passages of 4 tokens."""
    lengths = np.full(30, 4, np.int64)
    evidence = Evidence(
        num_rows=30,
        passage_lengths=lengths,
        teacher_lengths=lengths,
        passage_ids=2.0,
        teacher_ids=3.0,
        text_bytes=20.0,
        id_bytes=2.0,
    )
    return RunSizes(encoder, (stage,), evidence, passage_tokens=5)


@dataclasses.dataclass(frozen=True)
class RealRun:
    """A tiny ART run with all its arrays, ready for a step.

    update: not called yet.
    arguments: of it: state, batch, resources, key.
    table: the one in use.
    sizes: the same run in sizes.
    """

    update: object
    arguments: tuple
    table: object
    sizes: RunSizes


@pytest.fixture
def real_run(tiny, tiny_evidence):
    """`real_run(mesh, num_chunks=1, **changes of the BERT)` -> RealRun."""

    def make(mesh, num_chunks=1, **changes):
        encoder = tiny.bert_encoder()
        config = dataclasses.replace(encoder.config, **changes)
        encoder = dataclasses.replace(encoder, config=config)
        space = tiny.make_workspace(tiny_evidence, mesh, encoder)
        space = dataclasses.replace(space, search=SearchOptions("plain"))
        method = Art(tiny.TEACHER, num_passages=K)
        problem = method.bind(space, batch_size=BATCH, seed=1, num_chunks=num_chunks)
        replicated = partitioning.replicated(mesh)
        # Zeros: nothing here is computed, and so nothing compiled but the update.
        params = partitioning.put_tree(
            jax.tree.map(
                lambda leaf: np.zeros(leaf.shape, leaf.dtype),
                jax.eval_shape(encoder.init, jax.random.key(0)),
            ),
            replicated,
        )
        optimizer = AdamW().build(10)
        rows = partitioning.padded_rows(tiny.NUM_PASSAGES, mesh)
        table = EmbeddingTable(
            partitioning.put_global(
                np.zeros((rows, encoder.width), np.float32),
                partitioning.row_sharding(mesh),
            ),
            num_rows=tiny.NUM_PASSAGES,
            generation=0,
            table_step=0,
            evidence_digest=tiny_evidence.digest,
            mesh=mesh,
        )
        run_update = update.make_update(
            problem.loss,
            optimizers.freeze(optimizer, problem.frozen),
            prepare=problem.prepare,
            num_chunks=num_chunks,
        )
        arguments = (
            update.init_state(params, optimizer),
            problem.make_batch(0),
            problem.resources(table),
            jax.random.key(0),
        )
        lengths = np.full(tiny.NUM_PASSAGES, 20, np.int64)
        sizes = RunSizes(
            encoder=encoder,
            stages=(
                StageSizes(
                    name="art",
                    train_steps=10,
                    batch_size=BATCH,
                    optimizer=AdamW(),
                    refresh_every_steps=5,
                    query_tokens=tiny.MAX_QUERY_TOKENS,
                    passage_tokens=tiny.MAX_PASSAGE_TOKENS,
                    num_passages=K,
                    num_products=K,
                    num_chunks=num_chunks,
                    teacher=tiny.TEACHER,
                    search=SearchOptions("plain"),
                ),
            ),
            evidence=Evidence(tiny.NUM_PASSAGES, lengths, lengths, 17.0, 15.0),
            passage_tokens=tiny.MAX_PASSAGE_TOKENS,
            table_dtype="float32",
        )
        return RealRun(run_update, arguments, table, sizes)

    return make
