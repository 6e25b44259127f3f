"""Published files of benchmarks, in miniature, become questions."""

import gzip
import json
import zipfile

import pytest

from art_jax.data import benchmark_files
from art_jax.data.questions import Question
from art_jax.errors import DataError


def write(tmp_path, content, name="file.json"):
    path = tmp_path / name
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def test_triviaqa(tmp_path):
    answer = {"Value": "Sinclair", "Aliases": ["Harry", "Sinclair"], "Type": "x"}
    data = [
        {"Question": "Who?", "QuestionId": "tc_1", "Answer": answer},
        {"Question": "Test?", "QuestionId": "tc_2"},
    ]
    path = write(tmp_path, {"Domain": "Web", "Data": data}, "dev.json.gz")
    assert list(benchmark_files.read_triviaqa(path)) == [
        Question("tc_1", "Who?", ("Sinclair", "Harry")),
        Question("tc_2", "Test?"),
    ]


def test_webquestions(tmp_path):
    target = '(list (description "a \\"b\\" (c)") (description Jamaica))'
    path = write(tmp_path, [{"url": "u", "utterance": "what?", "targetValue": target}])
    assert list(benchmark_files.read_webquestions(path)) == [
        Question("2", "what?", ('a "b" (c)', "Jamaica"))
    ]


def test_squad(tmp_path):
    answers = [{"text": "x", "answer_start": 0}, {"text": "x"}, {"text": "y"}]
    qas = [{"id": "a1", "question": "q?", "answers": answers}]
    article = {"title": "T", "paragraphs": [{"context": "x y", "qas": qas}]}
    path = write(tmp_path, {"data": [article], "version": "1.1"})
    assert list(benchmark_files.read_squad(path)) == [Question("a1", "q?", ("x", "y"))]


def test_entity_questions(tmp_path):
    record = {"question": "Where was X born?", "answers": ["Y", "Z"]}
    path = write(tmp_path, [record, record])
    first, second = benchmark_files.read_entity_questions(path)
    assert first == Question("1", "Where was X born?", ("Y", "Z"))
    assert second.question_id == "2"


def test_ambigqa(tmp_path):
    pairs = [{"question": "in 1?", "answer": ["b"]}, {"question": "", "answer": ["c"]}]
    annotations = [
        {"type": "singleAnswer", "answer": ["a", "b"]},
        {"type": "multipleQAs", "qaPairs": pairs},
        {"type": "multipleQAs", "qaPairs": pairs[::-1]},
    ]
    records = [{"id": -8, "question": "who?", "annotations": annotations}]
    (got,) = benchmark_files.read_ambigqa(write(tmp_path, records))
    assert got == Question(
        "-8", "who?", ("a", "b", "c"), answer_groups=(("b",), ("c",))
    )


def test_webqsp(tmp_path):
    answers = [
        {"AnswerType": "Entity", "AnswerArgument": "m.1", "EntityName": "Ann"},
        {"AnswerType": "Value", "AnswerArgument": "1999", "EntityName": None},
    ]
    questions = [
        {
            "QuestionId": "WebQTest-0",
            "RawQuestion": "who?",
            "Parses": [{"Answers": answers}, {"Answers": answers[:1]}],
        },
        {"QuestionId": "WebQTest-1", "RawQuestion": "x", "Parses": [{"Answers": []}]},
    ]
    path = write(tmp_path, {"Version": "1.0", "Questions": questions})
    assert list(benchmark_files.read_webqsp(path)) == [
        Question(
            "WebQTest-0",
            "who?",
            ("Ann", "1999"),
            answer_groups=(("Ann",), ("1999",)),
        )
    ]


def test_drqa(tmp_path):
    text = '{"question": "who?", "answer": ["New\\\\s?York|NYC"]}\n'
    path = write(tmp_path, text, "CuratedTrec-test.txt")
    assert list(benchmark_files.read_drqa(path)) == [
        Question("1", "who?", (r"New\s?York|NYC",))
    ]


def test_curatedtrec(tmp_path):
    lines = "1756\tfactoid\tWhen? \tSept?(ember)?|Feb\n7\tfactoid\tHow\t\\b2,?[45]\\b\n"
    path = write(tmp_path, lines, "curated-test.tsv")
    assert list(benchmark_files.read_curatedtrec(path)) == [
        Question("1756", "When?", ("Sept?(ember)?|Feb",)),
        Question("7", "How", (r"\b2,?[45]\b",)),
    ]
    path = write(tmp_path, "1\tfactoid\tWhen?\n", "curated-test.tsv")
    with pytest.raises(DataError, match=":1: .*id<TAB>type<TAB>question<TAB>pattern"):
        list(benchmark_files.read_curatedtrec(path))


CLUES = {
    "000002.json": {"question": "'It is blue'", "answer": "the sky", "value": "$200"},
    "000001.json": {"question": "He wrote it", "answer": "Poe", "search_results": []},
}


@pytest.mark.parametrize("is_archive", [True, False])
def test_searchqa(tmp_path, is_archive):
    path = tmp_path / ("val.zip" if is_archive else "val")
    if is_archive:
        with zipfile.ZipFile(path, "w") as archive:
            for name, clue in CLUES.items():
                archive.writestr(f"val/{name}", json.dumps(clue))
            archive.writestr("__MACOSX/val/._000001.json", b"\x00\x05")
            archive.writestr("val/readme.txt", "x")
    else:
        path.mkdir()
        for name, clue in CLUES.items():
            (path / name).write_text(json.dumps(clue, indent=1))
    assert list(benchmark_files.read_searchqa(path)) == [
        Question("000001", "Poe", ("He wrote it",)),
        Question("000002", "the sky", ("'It is blue'",)),
    ]


