"""Operations, bytes and seconds of a step and of a refresh, on one device.

Seconds are what operations and bytes take at a stated share of a data sheet's figures:
a plan, no measurement.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from art_jax.methods.costs.memory import table_bytes
from art_jax.methods.costs.search import search_bytes
from art_jax.methods.costs.shapes import (
    retriever_shapes,
    sharded_bytes,
    teacher_shapes,
    tree_bytes,
)
from art_jax.methods.costs.sizes import (
    Cluster,
    RunSizes,
    StageSizes,
    local_config,
    local_teacher,
    sampled_buckets,
    search_shape,
    shard_rows,
)
from art_jax.models import flops
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher import worklist
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does for a part of a step.

    flops: of matrix products.
    memory_bytes: read and written, where that may be what takes the time.
    link_bytes: sent to other devices.
    dtype: of the products.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    link_bytes: float = 0.0
    dtype: str = "bfloat16"

    def seconds(self, cluster: Cluster) -> float:
        """Returns how long it takes: products and memory overlap, links do not."""
        kind = cluster.kind
        rate = kind.matmul_flops * cluster.matmul_share
        if self.dtype == "float32":
            rate /= 2
        bandwidth = kind.memory_bytes_per_second * cluster.bandwidth_share
        links = kind.link_bytes_per_second * cluster.bandwidth_share
        busy = max(self.flops / rate, self.memory_bytes / bandwidth)
        return busy + self.link_bytes / links


def step_work(run: RunSizes, stage: StageSizes, cluster: Cluster) -> dict[str, Work]:
    """Returns what each device does in one step, part by part, in order."""
    work = {}
    if stage.teacher is not None:
        work |= _search_work(run, stage, cluster)
        work |= _teacher_work(run, stage, cluster)
    if stage.rolling_refresh:
        whole, slices = refresh_work(run, cluster), stage.refresh_every_steps
        work["refresh a slice"] = dataclasses.replace(
            whole,
            flops=whole.flops / slices,
            memory_bytes=whole.memory_bytes / slices,
        )
    return work | _learn_work(run, stage, cluster)


def refresh_work(run: RunSizes, cluster: Cluster) -> Work:
    """Returns what each device does to make the table again."""
    rows = shard_rows(run.evidence.num_rows, cluster)
    sample = len(run.evidence.passage_lengths)
    computed = sum(
        bucket.local_rows.size * tower_flops(run.encoder, 1, bucket.length)
        for bucket in sampled_buckets(run)
    )
    return Work(
        flops=rows * computed / sample,
        memory_bytes=table_bytes(run, rows),
        dtype=run.encoder.config.dtype,
    )


def tower_flops(encoder: DualEncoder, num_rows: float, length: int) -> float:
    """Returns the operations of embedding rows: BERT, pooling, projection.

    Args:
        encoder: the retriever.
        num_rows: B.
        length: of each row.
    """
    width = encoder.config.hidden_size
    row = flops.bert_flops(encoder.config, 1, length)
    if encoder.pooling != "cls":
        row += 2 * length * width
    if encoder.pooling == "weighted_mean":
        row += 2 * length * width
    return num_rows * (row + 2 * width * encoder.projection_dim)


def recomputed_flops(encoder: DualEncoder, num_rows: float, length: int) -> float:
    """Returns the operations that rematerialisation adds to a backward pass.

    Each block's, but for a pre-LN block's last product: nothing backward needs it.

    Args:
        encoder: the retriever.
        num_rows: B.
        length: of each row.
    """
    config = encoder.config
    if not config.remat:
        return 0.0
    row = flops.bert_flops(config, 1, length)
    if config.pre_layer_norm:
        last = config.hidden_size * config.intermediate_size
        row -= 2 * length * config.num_layers * last
    return num_rows * row


def scored_lengths(
    teacher: T5Teacher, lengths: np.ndarray, question_tokens: int
) -> tuple[np.ndarray, int]:
    """Returns the lengths that passages, and questions, are computed at.

    Args:
        teacher: whose buckets they fall in.
        lengths: [n] int, tokens of passages.
        question_tokens: of a question.
    """
    passage = np.array(
        worklist.static_lengths(teacher.max_passage_tokens, teacher.length_buckets)
    )
    question = np.array(
        worklist.static_lengths(teacher.max_question_tokens, teacher.question_buckets)
    )
    places = np.searchsorted(passage, np.minimum(lengths, passage[-1]))
    return (
        passage[places],
        int(question[np.searchsorted(question, min(question_tokens, question[-1]))]),
    )


def all_reduce_bytes(num_devices: int, num_bytes: float) -> float:
    """Returns what each device sends to add up arrays over all of them, by a ring."""
    return 2 * scatter_bytes(num_devices, num_bytes)


def scatter_bytes(num_devices: int, num_bytes: float) -> float:
    """Returns what each device sends to gather, or to add up and scatter, an array.

    Args:
        num_devices: in the ring.
        num_bytes: of the whole array.
    """
    return num_bytes * (num_devices - 1) / num_devices


def _search_work(run: RunSizes, stage: StageSizes, cluster: Cluster) -> dict[str, Work]:
    data, devices = cluster.data_parallelism, cluster.num_devices
    dtype = run.encoder.config.dtype
    shape = search_shape(run, stage, cluster)
    _, read_bytes = search_bytes(stage.search, shape, cluster.kind.name)
    vectors = 4 * stage.batch_size * run.encoder.width
    candidates = 8 * stage.batch_size * stage.num_passages * devices
    tokens = 0 if run.stream_tokens else 4 * stage.batch_size * stage.num_passages
    tokens *= stage.passage_tokens + stage.teacher.max_passage_tokens
    return {
        "embed questions": Work(
            flops=tower_flops(run.encoder, stage.batch_size / data, stage.query_tokens),
            dtype=dtype,
        ),
        "search": Work(
            flops=2 * shape.batch * shape.shard_rows * shape.width,
            memory_bytes=read_bytes,
            link_bytes=scatter_bytes(data, vectors)
            + scatter_bytes(devices, candidates),
            dtype=run.table_dtype,
        ),
        "gather tokens": Work(
            memory_bytes=2 * tokens,
            link_bytes=scatter_bytes(data, tokens)
            + all_reduce_bytes(cluster.model_parallelism, tokens),
        ),
    }


def _teacher_work(
    run: RunSizes, stage: StageSizes, cluster: Cluster
) -> dict[str, Work]:
    teacher = stage.teacher
    slots = stage.batch_size * stage.num_passages / cluster.data_parallelism
    if isinstance(teacher, QueryLikelihoodTeacher):
        compared = teacher.max_passage_tokens * teacher.max_question_tokens
        return {"teacher": Work(memory_bytes=4 * slots * compared)}
    model = cluster.model_parallelism
    config = local_config(teacher.config, model)
    lengths, question = scored_lengths(
        teacher, run.evidence.teacher_lengths, stage.question_tokens
    )
    lengths, counts = np.unique(lengths, return_counts=True)
    shares = counts / counts.sum()

    def mean(function: Callable[[int], float]) -> float:
        """Of the passages' lengths."""
        values = [function(int(length)) for length in lengths]
        return float(np.dot(shares, values))

    chunks = -(-slots // local_teacher(teacher, cluster).chunk_size)
    shapes = teacher_shapes(teacher)
    weights = {
        name: sharded_bytes({name: shapes[name]}, cluster)
        for name in ("encoder", "decoder")
    }
    token = config.emb_dim * jnp.dtype(config.dtype).itemsize
    encoded = slots * mean(lambda length: length) * token
    decoded = slots * question * token
    return {
        "teacher encodes": Work(
            flops=slots * mean(lambda n: flops.t5_encoder_flops(config, 1, n)),
            memory_bytes=chunks * weights["encoder"],
            # The outputs of attention and MLP are sums over the model axis.
            link_bytes=2 * config.num_encoder_layers * all_reduce_bytes(model, encoded),
            dtype=config.dtype,
        ),
        "teacher scores": Work(
            flops=slots
            * mean(lambda n: flops.t5_decoder_flops(config, 1, question, n)),
            memory_bytes=chunks * weights["decoder"],
            link_bytes=3 * config.num_decoder_layers * all_reduce_bytes(model, decoded),
            dtype=config.dtype,
        ),
    }


def _learn_work(run: RunSizes, stage: StageSizes, cluster: Cluster) -> dict[str, Work]:
    encoder, data = run.encoder, cluster.data_parallelism
    queries = stage.batch_size / data
    params_bytes = tree_bytes(retriever_shapes(encoder))

    def learnt(tower: str, rows: float, length: int) -> float:
        """Forward, and twice that backward; a frozen tower's is forward alone."""
        forward = tower_flops(encoder, rows, length)
        if tower in stage.frozen:
            return forward
        passes = 4 if stage.is_embedded_twice else 3
        return passes * forward + recomputed_flops(encoder, rows, length)

    read = 0
    if stage.scores_table:
        read = 2 * table_bytes(run, shard_rows(run.evidence.num_rows, cluster))
    products = 2 * queries * stage.num_products * encoder.width
    return {
        "learn questions": Work(
            flops=learnt("query", queries, stage.query_tokens),
            dtype=encoder.config.dtype,
        ),
        "learn passages": Work(
            flops=3 * products
            + learnt("passage", queries * stage.num_passages, stage.passage_tokens),
            memory_bytes=read,
            dtype=encoder.config.dtype,
        ),
        # Read for the norm; then weights, gradients and two moments are read, and
        # all but the gradients written.
        "update": Work(
            memory_bytes=8 * params_bytes,
            link_bytes=all_reduce_bytes(data, params_bytes),
        ),
    }
