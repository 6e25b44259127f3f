"""A run that was stopped ends bit for bit where the uninterrupted one does."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints import train_state
from art_jax.errors import PreemptedError
from art_jax.methods.art import Art
from art_jax.training import preemption
from art_jax.training.metrics import read_metrics
from art_jax.training.optimizers import AdamW
from art_jax.training.stage import Stage

STEPS, INTERVAL = 12, 4


def make_stage(method, **settings):
    return Stage(
        "stage",
        method,
        train_steps=STEPS,
        batch_size=8,
        optimizer=AdamW(peak_learning_rate=0.01, warmup_share=0.1),
        refresh_every_steps=INTERVAL,
        eval_every_steps=INTERVAL,
        save_every_steps=INTERVAL,
        log_every_steps=1,
        choose_by="top_1_accuracy",
        seed=7,
        **settings,
    )


class Watch:
    """Evaluates, and keeps all that the run carries at each evaluation."""

    def __init__(self, evaluate, signal_at=None):
        self._evaluate, self._signal_at = evaluate, signal_at
        self.runs = {}

    def __call__(self, run):
        step = int(run.train.step)
        if step == self._signal_at:
            send_sigterm()
            preemption.poll()
        self.runs[step] = jax.device_get(
            {
                "train": run.train,
                "table": run.table.embeddings,
                "table_params": run.table_params,
                "provenance": [run.table.generation, run.table.table_step],
            }
        )
        return self._evaluate(run)


def send_sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def die():
    raise KeyboardInterrupt


def run_stage(
    tiny, evidence, encoder, method, directory, *, signal_at=None, **settings
):
    """Runs with objects of its own; returns the result and what was watched."""
    space = tiny.make_workspace(evidence, partitioning.make_mesh(2), encoder)
    watch = Watch(tiny.make_evaluate(space), signal_at)
    with preemption.watch_signals():
        params, _ = tiny.run_stage(
            make_stage(method, **settings),
            space,
            directory,
            evaluate=watch,
            chunk_tokens=64,  # a few rows, so that a slice is less than all
        )
    return jax.device_get(params), watch.runs


def assert_same_end(tiny, got, want, directory, want_directory):
    """Asserts equal results, states, tables and records, bit for bit."""
    (params, runs), (want_params, want_runs) = got, want
    assert STEPS in runs
    for step, run in runs.items():
        tiny.assert_trees_equal(run, want_runs[step])
    tiny.assert_trees_equal(params, want_params)
    records, want_records = read_metrics(directory), read_metrics(want_directory)
    assert [r["step"] for r in records] == [r["step"] for r in want_records]
    assert records == want_records


@pytest.mark.parametrize(
    ("of_method", "of_stage"),
    [
        ({}, {}),
        ({"write_back": True}, {"rolling_refresh": True, "num_chunks": 2}),
        ({"write_back": True, "cache_scores": True}, {"keep_refresh_parts": True}),
    ],
    ids=["plain", "written-back-and-rolling", "written-back-and-cached"],
)
def test_art_stopped_amid_a_refresh_interval(
    tiny, tiny_evidence, tmp_path, of_method, of_stage
):
    method = Art(tiny.TEACHER, num_passages=6, teacher_scale=8.0, **of_method)
    encoder = tiny.bag_encoder()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    want = run_stage(tiny, tiny_evidence, encoder, method, whole, **of_stage)
    assert sorted(want[1]) == [0, 4, 8, 12]

    stopped = tiny.Interrupted(method, at=5, happens=send_sigterm)
    with pytest.raises(PreemptedError, match="SIGTERM"):
        run_stage(tiny, tiny_evidence, encoder, stopped, parts, **of_stage)
    info = train_state.read_info(parts / "checkpoints")
    assert info["step"] == 6
    is_whole = not of_stage.get("rolling_refresh")
    # The table it needs is not of its weights.
    assert info["table"]["step"] == (4 if is_whole else 0)
    assert info["table"]["is_saved"] == method.write_back

    got = run_stage(tiny, tiny_evidence, encoder, method, parts, **of_stage)
    assert_same_end(tiny, got, want, parts, whole)


def test_a_damaged_table_in_a_checkpoint_is_passed_over(tiny, tiny_evidence, tmp_path):
    method = Art(tiny.TEACHER, num_passages=6, write_back=True)
    stopped = tiny.Interrupted(method, at=5)
    with pytest.raises(PreemptedError):
        run_stage(tiny, tiny_evidence, tiny.bag_encoder(), stopped, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    assert train_state.read_info(checkpoints)["step"] == 5
    files = (checkpoints / "checkpoint_5" / "table" / "embeddings").iterdir()
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert train_state.read_info(checkpoints)["step"] == 4


@pytest.fixture(scope="module")
def pulled(tiny, tiny_evidence, tmp_path_factory):
    """An uninterrupted run of the method that compiles at once."""
    directory = tmp_path_factory.mktemp("pulled")
    encoder = tiny.bag_encoder()
    return directory, run_stage(tiny, tiny_evidence, encoder, tiny.Pull(), directory)


@pytest.mark.parametrize(
    ("phase", "saved"),
    [
        ("start", (0, False)),
        ("refresh", (8, False)),
        ("evaluation", (8, False)),
        ("kill", (4, True)),
        ("twice", (7, True)),
    ],
)
def test_stopped_in_any_phase(tiny, tiny_evidence, pulled, tmp_path, phase, saved):
    want_directory, want = pulled
    method, signal_at = tiny.Pull(), None
    if phase == "refresh":
        # The signal comes in step 7; the refresh of step 8 is the first to ask.
        method = tiny.Interrupted(method, at=7, happens=send_sigterm)
    if phase == "evaluation":
        signal_at = 8
    if phase == "kill":
        method = tiny.Interrupted(method, at=6, happens=die)
    if phase == "twice":
        run_and_stop(tiny, tiny_evidence, tiny.Interrupted(method, at=5), tmp_path)
        method = tiny.Interrupted(method, at=7)
    if phase == "start":
        method = StoppedAtBind(method)
    run_and_stop(tiny, tiny_evidence, method, tmp_path, signal_at=signal_at)
    info = train_state.read_info(tmp_path / "checkpoints")
    assert (info["step"], info["boundary_done"]) == saved
    if phase == "evaluation":
        assert info["table"]["step"] == 8  # Its refresh is not done again.
    got = run_stage(tiny, tiny_evidence, tiny.bag_encoder(), tiny.Pull(), tmp_path)
    assert_same_end(tiny, got, want, tmp_path, want_directory)


def run_and_stop(tiny, evidence, method, directory, *, signal_at=None):
    encoder = tiny.bag_encoder()
    with pytest.raises((PreemptedError, KeyboardInterrupt)):
        run_stage(tiny, evidence, encoder, method, directory, signal_at=signal_at)


@dataclasses.dataclass(frozen=True)
class StoppedAtBind:
    """A method for which a signal comes before the first refresh."""

    method: object

    def bind(self, space, **settings):
        send_sigterm()
        return self.method.bind(space, **settings)


def test_resumed_on_other_devices_ends_within_rounding(
    tiny, tiny_evidence, pulled, tmp_path
):
    stopped = tiny.Interrupted(tiny.Pull(), at=6)
    run_and_stop(tiny, tiny_evidence, stopped, tmp_path)
    mesh = partitioning.make_mesh(8)
    space = tiny.make_workspace(tiny_evidence, mesh, tiny.bag_encoder())
    watch = Watch(tiny.make_evaluate(space))
    tiny.run_stage(make_stage(tiny.Pull()), space, tmp_path, evaluate=watch)
    want = pulled[1][1][STEPS]["train"].params
    for name, tower in watch.runs[STEPS]["train"].params.items():
        # Adam makes rounding of a gradient near zero as large as 1e-3 of a step.
        np.testing.assert_allclose(
            tower["embedding"], want[name]["embedding"], atol=1e-4
        )


def test_sigterm_in_a_process_of_its_own_ends_with_code_75(tiny, tmp_path):
    program = """
    import importlib.util, os, pathlib, signal, sys
    spec = importlib.util.spec_from_file_location("tiny_run", sys.argv[1])
    tiny = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = tiny
    spec.loader.exec_module(tiny)
    from art_jax import partitioning
    from art_jax.errors import ArtJaxError
    from art_jax.training import preemption, stage

    folder = pathlib.Path(sys.argv[2])
    space = tiny.make_workspace(
        tiny.build_evidence(folder / "evidence"),
        partitioning.make_mesh(1),
        tiny.bag_encoder(),
    )
    method = tiny.Interrupted(
        tiny.Pull(), at=2, happens=lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    with preemption.watch_signals():
        try:
            tiny.run_stage(
                stage.Stage("stage", method, train_steps=9, batch_size=2),
                space,
                folder / "stage",
            )
        except ArtJaxError as error:
            sys.exit(error.exit_code)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), tiny.__file__, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 75, ended.stderr
    assert train_state.read_info(tmp_path / "stage" / "checkpoints")["step"] == 3
