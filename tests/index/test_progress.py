"""Lines of a refresh: by the clock, with the share of the peak and the time left."""

import dataclasses
import types

import numpy as np
import pytest

from art_jax import hardware, partitioning
from art_jax.index import progress, refresh
from art_jax.models import bert, flops

CONFIG = bert.tiny()


def make_refresher(num_devices=2, config=CONFIG):
    mesh = partitioning.make_mesh(num_devices)
    lengths = np.array([10, 4, 4, 4, 4, 4, 4, 30])
    rows = types.SimpleNamespace(
        width=10, rows_per_shard=len(lengths) // num_devices, mesh=mesh
    )
    return refresh.Refresher(
        encode=None,
        rows=rows,
        lengths=lengths,
        width=1,
        mesh=mesh,
        evidence_digest="",
        chunk_tokens=10,
        config=config,
    )


def make_lines(refresher, *, times, every_seconds=5.0):
    lines = []
    clock = iter(times)
    report = progress.make_progress(
        refresher,
        lines.append,
        every_seconds=every_seconds,
        clock=lambda: next(clock),
    )
    return report, lines


def test_lines_come_by_the_clock_and_at_the_end():
    refresher = make_refresher(config=None)
    report, lines = make_lines(refresher, times=[0, 100, 103, 105, 109, 110])
    assert len(lines) == 1
    assert lines[0].startswith("embedding 8 passages in 1 lengths, ")
    for done in (0, 2, 4, 6, 8):
        report(done)
    # Since the first call, at 100: 4 in 5 seconds, 8 in 10.
    assert [line.split("  ")[:2] for line in lines[1:]] == [
        ["embedded 4/8 passages", "1/s"],
        ["embedded 8/8 passages", "1/s"],
    ]
    assert lines[-1].endswith("ETA 0:00")


def test_time_left_is_by_tokens_where_operations_are_not_counted():
    refresher = make_refresher(config=None)
    rows_done, work_done = progress.work_by_rows(refresher)
    # One length, 10; calls of a row a shard, in order: 10 + 4 tokens, 4 + 4, 4 + 4,
    # and 4 + 10, the longest being cut.
    assert rows_done.tolist() == [0, 2, 4, 6, 8]
    assert work_done.tolist() == [0, 14, 22, 30, 44]
    report, lines = make_lines(refresher, times=[0, 100, 170])
    report(2)
    report(4)
    # 8 tokens in 70 seconds; 22 are left: 192.5 seconds.
    assert lines[-1].endswith("ETA 3:12")


def test_mfu_is_of_real_tokens_by_the_data_sheet(monkeypatch):
    kind = dataclasses.replace(hardware.device_kind("H100"), matmul_flops=1e6)
    monkeypatch.setattr(hardware, "find_device_kind", lambda name: kind)
    report, lines = make_lines(make_refresher(), times=[0, 100, 110])
    report(0)
    report(8)
    work = sum(flops.bert_flops(CONFIG, 1, n) for n in [10, 4, 4, 4, 4, 4, 4, 10])
    share = work / 10 / (2 * 1e6)
    assert f"  MFU {share:.1%}  " in lines[-1]


@pytest.mark.parametrize("config", [None, CONFIG])
def test_no_mfu_for_a_device_or_a_model_that_nobody_knows(monkeypatch, config):
    if config is None:
        kind = hardware.device_kind("H100")
        monkeypatch.setattr(hardware, "find_device_kind", lambda name: kind)
    report, lines = make_lines(make_refresher(config=config), times=[0, 1, 10])
    report(0)
    report(4)
    assert "MFU" not in lines[-1]


def test_parts_made_before_a_kill_do_not_count_as_speed():
    report, lines = make_lines(make_refresher(config=None), times=[0, 1, 11])
    report(6)  # all at once, from disk
    report(8)
    assert "  0/s" in lines[-1]  # 2 in 10 seconds
