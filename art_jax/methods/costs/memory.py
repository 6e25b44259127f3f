"""Bytes of device memory: what a stage holds, and what its phases take in addition.

Parameters, optimiser, table and tokens are exact. Intermediates are those of the
run's own functions, traced (`models.memory`), as if the phases of a step followed one
another.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from art_jax.methods.costs.search import search_bytes
from art_jax.methods.costs.shapes import (
    key_shape,
    passage_shapes,
    retriever_shapes,
    state_shapes,
    teacher_bytes,
    teacher_shapes,
    token_shape,
    tree_bytes,
)
from art_jax.methods.costs.sizes import (
    Cluster,
    RunSizes,
    StageSizes,
    Teacher,
    local_teacher,
    sampled_buckets,
    search_shape,
    shard_rows,
    teacher_words,
    token_bytes,
)
from art_jax.models import memory
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher.t5_scoring import T5Teacher

# Enough to trace in place of all, where layers are alike.
_FEW_LAYERS = 2


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a stage runs.

    held: all the time, by part.
    phases: what each phase of a step, and a refresh, takes in addition, by part.
    """

    held: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]

    @property
    def held_bytes(self) -> int:
        """What is held all the time."""
        return sum(self.held.values())

    @property
    def phase_bytes(self) -> dict[str, int]:
        """What each phase takes in addition."""
        return {name: sum(parts.values()) for name, parts in self.phases.items()}

    @property
    def peak_bytes(self) -> int:
        """The most at any time: phases follow one another."""
        return self.held_bytes + max(self.phase_bytes.values())


def table_bytes(run: RunSizes, num_rows: int) -> int:
    """Returns the bytes of so many rows of the table, those of int8 included."""
    width = run.encoder.width
    row = width * jnp.dtype(run.table_dtype).itemsize
    if run.int8_rows:
        row += width + 2 * 4  # codes; a scale and a bound of the error
    return num_rows * row


def stage_memory(run: RunSizes, index: int, cluster: Cluster) -> Memory:
    """Returns what a stage takes of each device.

    Args:
        run: all of it.
        index: of the stage.
        cluster: where it runs.
    """
    encoder, stage = run.encoder, run.stages[index]
    rows = shard_rows(run.evidence.num_rows, cluster)
    state = state_shapes(encoder, stage)
    params_bytes = tree_bytes(state.params)
    passage_bytes = tree_bytes(passage_shapes(encoder))
    width = token_bytes(encoder.config.vocab_size) * run.passage_tokens
    held = {
        "parameters": params_bytes,
        "optimiser": tree_bytes(state) - params_bytes,
        # The run's first ones, for the report at its end, and the stage's.
        "starting weights": params_bytes * (1 if index == 0 else 2),
    }
    has_table = stage.refresh_every_steps is not None
    if has_table:
        held["table"] = table_bytes(run, rows)
        held["weights that made it"] = passage_bytes
    if not run.stream_tokens:
        held["retriever's tokens"] = rows * width
    if stage.teacher is not None:
        held["teacher"] = teacher_bytes(stage.teacher, cluster)
        if not run.stream_tokens:
            held["teacher's tokens"] = rows * _teacher_row_bytes(stage.teacher)
    phases = {}
    if stage.teacher is not None:
        phases |= _search_phases(run, stage, cluster)
    phases["learn"] = _learn_phase(run, stage, cluster)
    phases["refresh"] = {"passages' activations": embedding_bytes(run)}
    if not stage.rolling_refresh:
        # The old table serves until the new one is whole. A stage without any is
        # followed by the one that is made of its result.
        phases["refresh"] |= {
            "second table" if has_table else "table": table_bytes(run, rows),
            "weights that make it": passage_bytes,
        }
    return Memory(held, phases)


def embedding_bytes(run: RunSizes) -> int:
    """Returns the activations of one call of a refresh, the largest of all shapes."""
    shapes = {
        (bucket.local_rows.shape[-1], bucket.length) for bucket in sampled_buckets(run)
    }
    return max(
        _encode_bytes(run.encoder, rows, length, False) for rows, length in shapes
    )


def _search_phases(
    run: RunSizes, stage: StageSizes, cluster: Cluster
) -> dict[str, dict[str, int]]:
    queries = stage.batch_size // cluster.data_parallelism
    chunk = queries // stage.num_chunks
    slots = stage.batch_size * stage.num_passages
    teacher_row = 4 * stage.teacher.max_passage_tokens
    scratch, _ = search_bytes(
        stage.search, search_shape(run, stage, cluster), cluster.kind.name
    )
    gathered = slots // cluster.data_parallelism * (4 * stage.passage_tokens)
    found = slots // cluster.data_parallelism * teacher_row
    return {
        "embed questions": {
            "questions' activations": _encode_bytes(
                run.encoder, chunk, stage.query_tokens, stage.dropout
            )
        },
        "search": {"search scratch": scratch},
        # Every device looks up all slots before each keeps its own.
        "gather": {"looked up": 2 * slots * teacher_row, "retriever's rows": gathered},
        "score": {
            "retriever's rows": gathered,
            "teacher's rows": found,
            "teacher's activations": _score_bytes(
                local_teacher(stage.teacher, cluster), queries, stage.num_passages
            ),
        },
    }


