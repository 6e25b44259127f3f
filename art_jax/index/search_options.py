"""How a search goes about it, and the sizes that follow from the memory it may use."""

import dataclasses
import math

from art_jax.errors import ConfigError
from art_jax.index.block_search import MAX_BLOCK_ROWS
from art_jax.index.group_search import GroupSizes

METHODS = ("auto", "plain", "groups", "triton", "int8", "int8_triton")

# Beyond what the lemma needs: scan and rescoring may sum in another order, and rows
# whose scores differ by that rounding alone must be compared by one of the two.
_SPARE_GROUPS = 8
_MIN_GROUP_ROWS, _MAX_GROUP_ROWS = 8, 32
_MIN_BLOCK_ROWS = 64
# What a CPU's caches hold: 128 to 2048 rows of 768 numbers scan equally fast for 8 to
# 1,024 queries, and 2 to 4 queries of 100 results rescore some four times as fast as 64
# (one core of an EPYC with 1 MiB of second-level and 32 MiB of third-level cache).
_CPU_BLOCK_ROWS = 1024
_CPU_RESCORED_BYTES = 16 << 20
# Unmeasured: half of an H100's second-level cache.
_GPU_BLOCK_BYTES = 1 << 25
# Rescoring reads rows one query at a time: per row some 30 times as slow as the scan on
# a CPU. A table that is rescored to such a part is sooner scanned and sorted; at a
# fortieth (100,000 rows, K = 300) that took two thirds of the time.
_MAX_RESCORED_PART = 1 / 64


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How to search. Every method finds the same rows; they differ in speed.

    method:
        plain        scores block by block, merged by top_k: the reference.
        groups       one pass keeps the maximum of every group of rows; the best groups
                     are rescored.
        triton       the same by a kernel that keeps scores out of memory; NVIDIA GPUs.
        int8         bounds from the table's int8 rows, then exact scores; where they
                     leave it open, `groups` again from the rows themselves.
        int8_triton  the same with the kernel, then `triton`.
        auto         groups on a CPU, or plain where K is large beside the table; plain
                     elsewhere, since nothing was measured there.
    scratch_bytes: device memory a search may use beside its arguments and result.
        Whatever it is, 64 rows, one query's rescored rows and the best groups of all
        queries are held.
    int8_oversampling: groups rescored per result when bounds come from int8 rows. More
        makes rescoring dearer and an uncertain result rarer.
    interpret: run kernels in Pallas's interpreter: for tests on a CPU, very slow.

    Raises:
        ConfigError: no such method, or a number below 1.
    """

    method: str = "auto"
    scratch_bytes: int = 1 << 30
    int8_oversampling: int = 4
    interpret: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise ConfigError(
                f"no search method {self.method!r}: choose of {', '.join(METHODS)}."
            )
        if self.scratch_bytes < 1 or self.int8_oversampling < 1:
            raise ConfigError(
                f"scratch_bytes ({self.scratch_bytes}) and int8_oversampling "
                f"({self.int8_oversampling}) must be at least 1."
            )


@dataclasses.dataclass(frozen=True)
class SearchShape:
    """What the sizes of a search on one shard depend on.

    batch: B.
    shard_rows: S.
    width: D.
    item_bytes: of a number of the table.
    num_results: K.
    num_excluded: E.
    """

    batch: int
    shard_rows: int
    width: int
    item_bytes: int
    num_results: int
    num_excluded: int


def choose_method(options: SearchOptions, shape: SearchShape, platform: str) -> str:
    """Returns the method that "auto" stands for, or the one asked for.

    Args:
        options: what was asked for.
        shape: of the search.
        platform: "cpu", "gpu" or "tpu", where the table is.

    Raises:
        ConfigError: the kernel was asked for where it does not run.
    """
    if options.method.endswith("triton"):
        if platform != "gpu" and not options.interpret:
            raise ConfigError(
                f"search method {options.method!r} runs on an NVIDIA GPU, but the "
                f"table is on a {platform}: choose "
                f"{'int8' if options.method.startswith('int8') else 'groups'!r}."
            )
        return options.method
    if options.method != "auto":
        return options.method
    rescored_rows = num_rescored(shape, oversampling=1) * group_rows(shape, 1)
    is_small_part = rescored_rows <= shape.shard_rows * _MAX_RESCORED_PART
    return "groups" if platform == "cpu" and is_small_part else "plain"


def num_rescored(shape: SearchShape, *, oversampling: int) -> int:
    """Returns M, the groups rescored a query."""
    return oversampling * shape.num_results + shape.num_excluded + _SPARE_GROUPS


def group_rows(shape: SearchShape, oversampling: int) -> int:
    """Returns g, a power of two near the least traffic with memory.

    Maxima are written and read: 8 S / g bytes a query. Rescored rows are copied and
    read: 2 M g D numbers a query. The sum is least where the two are equal.
    """
    row_bytes = 2 * shape.width * shape.item_bytes
    rescored = num_rescored(shape, oversampling=oversampling)
    best = math.sqrt(8 * shape.shard_rows / (rescored * row_bytes))
    best = min(max(best, _MIN_GROUP_ROWS), _MAX_GROUP_ROWS, shape.shard_rows)
    return 2 ** math.floor(math.log2(best))


def block_rows(shape: SearchShape, scratch_bytes: int) -> int:
    """Returns the rows the plain search scores at a time."""
    # Scores, row numbers, both again beside what was best, and as the sort wants them.
    row_bytes = 32 * shape.batch + shape.width * (shape.item_bytes + 4)
    return max(_MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, scratch_bytes // row_bytes))


def group_sizes(
    shape: SearchShape, *, scratch_bytes: int, oversampling: int, platform: str
) -> GroupSizes:
    """Returns how a search over groups is cut up so as to keep to its memory."""
    rows = group_rows(shape, oversampling)
    # Scores [rows, B] float32, and the rows, again in float32 where a CPU needs that.
    row_bytes = 4 * shape.batch + shape.width * (shape.item_bytes + 4)
    most = _GPU_BLOCK_BYTES // (4 * shape.batch)
    if platform == "cpu":
        most = _CPU_BLOCK_ROWS
    block = min(most, scratch_bytes // 4 // row_bytes) // rows * rows
    block = max(block, _MIN_BLOCK_ROWS)
    # The bounds of groups are held about three times while the best are chosen.
    segment = scratch_bytes // 2 // (12 * shape.batch) * rows
    segment = max(segment // block, 1) * block
    num_segments = -(-shape.shard_rows // segment)
    segment = -(-shape.shard_rows // (num_segments * block)) * block
    rescored = num_rescored(shape, oversampling=oversampling) * rows
    query_bytes = rescored * shape.width * (shape.item_bytes + 4)
    query_bytes += rescored * 4 * (4 + shape.num_excluded)
    most = scratch_bytes // 2
    if platform == "cpu":
        most = min(most, _CPU_RESCORED_BYTES)
    num_chunks = -(-shape.batch // max(1, most // query_bytes))
    return GroupSizes(
        group_rows=rows,
        block_rows=min(block, segment),
        segment_rows=segment,
        rescored_queries=-(-shape.batch // num_chunks),
    )
