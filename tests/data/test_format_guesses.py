"""Formats are told by what stands in a file, or not told."""

import gzip
import json

import pytest

from art_jax.data import format_guesses
from art_jax.data.convert import FORMATS
from art_jax.data.examples import RankedQuestion, TrainingExample
from art_jax.data.judgments import Judgment
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError

CONTEXTS = {"q1": {"question": "q", "answers": [], "contexts": []}}
FILES = [
    ("a.json", '[{"question": "q", "positive_ctxs": []}]', ["dpr"]),
    ("a.json", '[{"question": "q", "ctxs": []}]', ["dpr-results"]),
    ("a.json", '{"question": "q", "ctxs": [], "target": "x"}', ["fid"]),
    ("a.json", json.dumps(CONTEXTS), ["pyserini"]),
    ("a.json", json.dumps(CONTEXTS, indent=1), ["pyserini"]),
    ("a", '{"query": "q", "positive_passages": []}', ["tevatron"]),
    ("a", '{"anchor": "q", "positive": "p"}', ["sentence-transformers"]),
    ("a", '{"query": "q", "pos": [], "neg": []}', ["flagembedding"]),
    ("a", '{"docid": "1", "text": "x"}', ["tevatron-corpus"]),
    ("a", '{"id": "1", "input": "x", "output": []}', ["kilt"]),
    ("a", '{"_id": "1", "title": "", "text": "x"}', ["beir-corpus"]),
    ("a", '{"_id": "1", "text": "x", "answers": []}', ["beir-queries"]),
    ("a", '{"question": "x", "answer": []}', ["nq-open"]),
    ("a", '{"question": "x", "id": 1}', ["beir-queries"]),
    ("a", '{"_id": "1", "text": "x"}', ["beir-corpus", "beir-queries"]),
    ("queries.jsonl", '{"_id": "1", "text": "x"}', ["beir-queries"]),
    (
        "corpus.jsonl.gz",
        gzip.compress(b'{"_id": 1, "text": "x"}', mtime=0),
        ["beir-corpus"],
    ),
    ("a", '{"x": 1}', []),
    ("a", '[{"question": "x", "answers": []}]', ["entity-questions"]),
    ("a", '[{"question": "x", "annotations": []}]', ["ambigqa"]),
    ("a", '{"_id": 1, "question": "x", "annotations": []}', ["beir-queries"]),
    ("a", "7\tfactoid\twho is 0?\t(Ann|Bob)\n", ["curatedtrec"]),
    ("a", "7\tx\twho is 0?\t(Ann|Bob)\n", []),
    ("a", '[{"utterance": "x", "targetValue": ""}]', ["webquestions"]),
    ("a", '[{"x": 1}]', []),
    ("a", '{"Data": [], "Domain": "Web"}', ["triviaqa"]),
    ("a", '{\n "version": "1.1",\n "data": [\n{}]}', ["squad"]),
    ("a", '{\n "Version": "1.0",\n "Questions": [\n{}]}', ["webqsp"]),
    ("a", "{\n}", []),
    ("a", "query-id\tcorpus-id\tscore\n", ["beir-qrels"]),
    ("a", "q d 1\n", []),
    ("a", "q 0 d 1\n", ["trec-qrels"]),
    ("a", "q x d 1\n", []),
    ("a", "q Q0 d -1\n", ["trec-qrels"]),
    ("a.txt", "q Q0 d 1 0.5 tag\n", ["trec-run"]),
    ("a", "id\ttext\ttitle\n", ["dpr-passages"]),
    ("a", "1\tx\tt\n", ["dpr-passages"]),
    ("a", "1\tx\t2\n", ["dpr-passages", "beir-qrels"]),
    ("a", "1\tx\n", ["dpr-passages", "msmarco-queries"]),
    ("a", "who?\t['x']\n", ["dpr-questions"]),
    ("a.txt", "words\n", ["text-passages", "text-questions"]),
    ("a", "words\n", []),
    ("a", "", []),
]


@pytest.mark.parametrize(("name", "content", "want"), FILES)
def test_sources(tmp_path, name, content, want):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert list(format_guesses.guess_source(path)) == want


def test_a_folder_of_beir(tmp_path):
    assert format_guesses.guess_source(tmp_path) == ()
    (tmp_path / "corpus.jsonl").touch()
    (tmp_path / "queries.jsonl.gz").touch()
    assert format_guesses.guess_source(tmp_path) == ("beir",)


@pytest.mark.parametrize(
    ("name", "kind", "want"),
    [
        ("a.tsv", Passage, ["dpr-passages"]),
        ("a.tsv.gz", Judgment, ["beir-qrels"]),
        ("a.tsv", Question, ["dpr-questions"]),
        ("corpus.jsonl", Passage, ["beir-corpus"]),
        ("corpus.jsonl", Question, ["beir-queries", "nq-open", "kilt"]),
        ("a.jsonl", Passage, ["beir-corpus", "tevatron-corpus"]),
        ("a.json", TrainingExample, ["dpr"]),
        ("folder", TrainingExample, ["beir"]),
        ("folder", Passage, []),
        ("a.json", RankedQuestion, ["dpr-results", "fid", "pyserini"]),
    ],
)
def test_targets(name, kind, want):
    assert list(format_guesses.guess_target(name, kind)) == want


def test_what_is_not_certain_is_asked_for():
    assert format_guesses.chosen(("dpr",), "a", "--from") == "dpr"
    with pytest.raises(ConfigError, match=r"a .* certain \(nothing .*\): give --from"):
        format_guesses.chosen((), "a", "--from")
    with pytest.raises(ConfigError, match="it may be dpr or fid"):
        format_guesses.chosen(("dpr", "fid"), "a", "--to")


def test_every_guess_is_a_format():
    names = {name for _, _, names in FILES for name in names}
    assert names - {"trec-run"} <= set(FORMATS)