def _learn_phase(run: RunSizes, stage: StageSizes, cluster: Cluster) -> dict[str, int]:
    queries = stage.batch_size // cluster.data_parallelism
    rows = queries * stage.num_passages
    params_bytes = tree_bytes(retriever_shapes(run.encoder))
    live = _learn_bytes(
        run.encoder,
        stage.frozen,
        stage.dropout,
        (queries // stage.num_chunks, stage.query_tokens),
        (rows // stage.num_chunks, stage.passage_tokens),
    )
    phase = {
        "gradients": params_bytes,
        "activations": max(live - params_bytes, 0),
        "batch": 4 * (queries * stage.query_tokens + rows * stage.passage_tokens),
    }
    if stage.num_chunks > 1:
        phase["gradients added up"] = params_bytes
    if stage.is_embedded_twice:
        # And what their gradients take.
        phase["embeddings"] = 2 * 4 * (queries + rows) * run.encoder.width
        if not stage.scores_table:
            phase["scores"] = 2 * 4 * queries * stage.num_products
    return phase


def _teacher_row_bytes(teacher: Teacher) -> int:
    return teacher.max_passage_tokens * token_bytes(teacher_words(teacher))


@functools.lru_cache(maxsize=256)
def _encode_bytes(encoder: DualEncoder, rows: int, length: int, dropout: bool) -> int:
    """What embedding passages or questions takes, no gradient; towers are alike."""
    # Without a gradient a layer leaves nothing behind for the ones after the next.
    encoder = _with_layers(encoder, min(encoder.config.num_layers, _FEW_LAYERS))

    def encode(params, tokens, key):
        return encoder.encode_passage(params, tokens, key=key if dropout else None)

    shapes = passage_shapes(encoder)
    return memory.live_bytes(encode, shapes, token_shape(rows, length), key_shape())


@functools.lru_cache(maxsize=256)
def _learn_bytes(
    encoder: DualEncoder,
    frozen: tuple[str, ...],
    dropout: bool,
    queries: tuple[int, int],
    passages: tuple[int, int],
) -> int:
    """What the gradient of a loss of dot products takes, gradients included."""
    few, num_layers = _FEW_LAYERS, encoder.config.num_layers
    sizes = (frozen, dropout, queries, passages)
    if num_layers <= few + 1:
        return _traced_learn_bytes(encoder, *sizes)
    # Every further layer adds the same: its gradient and what backward needs of it.
    base, more = (
        _traced_learn_bytes(_with_layers(encoder, layers), *sizes)
        for layers in (few, few + 1)
    )
    return base + (num_layers - few) * (more - base)


def _traced_learn_bytes(
    encoder: DualEncoder,
    frozen: tuple[str, ...],
    dropout: bool,
    queries: tuple[int, int],
    passages: tuple[int, int],
) -> int:
    def loss(params, query_tokens, passage_tokens, key):
        keys = jax.random.split(key) if dropout else (None, None)
        tower = jnp.int32(0) if encoder.query_towers else None
        vectors = {
            "query": encoder.encode_query(
                params, query_tokens, key=keys[0], tower=tower
            )
        }
        if not passages[0]:
            return jnp.square(vectors["query"]).sum()
        vectors["passage"] = encoder.encode_passage(params, passage_tokens, key=keys[1])
        vectors |= {name: jax.lax.stop_gradient(vectors[name]) for name in frozen}
        scores = jnp.einsum("bd,pd->bp", vectors["query"], vectors["passage"])
        return jnp.square(scores).sum()

    return memory.live_bytes(
        jax.grad(loss),
        retriever_shapes(encoder),
        token_shape(*queries),
        token_shape(*passages),
        key_shape(),
    )


@functools.lru_cache(maxsize=256)
def _score_bytes(teacher: Teacher, queries: int, num_passages: int) -> int:
    """What scoring the passages of some questions takes."""
    if isinstance(teacher, T5Teacher):
        config = dataclasses.replace(
            teacher.config,
            num_encoder_layers=min(teacher.config.num_encoder_layers, _FEW_LAYERS),
            num_decoder_layers=min(teacher.config.num_decoder_layers, _FEW_LAYERS),
        )
        # The longest rows take the most; shorter buckets change nothing.
        teacher = dataclasses.replace(
            teacher, config=config, length_buckets=(), question_buckets=()
        )
    return memory.live_bytes(
        teacher.score,
        teacher_shapes(teacher),
        token_shape(queries, teacher.max_question_tokens),
        token_shape(queries, num_passages, teacher.max_passage_tokens),
        token_shape(queries, num_passages),
    )


def _with_layers(encoder: DualEncoder, num_layers: int) -> DualEncoder:
    config = dataclasses.replace(encoder.config, num_layers=num_layers)
    return dataclasses.replace(encoder, config=config)
