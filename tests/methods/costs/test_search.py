import pytest

from art_jax.index.search_options import (
    SearchOptions,
    SearchShape,
    group_sizes,
    num_rescored,
)
from art_jax.methods.costs.search import search_bytes

# A thousandth of psgs_w100 on one device.
SHAPE = SearchShape(
    batch=64,
    shard_rows=21_015,
    width=768,
    item_bytes=2,
    num_results=32,
    num_excluded=1,
)
TABLE = 21_015 * 768 * 2
SCORES = 21_015 * 64 * 4


def test_a_plain_search_reads_the_table_and_sorts_scores():
    _, read_bytes = search_bytes(SearchOptions("plain"), SHAPE, "H100")
    assert read_bytes == TABLE + 2 * SCORES


@pytest.mark.parametrize("method", ["plain", "groups", "triton", "int8"])
def test_memory_keeps_to_its_bound(method):
    options = SearchOptions(method, scratch_bytes=1 << 24)
    scratch, _ = search_bytes(options, SHAPE, "H100")
    assert 0 < scratch <= 1 << 24


def test_groups_by_hand():
    scratch, read_bytes = search_bytes(SearchOptions("groups"), SHAPE, "H100")
    sizes = group_sizes(SHAPE, scratch_bytes=1 << 30, oversampling=1, platform="gpu")
    rescored = num_rescored(SHAPE, oversampling=1) * sizes.group_rows
    maxima = 2 * SCORES // sizes.group_rows
    copied = 2 * 64 * rescored * 768 * 2
    assert read_bytes == TABLE + 2 * SCORES + maxima + copied
    assert scratch > 0


def test_a_kernel_writes_no_scores_and_int8_reads_half():
    def read_bytes(method):
        return search_bytes(SearchOptions(method), SHAPE, "H100")[1]

    assert read_bytes("groups") - read_bytes("triton") == 2 * SCORES
    codes = 21_015 * (768 + 8)
    assert codes < read_bytes("int8") - 2 * SCORES


def test_auto_is_what_the_device_would_take():
    auto = search_bytes(SearchOptions("auto"), SHAPE, "v4")
    assert auto == search_bytes(SearchOptions("plain"), SHAPE, "v4")