def test_searchqas_faults_are_named(tmp_path):
    path = write(tmp_path, "no archive", "train.zip")
    with pytest.raises(DataError, match="train.zip: the archive is damaged"):
        list(benchmark_files.read_searchqa(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.json", '{"question": "x"}')
    with pytest.raises(DataError, match="train.zip/1.json:1: 'answer' is missing"):
        list(benchmark_files.read_searchqa(path))


def test_msmarco_nlg(tmp_path):
    columns = {
        "answers": {"12": ["short"], "5": ["No Answer Present."]},
        "passages": {"12": [{"passage_text": "x"}], "5": []},
        "query": {"12": "what is it", "5": "why", "7": "when"},
        "query_id": {"12": 1102432, "5": 8, "7": 9},
        "wellFormedAnswers": {"12": ["It is this.", "This."], "5": "[]", "7": []},
    }
    path = write(tmp_path, columns, "dev_v2.1.json.gz")
    assert list(benchmark_files.read_msmarco_nlg(path)) == [
        Question("1102432", "what is it", ("It is this.", "This."))
    ]
    del columns["wellFormedAnswers"]
    path = write(tmp_path, columns)
    with pytest.raises(DataError, match="no column 'wellFormedAnswers'"):
        list(benchmark_files.read_msmarco_nlg(path))


def test_fever(tmp_path):
    lines = [
        {"id": 75397, "verifiable": "VERIFIABLE", "label": "SUPPORTS", "claim": "a"},
        {"id": 2, "label": "NOT ENOUGH INFO", "claim": "b", "evidence": []},
        {"id": 3, "label": "REFUTES", "claim": "c"},
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)), "train.jsonl")
    every = list(benchmark_files.read_fever(path))
    assert every == [
        Question("75397", "a", ("SUPPORTS",)),
        Question("2", "b", ("NOT ENOUGH INFO",)),
        Question("3", "c", ("REFUTES",)),
    ]
    assert list(benchmark_files.read_fever(path, num_labels=2)) == every[::2]
    path = write(tmp_path, '{"id": 1, "claim": "a", "label": "TRUE"}', "x.jsonl")
    with pytest.raises(DataError, match=":1: 'label' is 'TRUE'"):
        list(benchmark_files.read_fever(path))


def test_kilt(tmp_path):
    line = {"id": "k", "input": "in", "output": [{"answer": "x"}]}
    path = write(tmp_path, json.dumps(line), "nq-dev-kilt.jsonl")
    assert list(benchmark_files.read_kilt_questions(path)) == [
        Question("k", "in", ("x",))
    ]


BEIR = '{"_id": "a", "text": "x?"}\n{"_id": "b", "text": "y?"}\n'
MSMARCO = "a\tx?\nb\ty?\n"


@pytest.mark.parametrize(
    ("name", "questions"), [("queries.jsonl", BEIR), ("queries.tsv", MSMARCO)]
)
def test_judged_questions(tmp_path, name, questions):
    questions = write(tmp_path, questions, name)
    judgments = write(tmp_path, "b 0 p1 0\nb 0 p2 2\nb 0 p3 1\na 0 p1 0\n", "qrels")
    got = list(benchmark_files.read_judged_questions(questions, judgments))
    assert got == [Question("b", "y?", (), ("p2", "p3"), grades=(2, 1))]
    alike = write(tmp_path, "b 0 p2 1\nb 0 p1 -1\nb 0 p3 1\n", "alike")
    got = list(benchmark_files.read_judged_questions(questions, alike))
    assert got == [Question("b", "y?", (), ("p2", "p3"))]
    strange = write(tmp_path, "z 0 p1 1\n", "other")
    with pytest.raises(DataError, match="1 questions of .*other are not there.*'z'"):
        list(benchmark_files.read_judged_questions(questions, strange))


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        ("read_triviaqa", {"Data": [{"QuestionId": "a"}]}, "'Question' is missing"),
        ("read_triviaqa", [], "'{' is needed"),
        (
            "read_webquestions",
            [{"utterance": "a", "targetValue": "(list)"}],
            "names no",
        ),
        ("read_squad", {"data": [{"paragraphs": 7}]}, "must be a list of objects"),
        ("read_entity_questions", [{"answers": []}], "'question' is missing"),
        (
            "read_ambigqa",
            [{"id": "a", "question": "b", "annotations": [{"type": "x"}]}],
            "'type' is 'x'",
        ),
        (
            "read_webqsp",
            {"Questions": [{"Parses": [{"Answers": [{}]}]}]},
            "'AnswerArgument' is missing",
        ),
    ],
)
def test_faults_are_named(tmp_path, reader, content, message):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=f"{path}:[0-9]: .*{message}"):
        list(getattr(benchmark_files, reader)(path))


def test_a_question_of_ms_marco_needs_its_text(tmp_path):
    questions = write(tmp_path, "a\tx?\nb\n", "queries.tsv")
    judgments = write(tmp_path, "a 0 p1 1\n", "qrels")
    with pytest.raises(DataError, match=":2: .*question_id<TAB>text"):
        list(benchmark_files.read_judged_questions(questions, judgments))
