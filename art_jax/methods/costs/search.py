"""What an exact search takes of one device, for every method of `SearchOptions`."""

import functools

from art_jax.index import search_options
from art_jax.index.search_options import SearchOptions, SearchShape


@functools.lru_cache(maxsize=256)
def search_bytes(
    options: SearchOptions, shape: SearchShape, kind_name: str
) -> tuple[int, int]:
    """Returns memory a search takes on a device, and bytes it reads and writes.

    Args:
        options: how it goes about it.
        shape: of the search on one device.
        kind_name: of the device.
    """
    platform = "tpu" if kind_name.startswith("v") else "gpu"
    method = search_options.choose_method(options, shape, platform)
    scores = 4 * shape.batch * shape.shard_rows
    table = shape.shard_rows * shape.width * shape.item_bytes
    if method == "plain":
        rows = search_options.block_rows(shape, options.scratch_bytes)
        row = 32 * shape.batch + shape.width * (shape.item_bytes + 4)
        # Scores are written, and read by the sort.
        return min(rows, shape.shard_rows) * row, table + 2 * scores
    is_int8 = method.startswith("int8")
    oversampling = options.int8_oversampling if is_int8 else 1
    sizes = search_options.group_sizes(
        shape,
        scratch_bytes=options.scratch_bytes,
        oversampling=oversampling,
        platform=platform,
    )
    rescored = search_options.num_rescored(shape, oversampling=oversampling)
    rescored_rows = rescored * sizes.group_rows
    query = rescored_rows * (2 * shape.width * 4 + 4 * (4 + shape.num_excluded))
    block_row = 4 * shape.batch + shape.width * (shape.item_bytes + 4)
    scratch = (
        sizes.block_rows * block_row
        + 12 * shape.batch * (sizes.segment_rows // sizes.group_rows)
        + sizes.rescored_queries * query
    )
    if is_int8:
        table = shape.shard_rows * (shape.width + 2 * 4)
    if not method.endswith("triton"):
        table += 2 * scores
    maxima = 2 * scores // sizes.group_rows
    copies = 2 * shape.batch * rescored_rows * shape.width * shape.item_bytes
    return scratch, table + maxima + copies
