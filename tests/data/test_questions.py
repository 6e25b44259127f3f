"""Question files: every row in is a question out, or an error that names its line."""

import gzip

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data import questions, text_files
from art_jax.data.questions import Question, read_questions, write_questions
from art_jax.errors import ConfigError, DataError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
visible = texts.filter(text_files.is_visible)
groups = st.lists(st.lists(texts, min_size=1, max_size=2).map(tuple), max_size=2).map(
    tuple
)


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_text_is_numbered_by_line(tmp_path):
    path = put(tmp_path / "q.txt", "\ufeffwho?\r\nwhat\tis it?\n")
    assert list(read_questions(path)) == [
        Question("1", "who?"),
        Question("2", "what\tis it?"),
    ]


def test_jsonl_dialects(tmp_path):
    path = put(
        tmp_path / "q.jsonl",
        '{"_id": "a", "text": "beir?", "metadata": {}}\n'
        '{"id": 7, "question": "ours?", "answers": ["x", 1999], "relevant_ids": ["p"],'
        ' "source_id": 3}\n'
        '{"question_id": "c", "question": "one answer?", "answer": "y"}\n',
    )
    assert list(read_questions(path)) == [
        Question("a", "beir?"),
        Question("7", "ours?", ("x", "1999"), ("p",), "3"),
        Question("c", "one answer?", ("y",)),
    ]


