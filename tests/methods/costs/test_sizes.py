import dataclasses

import numpy as np
import pytest

from art_jax.errors import ConfigError
from art_jax.methods.costs import sizes
from art_jax.methods.costs.sizes import Cluster
from art_jax.models import t5
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher


def test_devices_are_groups_times_model(kind):
    cluster = Cluster(kind, 8, 2, memory_share=0.5)
    assert cluster.data_parallelism == 4
    assert dict(cluster.mesh.shape) == {"data": 4, "model": 2}
    assert cluster.usable_bytes == 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_devices": 0}, "0 devices with model_parallelism 1: both are at least 1"),
        ({"model_parallelism": 3}, "3 does not divide 8 devices"),
        ({"matmul_share": 0.0}, "matmul_share is 0.0: above 0, up to 1"),
        ({"bandwidth_share": 1.1}, "bandwidth_share is 1.1"),
        ({"memory_share": -1}, "memory_share is -1"),
    ],
)
def test_what_no_cluster_can_be(kind, changes, message):
    with pytest.raises(ConfigError, match=message):
        Cluster(**{"kind": kind, "num_devices": 8, **changes})


def test_made_up_lengths_have_the_mean_and_the_spread():
    lengths = sizes.spread_lengths(135, 0.1)
    assert lengths.mean() == pytest.approx(135, abs=0.1)
    assert lengths.std() == pytest.approx(13.5, rel=0.01)
    assert (np.diff(lengths) >= 0).all()
    assert sizes.spread_lengths(20, 0).tolist() == [20] * len(lengths)
    assert sizes.spread_lengths(1, 5).min() == 1


def test_rows_are_padded_to_equal_shares(cluster):
    assert sizes.shard_rows(30, cluster(8, 2)) == 4
    assert sizes.shard_rows(32, cluster(8, 2)) == 4
    assert sizes.shard_rows(33, cluster(8, 2)) == 5


def test_a_token_takes_two_bytes_up_to_65536_words():
    assert sizes.token_bytes(1 << 16) == 2
    assert sizes.token_bytes((1 << 16) + 1) == 4


def test_refreshes_are_at_the_start_when_due_and_at_the_end(stage):
    def count(**changes):
        return sizes.num_refreshes(dataclasses.replace(stage, **changes))

    assert count(train_steps=10, refresh_every_steps=5) == 3  # at 0, 5 and 10
    assert count(train_steps=11, refresh_every_steps=5) == 4  # and at 11
    assert count(train_steps=3, refresh_every_steps=5) == 2
    assert count(refresh_every_steps=None) == 0
    assert count(refresh_every_steps=5, frozen=("passage",)) == 1
    assert count(rolling_refresh=True) == 1


def test_batches_must_split_over_groups_and_chunks(run, stage, cluster):
    sizes.check_sizes(run, cluster(8))
    with pytest.raises(ConfigError, match="BATCH_SIZE of stage 'pairs' is 8: 16"):
        sizes.check_sizes(run, cluster(16))
    sizes.check_sizes(run, cluster(16, 2))
    chunked = dataclasses.replace(stage, num_chunks=4)
    run = dataclasses.replace(run, stages=(chunked,))
    sizes.check_sizes(run, cluster(2))
    with pytest.raises(ConfigError, match="Choose a multiple of 16"):
        sizes.check_sizes(run, cluster(4))


def test_a_teacher_must_split_over_the_model_axis(run, stage, cluster):
    teacher = T5Teacher(t5.v1_1("small"))  # of six heads
    stage = dataclasses.replace(stage, teacher=teacher)
    run = dataclasses.replace(run, stages=(stage,))
    sizes.check_sizes(run, cluster(2, 2))
    with pytest.raises(ConfigError, match="MODEL_PARALLELISM 4 does not .* num_heads"):
        sizes.check_sizes(run, cluster(4, 4))


def test_a_device_has_its_share_of_teacher_and_chunk(cluster):
    teacher = T5Teacher(t5.v1_1("xl"), chunk_size=256)
    local = sizes.local_teacher(teacher, cluster(32, 4))
    assert local.chunk_size == 256 // 8
    assert local.config.num_heads == 32 // 4
    assert local.config.mlp_dim == 5120 // 4
    assert local.config.emb_dim == 2048
    words = QueryLikelihoodTeacher()
    assert sizes.local_teacher(words, cluster(32, 4)) is words


def test_the_samples_buckets_hold_every_row_once(run):
    buckets = sizes.sampled_buckets(run)
    rows = np.concatenate([bucket.local_rows.reshape(-1) for bucket in buckets])
    assert sorted(rows[rows < 30]) == list(range(30))
    assert [bucket.length for bucket in buckets] == [4]
    assert sizes.padding_share(run) == 0


def test_a_searchs_shape_is_that_of_one_device(run, stage, cluster):
    stage = dataclasses.replace(stage, num_passages=4)
    shape = sizes.search_shape(run, stage, cluster(2))
    assert (shape.batch, shape.shard_rows, shape.width) == (8, 15, 4)
    assert (shape.item_bytes, shape.num_results) == (2, 4)
