import dataclasses

import pytest

from art_jax.errors import ConfigError
from art_jax.hardware import DeviceKind
from art_jax.methods.costs import memory, plan
from art_jax.methods.costs.sizes import Cluster

SHARES = {"matmul_share": 1.0, "bandwidth_share": 1.0, "memory_share": 1.0}


def kind_of(num_bytes):
    return DeviceKind("v0", ("v0",), 100.0, num_bytes, 10.0, 1.0)


def test_hours_are_those_of_steps_and_refreshes(run, cluster):
    got = plan.plan_run(run, cluster(2))
    (stage,) = got["stages"]
    seconds = sum(part["seconds"] for part in stage["step"].values())
    assert stage["step_seconds"] == seconds
    refreshing = 3 * got["refresh"]["seconds"]
    assert stage["hours"] == pytest.approx((10 * seconds + refreshing) / 3600)
    assert stage["refresh_share"] == pytest.approx(
        refreshing / (10 * seconds + refreshing)
    )
    assert got["hours"] == stage["hours"]


def test_it_fits_where_the_peak_does(run, cluster):
    peak = memory.stage_memory(run, 0, cluster()).peak_bytes
    for num_bytes, fits in ((peak, True), (peak - 1, False)):
        got = plan.plan_run(run, Cluster(kind_of(num_bytes), 1, **SHARES))
        assert got["fits"] is fits
        assert got["peak_bytes"] == peak
        assert bool(got["remedies"]) is not fits


def test_remedies_say_what_suffices_first(run, cluster):
    peak = memory.stage_memory(run, 0, cluster()).peak_bytes
    streamed = dataclasses.replace(run, stream_tokens=True)
    less = memory.stage_memory(streamed, 0, cluster()).peak_bytes
    got = plan.find_remedies(run, Cluster(kind_of(peak - 1), 1, **SHARES))
    found = {remedy["change"]: remedy for remedy in got}
    assert found["STREAM_TOKENS = True"]["peak_bytes"] == less
    assert found["STREAM_TOKENS = True"]["fits"]
    # Two devices are enough, so four are not proposed.
    assert [name for name in found if "devices" in name] == ["2 devices"]
    fits = [remedy["fits"] for remedy in got]
    assert fits == sorted(fits, reverse=True)


def test_a_remedy_that_does_not_suffice_is_the_most_that_can_be_done(run):
    got = plan.find_remedies(run, Cluster(kind_of(10), 1, **SHARES))
    assert not any(remedy["fits"] for remedy in got)
    # A batch of eight cannot be split over sixteen.
    assert "8 devices" in [remedy["change"] for remedy in got]


def test_the_fewest_devices_that_fit(run, cluster):
    of_two = memory.stage_memory(run, 0, cluster(2)).peak_bytes
    got = plan.plan_smallest(run, kind_of(of_two), None, SHARES)
    assert (got["num_devices"], got["model_parallelism"]) == (2, 1)
    got = plan.plan_smallest(run, kind_of(1 << 40), 2, SHARES)
    assert (got["num_devices"], got["model_parallelism"]) == (2, 2)
    assert plan.plan_smallest(run, kind_of(10), None, SHARES) is None


def test_sizes_that_do_not_divide_are_refused(run, cluster):
    with pytest.raises(ConfigError, match="cannot split it evenly"):
        plan.plan_run(run, cluster(3))