def test_nq_open_has_no_ids_so_lines_are_numbered(tmp_path):
    path = put(
        tmp_path / "nq.jsonl.gz",
        gzip.compress(b'{"question": "a", "answer": ["x", "y"]}\n{"question": "b"}\n'),
    )
    assert list(read_questions(path)) == [
        Question("1", "a", ("x", "y")),
        Question("2", "b"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_dpr_csv_by_hand(tmp_path, suffix):
    path = put(
        tmp_path / f"q{suffix}",
        'who?\t["a", "b\\u00e9"]\n'
        "where?\t['it''s', \"L'Aquila\", '\\xe9']\n"
        'quoted?\t"[""x"", ""y z""]"\n'
        "none?\t[]\n"
        "said \"so\"?\t['19\\d\\d']\n",
    )
    assert [(q.question_id, q.text, q.answers) for q in read_questions(path)] == [
        ("1", "who?", ("a", "bé")),
        ("2", "where?", ("its", "L'Aquila", "é")),
        ("3", "quoted?", ("x", "y z")),
        ("4", "none?", ()),
        ("5", 'said "so"?', ("19\\d\\d",)),
    ]


def test_a_header_of_a_dpr_file_is_no_question(tmp_path):
    path = put(tmp_path / "q.tsv", 'question\tanswers\nwho?\t["a"]\n')
    assert list(read_questions(path)) == [Question("2", "who?", ("a",))]


def test_json_escapes_are_those_of_json():
    assert questions.parse_answers(r'["a\/b", "\ud83d\ude42"]') == ("a/b", "🙂")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "[",
        "{'a': 1}",
        "[1]",
        "['a', None]",
        "__import__('os').system('echo no')",
        "[open('/etc/passwd').read()]",
        "[f'{1}']",
        "[" * 1000 + "]" * 1000,
        "['" + "x" * 1_000_000 + "']",  # its parser would take a hundred times as much
    ],
)
def test_what_is_no_list_of_strings_gives_no_answers(text):
    assert questions.parse_answers(text) is None


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(texts))
def test_python_lists_of_strings_are_read(values):
    assert questions.parse_answers(repr(values)) == tuple(values)


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
@hypothesis.given(
    st.lists(
        st.builds(
            Question,
            visible,
            visible,
            st.lists(texts, max_size=3).map(tuple),
            st.lists(texts, max_size=3).map(tuple),
            texts,
            groups,
            st.just(()),
            groups,
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda question: question.question_id,
    ),
    st.sampled_from([".jsonl", ".jsonl.gz"]),
)
def test_what_is_written_reads_back(tmp_path, log, suffix):
    path = tmp_path / f"q{suffix}"
    assert write_questions(path, log) == len(log)
    assert list(read_questions(path)) == log


FAULTS = {
    "empty file": ("q.txt", "", None, "holds no questions"),
    "header alone": ("q.tsv", "question\tanswers\n", None, "holds no questions"),
    "empty line": ("q.txt", "a\n\nb\n", 2, "question is empty"),
    "white question": ("q.txt", "a\n \u200b\n", 2, "question is empty"),
    "latin-1": ("q.txt", b"a\ncaf\xe9\n", 2, "not UTF-8"),
    "one column": ("q.csv", "a?\n", 1, "two columns.*\\.txt"),
    "query id first": ("q.tsv", "17\twho is it?\n", 1, "second a list of strings"),
    "code": ("q.csv", "a?\texit(3)\n", 1, "second a list of strings"),
    "no text": ("q.jsonl", '{"_id": "a", "query": "x"}\n', 1, "neither.*'query'"),
    "bad JSON": ("q.jsonl", '{"text": "a"}\n{"text": \n', 2, "not JSON"),
    "NaN": ("q.jsonl", '{"text": "a", "score": NaN}\n', 1, "NaN"),
    "empty id": ("q.jsonl", '{"_id": "", "text": "a"}\n', 1, "id is empty"),
    "id twice": (
        "q.jsonl",
        '{"_id": "a", "text": "x"}\n{"_id": "b", "text": "x"}\n'
        '{"_id": "a", "text": "y"}\n',
        3,
        "'a' is given twice, first on line 1",
    ),
    "id missing": (
        "q.jsonl",
        '{"_id": "a", "text": "x"}\n{"text": "y"}\n',
        2,
        "has no id, unlike",
    ),
    "id not missing": (
        "q.jsonl",
        '{"text": "y"}\n{"_id": "a", "text": "x"}\n',
        2,
        "has an id, unlike",
    ),
    "answers": ("q.jsonl", '{"text": "x", "answers": [null]}\n', 1, "list of strings"),
    "answer groups": (
        "q.jsonl",
        '{"text": "x", "answer_groups": ["y"]}\n',
        1,
        "a list of its aliases",
    ),
    "evidence": (
        "q.jsonl",
        '{"text": "x", "evidence": [["1+2"], []]}\n',
        1,
        "'evidence' must be a list, each of it a list of ids",
    ),
    "grades": (
        "q.jsonl",
        '{"text": "x", "relevant_ids": ["p"], "grades": [true]}\n',
        1,
        "list of whole numbers",
    ),
    "number of grades": (
        "q.jsonl",
        '{"text": "x", "relevant_ids": ["p", "r"], "grades": [2]}\n',
        1,
        "of 2 relevant passages: there must be one for each",
    ),
    "grade of nothing": (
        "q.jsonl",
        '{"text": "x", "relevant_ids": ["p"], "grades": [0]}\n',
        1,
        "1 or more",
    ),
    "surrogate": ("q.jsonl", '{"text": "x", "answers": ["\\udc00"]}\n', 1, "U\\+DC00"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error_with_its_line(tmp_path, fault):
    name, content, line, message = FAULTS[fault]
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_questions(path))
    assert caught.value.line == line
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([Question("a", "x"), Question("a", "y")], "given twice"),
        ([Question("", "x")], "id is empty"),
        ([Question("a", "x", ("\ud800",))], "surrogate"),
        ([Question("a", "x", answer_groups=(("\ud800",),))], "surrogate"),
        ([Question("a", "x", evidence=(("\ud800",),))], "surrogate"),
        ([Question("a", "x", grades=(1,))], "of 0 relevant passages"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, log, message):
    with pytest.raises(DataError, match=message):
        write_questions(tmp_path / "q.jsonl", log)
    assert not list(tmp_path.iterdir())


def test_grades_and_evidence_are_kept(tmp_path):
    log = [
        Question("a", "x", relevant_ids=("p", "r"), grades=(2, 1)),
        Question("b", "y", evidence=(("7+1", "7"), ("9+0",))),
    ]
    path = tmp_path / "q.jsonl"
    write_questions(path, log)
    assert list(read_questions(path)) == log
    assert '"grades": [2, 1]' in path.read_text()


def test_only_json_lines_hold_all_of_a_question(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.jsonl"):
        write_questions(tmp_path / "q.tsv", [Question("a", "x")])
