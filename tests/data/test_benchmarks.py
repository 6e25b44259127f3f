"""Benchmarks are found under the names their files are published with."""

import gzip
import json

import pytest

from art_jax.data import benchmarks
from art_jax.data.questions import Question
from art_jax.errors import ConfigError

EVERY = (
    *benchmarks.OPEN_QA,
    *benchmarks.ENTITY_QUESTIONS,
    *benchmarks.MULTI_ANSWER,
    *benchmarks.GENERATION,
    *benchmarks.KILT,
    *benchmarks.BEIR,
    benchmarks.MS_MARCO,
)
BY_NAME = {one.name: one for one in EVERY}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))

    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text.encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)

    return put


def read(name, split):
    return list(benchmarks.readers(BY_NAME[name])[split]())


def test_names_and_numbers():
    assert len(BY_NAME) == len(EVERY)
    assert len(benchmarks.ENTITY_QUESTIONS) == 24
    assert len(benchmarks.KILT) == 11
    # CQADupStack is 12 forums, each a set of its own.
    assert len(benchmarks.BEIR) == 18 + 12
    assert len(benchmarks.CQADUPSTACK) == 12


@pytest.mark.parametrize("name", BY_NAME)
def test_a_missing_file_says_who_publishes_it(name, data, tmp_path):
    benchmark = BY_NAME[name]
    for read_split in benchmarks.readers(benchmark).values():
        with pytest.raises(ConfigError, match="is missing") as caught:
            read_split()
        text = str(caught.value)
        assert benchmark.url in text
        assert benchmark.licence in text
        assert str(tmp_path / (benchmark.folder or name)) in text


def test_the_authors_file_and_the_tables_give_questions(data):
    data("nq/NQ-open.dev.jsonl", '{"question": "who?", "answer": ["a"]}\n')
    assert read("nq_open", "dev") == [Question("1", "who?", ("a",))]
    data("nq/nq-dev.csv", "art?\t['b']\n")
    assert read("nq_open", "dev") == [Question("1", "art?", ("b",))]
    data("nq/nq-dev.qa.csv.gz", "dpr?\t['c']\n")
    assert read("nq_open", "dev") == [Question("1", "dpr?", ("c",))]
    answer = {"Value": "x", "Aliases": []}
    record = {"Question": "q?", "QuestionId": "t", "Answer": answer}
    data("triviaqa/unfiltered-web-dev.json.gz", json.dumps({"Data": [record]}))
    assert read("triviaqa", "dev") == [Question("t", "q?", ("x",))]
    data("triviaqa/trivia-test.csv", "csv?\t['y']\n")
    assert read("triviaqa", "test") == [Question("1", "csv?", ("y",))]


def test_drqas_lines_are_no_plain_text(data):
    data("curatedtrec/CuratedTrec-test.txt", '{"question": "q?", "answer": ["a|b"]}')
    assert read("curatedtrec", "test") == [Question("1", "q?", ("a|b",))]


def test_a_relation_of_entity_questions(data):
    record = [{"question": "q?", "answers": ["x"]}]
    data("entity_questions/test/P17.test.json", json.dumps(record))
    assert read("entity_questions_p17", "test") == [Question("1", "q?", ("x",))]


def test_kilts_lines_are_read_as_its_own(data):
    line = {"id": "k", "input": "q", "output": [{"answer": "x"}]}
    data("kilt/structured_zeroshot-dev-kilt.jsonl", json.dumps(line))
    assert read("kilt_zeroshot_re", "dev") == [Question("k", "q", ("x",))]
    assert list(benchmarks.readers(BY_NAME["kilt_wned"])) == ["dev", "test"]


def test_texts_to_be_generated_and_made_sets(data):
    data("searchqa/val/1.json", '{"question": "clue", "answer": "Poe"}')
    assert read("jeopardy_qg", "dev") == [Question("1", "Poe", ("clue",))]
    line = '{"id": 1, "label": "NOT ENOUGH INFO", "claim": "a"}\n'
    data("fever/train.jsonl", line + line.replace("NOT ENOUGH INFO", "REFUTES"))
    assert len(read("fever_3way", "train")) == 2
    assert read("fever_2way", "train") == [Question("1", "a", ("REFUTES",))]
    line = '{"_id": "1", "text": "q?", "answers": ["a"], "answer_groups": [["a"]]}'
    data("curatedtrec/answer-sets-test.jsonl", line)
    (got,) = read("curatedtrec_sets", "test")
    assert got.answer_groups == (("a",),)


def test_sets_that_are_named_elsewhere_are_there():
    names = {one.name for one in benchmarks.KILT}
    assert len(benchmarks.KILT_TRAINED) == len(benchmarks.MULTIKILT) == 8
    assert set(benchmarks.KILT_LARGE) < set(benchmarks.KILT_TRAINED) < names
    assert set(benchmarks.KILT_MENTIONS) < names


def test_judged_sets(data):
    data("beir/cqadupstack/gis/queries.jsonl", '{"_id": "a", "text": "q?"}\n')
    data("beir/cqadupstack/gis/qrels/test.tsv", "query-id\tcorpus-id\tscore\na\tp\t1\n")
    want = [Question("a", "q?", (), ("p",))]
    assert read("beir_cqadupstack_gis", "test") == want
    data("msmarco/queries.dev.small.tsv", "7\tq?\n")
    data("msmarco/qrels.dev.small.tsv", "7\t0\tp\t1\n")
    assert read("msmarco_passage", "dev") == [Question("7", "q?", (), ("p",))]
