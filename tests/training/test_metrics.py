"""Metrics: one line a record, each once, whatever killed the run."""

import json

import pytest

from art_jax.training.metrics import MetricsWriter, read_metrics


def write(directory, steps, **opened):
    writer = MetricsWriter(directory, **opened)
    for step, scalars in steps:
        writer.write(step, scalars)
    writer.close()


RECORDS = [
    (0, {"dev/a": 0.1}),
    (1, {"loss": 1.0}),
    (2, {"loss": 2.0}),
    (2, {"dev/a": 0.2}),
    (3, {"loss": 3.0}),
]


def test_records_come_back_in_order(tmp_path):
    write(tmp_path, RECORDS, from_step=0, boundary_done=False)
    want = [{"step": step, **scalars} for step, scalars in RECORDS]
    assert read_metrics(tmp_path) == want
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("from_step", "boundary_done", "num_kept"),
    [(0, False, 0), (0, True, 1), (2, False, 3), (2, True, 4), (3, False, 5)],
)
def test_what_will_be_done_again_is_dropped(
    tmp_path, from_step, boundary_done, num_kept
):
    write(tmp_path, RECORDS, from_step=0, boundary_done=False)
    write(tmp_path, [], from_step=from_step, boundary_done=boundary_done)
    want = [{"step": step, **scalars} for step, scalars in RECORDS[:num_kept]]
    assert read_metrics(tmp_path) == want


def test_a_line_cut_short_is_dropped(tmp_path):
    write(tmp_path, RECORDS[:2], from_step=0, boundary_done=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    write(tmp_path, [(2, {"loss": 2.0})], from_step=2, boundary_done=True)
    assert [record["step"] for record in read_metrics(tmp_path)] == [0, 1, 2]


def test_what_is_not_finite_is_a_string_that_any_json_reader_takes(tmp_path):
    scalars = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 0.5}
    write(tmp_path, [(1, scalars)], from_step=0, boundary_done=False)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    record = json.loads(text, parse_constant=refuse)
    assert record == {"step": 1, "a": "nan", "b": "inf", "c": "-inf", "d": 0.5}
    assert str(float(record["a"])) == "nan"
