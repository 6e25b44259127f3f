"""Options are checked, and sizes follow from the memory a search may use."""

import dataclasses

import pytest

from art_jax.errors import ConfigError
from art_jax.index import search_options
from art_jax.index.search_options import SearchOptions, SearchShape

WIKIPEDIA = SearchShape(
    batch=64,
    shard_rows=21_015_324,
    width=768,
    item_bytes=2,
    num_results=100,
    num_excluded=1,
)
SMALL = dataclasses.replace(WIKIPEDIA, shard_rows=700)


@pytest.mark.parametrize(
    "options", [{"method": "fast"}, {"scratch_bytes": 0}, {"int8_oversampling": 0}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=str(*options.values())):
        SearchOptions(**options)


@pytest.mark.parametrize(
    ("shape", "platform", "want"),
    [(WIKIPEDIA, "cpu", "groups"), (WIKIPEDIA, "gpu", "plain")]
    + [(WIKIPEDIA, "tpu", "plain"), (SMALL, "cpu", "plain")],
)
def test_auto_is_what_was_measured(shape, platform, want):
    assert search_options.choose_method(SearchOptions(), shape, platform) == want


@pytest.mark.parametrize(
    ("method", "other"), [("triton", "groups"), ("int8_triton", "int8")]
)
def test_the_kernel_is_refused_where_it_does_not_run(method, other):
    options = SearchOptions(method=method)
    with pytest.raises(ConfigError, match=f"on a cpu: choose '{other}'"):
        search_options.choose_method(options, WIKIPEDIA, "cpu")
    assert search_options.choose_method(options, WIKIPEDIA, "gpu") == method
    interpreted = SearchOptions(method=method, interpret=True)
    assert search_options.choose_method(interpreted, WIKIPEDIA, "cpu") == method


@pytest.mark.parametrize("scratch_bytes", [1, 10**6, 10**8, 10**9])
@pytest.mark.parametrize("shape", [WIKIPEDIA, SMALL])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_sizes_are_multiples_and_within_the_shard(scratch_bytes, shape, platform):
    sizes = search_options.group_sizes(
        shape, scratch_bytes=scratch_bytes, oversampling=1, platform=platform
    )
    assert sizes.group_rows in (8, 16, 32)
    assert sizes.block_rows % sizes.group_rows == 0
    assert sizes.segment_rows % sizes.block_rows == 0
    assert sizes.segment_rows < shape.shard_rows + sizes.block_rows
    assert 1 <= sizes.rescored_queries <= shape.batch


def test_a_shard_of_few_rows_has_groups_of_fewer():
    few = dataclasses.replace(WIKIPEDIA, shard_rows=5)
    assert search_options.group_rows(few, 1) == 4
