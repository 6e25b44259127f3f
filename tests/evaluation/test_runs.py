import numpy as np
import pytest

from art_jax.errors import DataError
from art_jax.evaluation import runs
from art_jax.evaluation.runs import Ranking

RUN = {
    "q2": Ranking(("d9", "d1"), (2.5, 2.5)),
    "q1": Ranking(("d1",), (-0.125,)),
}


def test_file_is_what_trec_tools_read(tmp_path):
    runs.write_run(tmp_path / "run.trec", RUN.items(), tag="art")
    assert (tmp_path / "run.trec").read_text() == (
        "q2 Q0 d9 1 2.5 art\nq2 Q0 d1 2 2.5 art\nq1 Q0 d1 1 -0.125 art\n"
    )


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_round_trip_keeps_order_and_every_float32(tmp_path, name):
    scores = np.sort(np.random.default_rng(0).normal(size=50).astype(np.float32))[::-1]
    scores[7] = np.nextafter(scores[6], np.float32(-np.inf))
    ranking = Ranking(tuple(f"d{i}" for i in range(50)), tuple(scores.tolist()))
    run = {**RUN, "é": ranking}
    runs.write_run(tmp_path / name, run.items(), tag="t")
    back = runs.read_run(tmp_path / name)
    assert list(back) == list(run)
    assert back["q2"] == RUN["q2"]
    np.testing.assert_array_equal(np.float32(back["é"].scores), scores)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ([("q 1", Ranking(("d",), (1.0,)))], "question id 'q 1'"),
        ([("", Ranking(("d",), (1.0,)))], "question id ''"),
        ([("q", Ranking(("d\t1",), (1.0,)))], r"passage id 'd\\t1'"),
        ([("q", Ranking(("d",), (1.0,)))] * 2, "question 'q' comes twice"),
        ([("q", Ranking(("d", "d"), (2.0, 1.0)))], "passage 'd' comes twice"),
        ([("q", Ranking(("d", "e"), (1.0, 2.0)))], "'e' of question 'q'.* never rise"),
        ([("q", Ranking(("d",), (float("nan"),)))], "finite"),
    ],
)
def test_a_bad_run_leaves_the_old_file_and_nothing_else(tmp_path, run, message):
    path = tmp_path / "run.trec"
    path.write_text("before")
    with pytest.raises(DataError, match=message):
        runs.write_run(path, run, tag="t")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_tag_is_one_word(tmp_path):
    with pytest.raises(DataError, match="tag 'my run'"):
        runs.write_run(tmp_path / "run", RUN.items(), tag="my run")


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ("q Q0 d 1 2.0 t\nq Q0 e 2 1.0\n", 2, "5 fields"),
        ("q Q0 d 0 2.0 t\n", 1, "rank '0' where 1 is due"),
        ("q Q0 d 1 2.0 t\nq Q0 e 3 1.0 t\n", 2, "rank '3' where 2 is due"),
        ("q Q0 d 1 2.0 t\np Q0 d 1 2.0 t\nq Q0 d 2 1.0 t\n", 3, "'d' comes twice"),
        ("q Q0 d 1 nan t\n", 1, "score 'nan'"),
        ("q Q0 d 1 high t\n", 1, "score 'high'"),
        ("q Q0 d 1 1.0 t\nq Q0 e 2 2.0 t\n", 2, "score 2.0 is higher"),
        ("q Q0 d 1 1.0 t\n\nq Q0 e 2 0.5 t\n", 2, "0 fields"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, line, message):
    path = tmp_path / "run.trec"
    path.write_text(lines)
    with pytest.raises(DataError, match=message) as error:
        runs.read_run(path)
    assert (error.value.path, error.value.line) == (path, line)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "run").write_bytes(b"q Q0 d 1 1.0 t\nq Q0 \xff 2 0.5 t\n")
    with pytest.raises(DataError, match="is not UTF-8") as error:
        runs.read_run(tmp_path / "run")
    assert error.value.line == 2


def test_an_empty_file_is_no_run(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match="no line"):
        runs.read_run(tmp_path / "run")


def test_rankings_come_in_the_order_of_the_questions():
    assert runs.rankings_of(RUN, ["q1", "q2"]) == [RUN["q1"], RUN["q2"]]
    assert runs.rankings_of(RUN, ["q2"]) == [RUN["q2"]]


def test_a_question_without_a_ranking_is_an_error():
    with pytest.raises(DataError, match="lacks 2 of 3 questions.*'q3'"):
        runs.rankings_of(RUN, ["q3", "q1", "q4"])
