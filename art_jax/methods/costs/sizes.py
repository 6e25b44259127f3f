"""A run and its devices, as sizes; what the costs are functions of.

No array is made and no device asked.
"""

import dataclasses
import functools
import statistics
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from art_jax import partitioning
from art_jax.errors import ConfigError
from art_jax.hardware import DeviceKind
from art_jax.index import buckets
from art_jax.index.search_options import SearchOptions, SearchShape
from art_jax.models.dual_encoder import DualEncoder
from art_jax.models.t5 import T5Config
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.training.optimizers import AdamW

Teacher = T5Teacher | QueryLikelihoodTeacher

# `tokenizers.train_words` keeps so many words and two special ones, at most.
MOST_WORDS = 65_002
# Vocabularies up to this many words are kept in two bytes a token.
_UINT16_WORDS = 1 << 16
# Passages whose lengths stand for those of all.
_SAMPLE_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The devices of a run, and how much of their data sheet it is planned with.

    kind: of every device.
    num_devices: in all.
    model_parallelism: devices the teacher's weights are split over.
    matmul_share: of `kind.matmul_flops`, the MFU; float32 takes twice the time.
    bandwidth_share: of the bandwidths of memory and of links.
    memory_share: of device memory, that a run may fill.

    Raises:
        ConfigError: the devices cannot be split so, or a share is not in (0, 1].
    """

    kind: DeviceKind
    num_devices: int
    model_parallelism: int = 1
    matmul_share: float = 0.5
    bandwidth_share: float = 0.8
    memory_share: float = 0.9

    def __post_init__(self):
        """Checks the values."""
        if self.num_devices < 1 or self.model_parallelism < 1:
            raise ConfigError(
                f"{self.num_devices} devices with model_parallelism "
                f"{self.model_parallelism}: both are at least 1."
            )
        if self.num_devices % self.model_parallelism:
            raise ConfigError(
                f"model_parallelism {self.model_parallelism} does not divide "
                f"{self.num_devices} devices: choose a divisor."
            )
        for name in ("matmul_share", "bandwidth_share", "memory_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: above 0, up to 1.")

    @property
    def data_parallelism(self) -> int:
        """Devices, or groups of them, that each take a part of a batch."""
        return self.num_devices // self.model_parallelism

    @property
    def mesh(self) -> AbstractMesh:
        """The mesh a run would make, without devices."""
        return AbstractMesh(
            (self.data_parallelism, self.model_parallelism),
            (partitioning.DATA_AXIS, partitioning.MODEL_AXIS),
        )

    @property
    def usable_bytes(self) -> int:
        """Memory of a device that a run may fill."""
        return int(self.kind.memory_bytes * self.memory_share)


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The passages, by number and length.

    num_rows: N.
    passage_lengths: [n] int, tokens of some passages as the retriever reads them.
    teacher_lengths: [n] int, as the teacher reads them.
    passage_ids, teacher_ids: mean tokens of a passage that the store keeps for each;
        0 where it keeps none.
    text_bytes: mean UTF-8 bytes of a title and text.
    id_bytes: mean bytes of a passage's id.
    """

    num_rows: int
    passage_lengths: np.ndarray
    teacher_lengths: np.ndarray
    passage_ids: float
    teacher_ids: float
    text_bytes: float = 640.0
    id_bytes: float = 8.0


def spread_lengths(mean: float, spread: float, *, shortest: int = 1) -> np.ndarray:
    """Returns made-up lengths of passages, normally distributed, in ascending order.

    Args:
        mean: in tokens.
        spread: standard deviation as a share of the mean.
        shortest: of all.
    """
    normal = statistics.NormalDist(mean, max(spread * mean, 1e-9))
    places = (np.arange(_SAMPLE_ROWS) + 0.5) / _SAMPLE_ROWS
    lengths = np.array([normal.inv_cdf(place) for place in places])
    return np.maximum(np.rint(lengths), shortest).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class StageSizes:
    """One stage, by what its steps compute.

    name: of the stage.
    train_steps: updates in all.
    batch_size: B.
    optimizer: of the stage.
    refresh_every_steps: steps between two tables; None: the stage has no table.
    query_tokens: Q, of each row of a step.
    passage_tokens: L, of each row of a step.
    num_passages: K, passages embedded a query; 1 where a batch is pairs.
    num_products: dot products a query is part of; K, the batch's passages, or N.
    num_chunks: parts of a batch, one after the other.
    keep_checkpoints: how many stay.
    frozen: towers without a gradient, "query" or "passage".
    dropout: whether there is any.
    teacher: what scores passages found by a search; None: nothing is searched.
    question_tokens: mean tokens of a question as the teacher reads it.
    search: how the table is searched.
    rolling_refresh: a slice of the table is made again before each step.
    write_back: a step's embeddings are written into the table.
    is_whole_batch: the loss is of the batch as a whole, so that one in chunks is
        embedded once before (`training.grad_cache`).
    scores_table: every row of the table is scored, forwards and backwards.
    """

    name: str
    train_steps: int
    batch_size: int
    optimizer: AdamW
    refresh_every_steps: int | None
    query_tokens: int
    passage_tokens: int
    num_passages: int
    num_products: int
    num_chunks: int = 1
    keep_checkpoints: int = 2
    frozen: tuple[str, ...] = ()
    dropout: bool = True
    teacher: Teacher | None = None
    question_tokens: int = 16
    search: SearchOptions = SearchOptions()
    rolling_refresh: bool = False
    write_back: bool = False
    is_whole_batch: bool = False
    scores_table: bool = False

    @property
    def is_embedded_twice(self) -> bool:
        """Whether what is learnt is embedded before, without a gradient."""
        return self.is_whole_batch and self.num_chunks > 1


