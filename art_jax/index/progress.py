"""How far a refresh is: passages, speed, share of the device's peak, time left."""

import time
from collections.abc import Callable

import numpy as np

from art_jax import hardware, partitioning
from art_jax.index.buckets import padding_share
from art_jax.index.refresh import Refresher
from art_jax.models.flops import bert_flops


def make_progress(
    refresher: Refresher,
    report: Callable[[str], None],
    *,
    every_seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[int], None]:
    """Returns an `on_progress` for `refresh` that reports a line now and then.

    The first line says what is to be done and how much of it is padding. Time left is
    by operations, since long passages come first. MFU is of operations on tokens that
    passages have, padding not counted, by the device's data sheet.

    Args:
        refresher: of the refresh; without its `config` there is no MFU.
        report: given one line at a time.
        every_seconds: between lines, at least.
        clock: gives seconds.
    """
    num_rows = len(refresher.lengths)
    rows_done, work_done = work_by_rows(refresher)
    peak = peak_flops(refresher)
    report(
        f"embedding {num_rows:,} passages in {len(refresher.buckets)} lengths, "
        f"{padding_share(refresher.buckets, refresher.lengths):.1%} padding"
    )
    started = shown = clock()
    first = None

    def progress(done: int) -> None:
        nonlocal started, shown, first
        now = clock()
        if first is None:
            # The first call compiles, or was made before a kill: no speed of this run.
            first, started, shown = done, now, now
            return
        if now - shown < every_seconds and done < num_rows:
            return
        shown = now
        seconds = max(now - started, 1e-9)
        work, first_work = np.interp([done, first], rows_done, work_done)
        rate, speed = (done - first) / seconds, (work - first_work) / seconds
        left = int((work_done[-1] - work) / max(speed, 1e-9))
        mfu = f"  MFU {speed / peak:.1%}" if peak else ""
        report(
            f"embedded {done:,}/{num_rows:,} passages  {rate:,.0f}/s"
            f"{mfu}  ETA {left // 60}:{left % 60:02d}"
        )

    return progress


def peak_flops(refresher: Refresher) -> float | None:
    """Returns the operations a second of all devices by their data sheet, if known."""
    device = refresher.mesh.devices.flat[0]
    kind = hardware.find_device_kind(device.device_kind)
    if kind is None or refresher.config is None:
        return None
    return kind.matmul_flops * partitioning.num_row_shards(refresher.mesh)


def work_by_rows(refresher: Refresher) -> tuple[np.ndarray, np.ndarray]:
    """Returns ([calls + 1] rows done, [calls + 1] work done) from start to end.

    Work is operations on the rows' own tokens, or tokens where the refresher has no
    `config`.
    """
    lengths = np.minimum(refresher.lengths, refresher.rows.width)
    work = row_work(refresher)
    rows_per_shard = refresher.rows.rows_per_shard
    num_rows, works = [0], [0.0]
    for bucket in refresher.buckets:
        shards = np.arange(len(bucket.local_rows))[:, None, None]
        is_row = bucket.local_rows < rows_per_shard
        rows = np.where(is_row, bucket.local_rows + shards * rows_per_shard, 0)
        num_rows.extend(bucket.num_rows)
        works.extend(np.where(is_row, work[lengths[rows]], 0).sum(axis=(0, 2)))
    return np.cumsum(num_rows), np.cumsum(works)


def row_work(refresher: Refresher) -> np.ndarray:
    """Returns [L + 1] float64: the work of embedding a row of each length."""
    lengths = range(refresher.rows.width + 1)
    if refresher.config is None:
        return np.array(lengths, np.float64)
    return np.array([bert_flops(refresher.config, 1, n) for n in lengths], np.float64)
