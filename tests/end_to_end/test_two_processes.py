"""Two processes of two devices train as one process of four does.

As on a TPU pod: each loads only its rows and its part of a batch, a signal to one
stops all, and all go on together.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import train_state
from art_jax.index import table
from art_jax.training import metrics

WORKER = pathlib.Path(__file__).with_name("two_processes_worker.py")
SECONDS = 240  # far more than they take; a process that waits for ever is killed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(directory: pathlib.Path, num_processes: int) -> list[subprocess.Popen]:
    directory.mkdir()
    port = free_port()
    processes = []
    for index in range(num_processes):
        command = [sys.executable, WORKER, directory, port, num_processes, index]
        with (directory / f"log_{index}").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    list(map(str, command)),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"JAX_PLATFORMS": "cpu"},
                )
            )
    return processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a run in one process and of the same in two, both finished."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = folder / "one", folder / "two"
    processes = start(two, 2) + start(one, 1)
    deadline = time.monotonic() + SECONDS
    try:
        for process in processes:
            process.wait(max(1, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = [
        f"{path}:\n{path.read_text(errors='replace')[-3000:]}"
        for path in sorted(folder.glob("*/log_*"))
    ]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(logs)
    return one, two


def facts(directory, index=0):
    return json.loads((directory / f"facts_{index}.json").read_text())


def test_there_were_two_processes_of_two_devices(runs):
    one, two = runs
    assert (facts(one)["devices"], facts(one)["local_devices"]) == (4, 4)
    for index in (0, 1):
        held = facts(two, index)
        assert (held["devices"], held["local_devices"]) == (4, 2)


def test_losses_are_those_of_one_process(runs):
    one, two = (metrics.read_metrics(run / "art") for run in runs)
    assert [record["step"] for record in one] == [record["step"] for record in two]
    assert sum("loss" in record for record in one) == 12
    assert sum("dev/top_5_accuracy" in record for record in one) == 4
    for want, got in zip(one, two, strict=True):
        assert want.keys() == got.keys()
        for name, value in want.items():
            # Sums over devices are taken in another order; nothing else differs.
            np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def test_the_saved_table_is_that_of_one_process(runs):
    mesh = partitioning.make_mesh(1)
    one, two = (table.load_table(run / "index", mesh) for run in runs)
    assert (two.num_rows, two.table_step) == (one.num_rows, one.table_step) == (41, 12)
    assert two.evidence_digest == one.evidence_digest
    want = np.asarray(one.embeddings)
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(
        np.asarray(two.embeddings)[:41], want[:41], rtol=1e-5, atol=1e-6
    )


def test_a_search_of_both_processes_finds_what_one_finds(runs):
    one, two = runs
    assert facts(two, 0)["found_rows"] == facts(two, 1)["found_rows"]
    assert facts(two)["found_rows"] == facts(one)["found_rows"]
    np.testing.assert_allclose(
        facts(two)["found_scores"], facts(one)["found_scores"], rtol=1e-5
    )


def test_each_process_loads_only_its_own_rows(runs):
    one, two = runs
    # 41 rows on 4 devices: 11 each, the first two devices in the first process.
    own = [list(range(22)), list(range(22, 41))]
    assert facts(one)["placed_rows"] == facts(one)["refreshed_rows"] == sum(own, [])
    for index in (0, 1):
        assert facts(two, index)["placed_rows"] == own[index]
        assert facts(two, index)["refreshed_rows"] == own[index]


def test_each_process_reads_only_its_part_of_every_batch(runs):
    _, two = runs
    for index in (0, 1):
        reads = [read for read in facts(two, index)["reads"] if read["axes"]]
        assert {str(read["axes"]) for read in reads} == {"data", "['data', 'model']"}
        for read in reads:
            half = read["of"][0] // 2
            assert half * index <= read["first"] < read["last"] <= half * (index + 1)


def test_the_signal_to_one_stopped_both_and_both_went_on(runs):
    _, two = runs
    checkpoints = two / "art" / "checkpoints"
    assert train_state.read_info(checkpoints)["step"] == 12
    # Of the tenth step there is one record, though a run ended and another began.
    steps = [r["step"] for r in metrics.read_metrics(two / "art") if "loss" in r]
    assert steps == list(range(1, 13))