@dataclasses.dataclass(frozen=True, eq=False)
class RunSizes:
    """A run of `art-jax train`, by its sizes.

    encoder: the retriever, its vocabulary that of the run.
    stages: one after the other.
    evidence: the passages.
    passage_tokens: L, of the rows the table is made from.
    stream_tokens: token rows stay on disk.
    table_dtype: of the embeddings.
    int8_rows: the table has int8 rows too.
    embed_chunk_tokens: tokens embedded at a time on each device.
    """

    encoder: DualEncoder
    stages: tuple[StageSizes, ...]
    evidence: Evidence
    passage_tokens: int
    stream_tokens: bool = False
    table_dtype: str = "bfloat16"
    int8_rows: bool = False
    embed_chunk_tokens: int = 16_384


def check_sizes(run: RunSizes, cluster: Cluster) -> None:
    """Raises ConfigError where the cluster cannot split the run's sizes."""
    data = cluster.data_parallelism
    for stage in run.stages:
        parts = data * stage.num_chunks
        if stage.batch_size % parts:
            raise ConfigError(
                f"BATCH_SIZE of stage {stage.name!r} is {stage.batch_size}: {data} "
                f"devices of mesh axis 'data' and {stage.num_chunks} chunks (gin's "
                "NUM_MICROBATCHES) cannot split it evenly. Choose a multiple of "
                f"{parts}, fewer devices, or more --model_parallelism."
            )
        if isinstance(stage.teacher, T5Teacher):
            local_config(stage.teacher.config, cluster.model_parallelism)


def shard_rows(num_rows: int, cluster: Cluster) -> int:
    """Returns the rows of the table on each device, padding included."""
    return partitioning.padded_rows(num_rows, cluster.mesh) // cluster.num_devices


def token_bytes(vocab_size: int) -> int:
    """Returns the bytes of a token in device memory and in the evidence store."""
    return 2 if vocab_size <= _UINT16_WORDS else 4


def num_refreshes(stage: StageSizes) -> int:
    """Returns how often a stage makes the whole table: first, when due, at its end."""
    if stage.refresh_every_steps is None:
        return 0
    if stage.rolling_refresh or "passage" in stage.frozen:
        return 1
    return 1 + -(-stage.train_steps // stage.refresh_every_steps)


def sampled_buckets(run: RunSizes) -> Sequence[buckets.Bucket]:
    """Those of a device that holds the sample's rows."""
    lengths = run.evidence.passage_lengths
    return _cached_buckets(
        lengths.tobytes(), run.passage_tokens, run.embed_chunk_tokens
    )


@functools.lru_cache(maxsize=16)
def _cached_buckets(
    lengths: bytes, max_tokens: int, chunk_tokens: int
) -> Sequence[buckets.Bucket]:
    values = np.frombuffer(lengths, np.int64)
    return buckets.plan_buckets(
        values,
        num_shards=1,
        rows_per_shard=len(values),
        max_tokens=max_tokens,
        chunk_tokens=chunk_tokens,
    )


def padding_share(run: RunSizes) -> float:
    """Returns the share of the tokens a refresh computes that are padding."""
    return buckets.padding_share(sampled_buckets(run), run.evidence.passage_lengths)


def search_shape(run: RunSizes, stage: StageSizes, cluster: Cluster) -> SearchShape:
    """Returns the shape of a step's search on each device."""
    return SearchShape(
        batch=stage.batch_size,
        shard_rows=shard_rows(run.evidence.num_rows, cluster),
        width=run.encoder.width,
        item_bytes=jnp.dtype(run.table_dtype).itemsize,
        num_results=stage.num_passages,
        num_excluded=1,
    )


def teacher_words(teacher: Teacher) -> int:
    """Returns the size of a teacher's vocabulary, at most."""
    is_t5 = isinstance(teacher, T5Teacher)
    return teacher.config.vocab_size if is_t5 else MOST_WORDS


def local_config(config: T5Config, model_parallelism: int) -> T5Config:
    """A T5 with one device's share of heads, MLP and vocabulary."""
    split = {
        name: getattr(config, name) for name in ("num_heads", "mlp_dim", "vocab_size")
    }
    for name, size in split.items():
        if size % model_parallelism:
            raise ConfigError(
                f"MODEL_PARALLELISM {model_parallelism} does not divide the teacher's "
                f"{name}, {size}: choose a divisor."
            )
    return dataclasses.replace(
        config, **{name: size // model_parallelism for name, size in split.items()}
    )


def local_teacher(teacher, cluster: Cluster):
    """The teacher as one device runs it: its share of weights and of each chunk."""
    if isinstance(teacher, QueryLikelihoodTeacher):
        return teacher
    return dataclasses.replace(
        teacher,
        config=local_config(teacher.config, cluster.model_parallelism),
        chunk_size=max(1, teacher.chunk_size // cluster.data_parallelism),
    )
