"""Rankings of other tools are read, set against questions, and written again."""

import json

import numpy as np
import pytest

from art_jax.data import example_files, kilt_files
from art_jax.data.examples import Candidate
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import candidates, rankings

QUESTIONS = [Question("q1", "who’s there?", ("ann",)), Question("q2", "where?")]


def put(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def ids(found):
    return [candidates.ids_of(row) for row in found]


CONTEXTS = {"id": "p1", "title": "t", "text": "by ann", "score": "2.5"}
FILES = {
    "trec": "q1 Q0 p1 1 2.5 x\nq2 Q0 p2 1 7 x\nq1 Q0 p3 2 1.5 x\n",
    # Without ids, and with an apostrophe as DPR's tools write it.
    "dpr-results": [
        {"question": "where?", "answers": [], "ctxs": [{**CONTEXTS, "id": "p2"}]},
        {
            "question": "who's there?",
            "answers": ["ann"],
            "ctxs": [CONTEXTS, {**CONTEXTS, "id": "p3", "score": 1.5}],
        },
    ],
    "pyserini": {
        "q2": {
            "question": "where?",
            "answers": [],
            "contexts": [{"docid": "p2", "score": 7, "text": "t\nx"}],
        },
        "q1": {
            "question": "who?",
            "answers": ["ann"],
            "contexts": [
                {"docid": "p1", "score": 2.5, "text": "t\nby ann"},
                {"docid": "p3", "score": 1.5, "text": "t\nx"},
            ],
        },
    },
}


@pytest.mark.parametrize("file_format", FILES)
def test_formats_are_told_and_give_the_same_rankings(tmp_path, file_format):
    path = put(tmp_path / "rankings", FILES[file_format])
    read = rankings.read_rankings(path)
    assert read.file_format == file_format
    assert read.num_questions == 2
    found = rankings.rank_questions(read, QUESTIONS)
    assert ids(found) == [["p1", "p3"], ["p2"]]
    assert [one.score for one in found[0]] == [2.5, 1.5]
    if file_format != "trec":
        assert found[0, 0].passage == Passage("p1", "by ann", "t")


def test_fid_lines_are_results_too(tmp_path):
    lines = [
        {"id": "1", "question": "where?", "ctxs": [CONTEXTS]},
        {"id": "q1", "question": "where?", "ctxs": [{**CONTEXTS, "id": "p9"}]},
    ]
    path = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
    read = rankings.read_rankings(path)
    assert read.file_format == "dpr-results"
    # Two entries of one text are told by their ids.
    asked = [Question("q1", "where?"), Question("1", "where?")]
    assert ids(rankings.rank_questions(read, asked)) == [["p9"], ["p1"]]
    with pytest.raises(DataError, match="lack 1 of 2 questions.*'q7'"):
        rankings.rank_questions(read, [asked[0], Question("q7", "where?")])


def test_line_numbers_are_no_ids(tmp_path):
    # DPR's results have no ids: the number of a line is not that of a question.
    path = put(tmp_path / "x.json", FILES["dpr-results"])
    questions = [Question("1", "who's there?"), Question("2", "where?")]
    found = rankings.rank_questions(rankings.read_rankings(path), questions)
    assert ids(found) == [["p1", "p3"], ["p2"]]


def test_predictions_of_kilt(tmp_path):
    places = [
        {"wikipedia_id": "7", "end_paragraph_id": 2},
        {"wikipedia_id": 8},
        {"wikipedia_id": "7", "end_paragraph_id": 2},
    ]
    lines = [
        {"id": "q1", "output": [{"answer": "ann", "provenance": places}]},
        {"id": "q2", "input": "where?", "output": [{"provenance": places[1:2]}]},
    ]
    path = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
    read = rankings.read_rankings(path)
    assert read.file_format == "kilt"
    assert read.answers == {"q1": "ann"}
    found = rankings.rank_questions(read, QUESTIONS)
    assert ids(found) == [["7+2", "8"], ["8"]]
    # A place comes once, and scores fall: they can be measured, and written as a run.
    candidates.as_run(["q1", "q2"], found)
    two = {"id": "q1", "output": [{}, {}]}
    with pytest.raises(DataError, match="'q1' has 2 outputs"):
        rankings.read_rankings(put(tmp_path / "y.jsonl", two))


def test_missing_questions_are_no_silent_matter(tmp_path):
    read = rankings.read_rankings(put(tmp_path / "x", FILES["trec"]))
    asked = [*QUESTIONS, Question("q3", "when?")]
    with pytest.raises(DataError, match="lack 1 of 3 questions.*'q3': say --missing"):
        rankings.rank_questions(read, asked)
    assert ids(rankings.rank_questions(read, asked, missing="zero"))[2] == []
    for missing in rankings.MISSING:
        with pytest.raises(DataError, match="lack 1 of 1 .* of another set"):
            rankings.rank_questions(read, asked[2:], missing=missing)
    with pytest.raises(ConfigError, match="'error' or 'zero'"):
        rankings.rank_questions(read, asked, missing="skip")


def test_what_is_no_ranking(tmp_path):
    with pytest.raises(DataError, match="these are no rankings"):
        rankings.read_rankings(put(tmp_path / "x", "who?\nwhere?\n"))


def test_texts_come_from_a_corpus(tmp_path):
    read = rankings.read_rankings(put(tmp_path / "x", FILES["trec"]))
    found = rankings.rank_questions(read, QUESTIONS)
    corpus = [Passage(f"p{n}", f"text {n}") for n in range(5)]
    with_texts = rankings.with_texts(found, iter(corpus))
    assert with_texts[0, 1] == Candidate(corpus[3], 1.5)
    assert with_texts[1, 1] is None
    with pytest.raises(DataError, match="1 passages .* such as 'p3'"):
        rankings.with_texts(found, corpus[:3])


def test_results_are_written_with_what_is_right(tmp_path):
    read = rankings.read_rankings(put(tmp_path / "x", FILES["pyserini"]))
    found = rankings.rank_questions(read, QUESTIONS)
    hits = np.array([[True, False], [False, False]])
    ranked = rankings.ranked_questions(QUESTIONS, found, hits)
    example_files.write_examples(tmp_path / "out.json", ranked, "dpr-results")
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert [one["has_answer"] for one in first["ctxs"]] == [True, False]
    assert first["ctxs"][0]["score"] == "2.5"
    assert len(second["ctxs"]) == 1


def test_predictions_are_written_best_first(tmp_path):
    passages = [Passage(one, "x", "T") for one in ("7+2+1", "8", "7+2+0")]
    found = candidates.stack([[Candidate(one, 1.0) for one in passages], []])
    items = rankings.kilt_predictions(QUESTIONS, found)
    kilt_files.write_kilt(tmp_path / "x.jsonl", items)
    first, second = kilt_files.read_kilt(tmp_path / "x.jsonl")
    assert first.outputs[0].provenance == (
        kilt_files.Provenance("7", "T", end_paragraph=2),
        kilt_files.Provenance("8", "T"),
    )
    assert second.outputs[0].provenance == ()
