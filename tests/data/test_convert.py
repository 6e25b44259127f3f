"""Whatever goes from one format to another of its kind comes out as promised."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import convert
from art_jax.data.convert import FORMATS, KINDS, Beside
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.judgments import Judgment
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

IDS = st.text("ab1é+-:", min_size=1, max_size=3)
# Much of what breaks files: quotes, tabs, line ends, a byte order mark, no-break space.
ODD = st.text("ab\"'\t\n\r,[]\\\ufeff\u2028\xa0é😀", max_size=6)
TEXTS = st.builds(lambda odd, more: f"{odd}x{more}", ODD, ODD)
PASSAGES = st.builds(Passage, IDS, TEXTS, st.just("") | TEXTS)
GROUPS = st.lists(st.lists(TEXTS, min_size=1, max_size=2).map(tuple), max_size=2)
EVIDENCE = st.lists(
    st.lists(
        st.sampled_from(["12+3", "7", "12+3+0", "a+b", "5+07", " 5"]),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_size=2,
)


@st.composite
def questions(draw):
    relevant = draw(st.lists(IDS | st.sampled_from("0123"), max_size=3, unique=True))
    grades = st.integers(1, 3)
    return Question(
        draw(IDS),
        draw(TEXTS),
        tuple(draw(st.lists(ODD, max_size=2))),
        tuple(relevant),
        draw(st.just("") | IDS),
        tuple(draw(GROUPS)),
        tuple(draw(grades) for _ in relevant),
        tuple(draw(EVIDENCE)),
    )


# The same id is always of the same passage.
POOL = [Passage(str(n), f"text {n}\n", "T" if n % 2 else "") for n in range(6)]
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.sampled_from(POOL),
        st.none() | st.floats(-1e6, 1e6),
        st.none() | st.booleans(),
    ),
    max_size=3,
).map(tuple)
ROWS = {
    Passage: PASSAGES,
    Question: questions(),
    Judgment: st.builds(Judgment, IDS, IDS, st.integers(-1, 4)),
    TrainingExample: st.builds(
        TrainingExample,
        questions(),
        CANDIDATES.filter(bool),
        CANDIDATES,
        CANDIDATES,
        st.just("") | TEXTS,
    ),
    RankedQuestion: st.builds(RankedQuestion, questions(), CANDIDATES, TEXTS),
}
ID_OF = {
    Passage: lambda row: row.passage_id,
    Question: lambda row: row.question_id,
    Judgment: lambda row: row[:2],
    TrainingExample: lambda row: row.question.question_id,
    RankedQuestion: lambda row: row.question.question_id,
}
WRITABLE = {name: one for name, one in FORMATS.items() if one.write}
PAIRS = [
    (first, second)
    for first, one in WRITABLE.items()
    for second, other in WRITABLE.items()
    if one.kind is other.kind
]


def kept(one, rows):
    keep = one.keep or (lambda row, place: row)
    return [keep(row, place) for place, row in enumerate(rows, 1)]


def name_of(one):
    return "file" + (one.suffixes[0] if one.suffixes else "")


def write(folder, one, rows):
    path = folder / f"first_{name_of(one)}"
    one.write(path, kept(one, rows), Beside())
    return path


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=map("-to-".join, PAIRS))
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_what_both_formats_hold_comes_through(tmp_path_factory, first, second, data):
    read_as, write_as = convert.formats_of(first, second)
    kind = read_as.kind
    rows = data.draw(
        st.lists(ROWS[kind], min_size=1, max_size=3, unique_by=ID_OF[kind])
    )
    folder = tmp_path_factory.mktemp("convert")
    source, target = write(folder, read_as, rows), folder / name_of(write_as)
    done = convert.convert(source, target, read_as, write_as)
    between = kept(read_as, rows)
    want = kept(write_as, between)
    assert list(write_as.read(target, Beside())) == want
    assert done.num_rows == len(rows)
    pairs = zip(between, want, strict=True)
    assert sum(done.lost.values()) == sum(
        len(convert.differences(*pair)) for pair in pairs
    )
    # What is kept loses nothing more.
    again = folder / f"again_{name_of(write_as)}"
    same = convert.convert(target, again, write_as, write_as)
    assert same.lost == {}
    if again.is_file():
        assert again.read_bytes() == target.read_bytes()


def test_the_table_says_what_it_should():
    by_kind = {
        kind: [n for n, one in FORMATS.items() if one.kind is kind] for kind in KINDS
    }
    assert len(PAIRS) == 16 + 25 + 4 + 25 + 9
    assert by_kind[Judgment] == ["trec-qrels", "beir-qrels"]
    assert all(one.summary for one in FORMATS.values())


def test_losses_are_named():
    candidate = Candidate(Passage("1", "a", "T"), 2.0, True)
    example = TrainingExample(
        Question("q", "who?", ("x",)), (candidate, candidate), dataset="d"
    )
    keep = FORMATS["sentence-transformers"].keep
    assert convert.differences(example, keep(example, 1)) == {
        "ids of questions",
        "answers",
        "further positives",
        "data sets",
    }
    single = TrainingExample(example.question, (candidate,))
    assert convert.differences(single, keep(single, 1)) == {
        "ids of questions",
        "answers",
        "ids of passages",
        "titles",
        "texts as they were",
        "scores",
        "has_answer",
    }
    assert convert.differences(example, example) == set()


def test_examples_without_a_positive_are_left_out_and_counted(tmp_path):
    context = {"title": "", "text": "x", "passage_id": "1"}
    records = [
        {"question": "who?", "positive_ctxs": [context]},
        {"question": "what?", "positive_ctxs": []},
    ]
    source = tmp_path / "train.json"
    source.write_text(json.dumps(records))
    for name, target in (("sentence-transformers", "a.jsonl"), ("beir", "folder")):
        formats = convert.formats_of("dpr", name)
        done = convert.convert(source, tmp_path / target, *formats)
        assert (done.num_rows, done.num_left_out) == (1, 1)
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert line == {"anchor": "who?", "positive": "x"}


def test_a_run_is_joined_with_its_files(tmp_path):
    (tmp_path / "p.tsv").write_text("1\tone\tA\n2\ttwo\tB\n3\tthree\tC\n")
    (tmp_path / "q.jsonl").write_text(
        '{"_id": "b", "text": "who?"}\n{"_id": "a", "text": "what?"}\n'
        '{"_id": "c", "text": "not asked"}\n'
    )
    beside = Beside(tmp_path / "p.tsv", tmp_path / "q.jsonl")
    run = {"a": {"2": 2.0, "1": 1.0}, "b": {"3": 0.5}}
    assert list(convert.join_run(run, beside)) == [
        RankedQuestion(
            Question("b", "who?"), (Candidate(Passage("3", "three", "C"), 0.5),)
        ),
        RankedQuestion(
            Question("a", "what?"),
            (
                Candidate(Passage("2", "two", "B"), 2.0),
                Candidate(Passage("1", "one", "A"), 1.0),
            ),
        ),
    ]
    with pytest.raises(DataError, match="p.tsv: 1 passages of the run .* '9'"):
        list(convert.join_run({"a": {"9": 1.0}}, beside))
    with pytest.raises(DataError, match="q.jsonl: 1 questions of the run .* 'z'"):
        list(convert.join_run({"z": {"1": 1.0}}, beside))
    with pytest.raises(ConfigError, match="give --passages and --queries"):
        list(convert.join_run(run, Beside()))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("dpr", "fid", "holds training examples, the other ranked passages"),
        ("x", "dpr", "no format 'x': choose of dpr-passages, "),
        ("dpr", "x", "no format 'x'"),
        ("nq-open", "squad", "is only read"),
        ("kilt", "kilt-x", "no format"),
    ],
)
def test_pairs_that_do_not_go(first, second, message):
    with pytest.raises(ConfigError, match=message):
        convert.formats_of(first, second)


def test_a_file_is_called_as_its_format(tmp_path):
    formats = convert.formats_of("beir-corpus", "dpr-passages")
    with pytest.raises(ConfigError, match=r"a.txt: .* called something.tsv, with .gz"):
        convert.convert(tmp_path / "c.jsonl", tmp_path / "a.txt", *formats)


def test_a_name_that_says_another_format_is_an_error(tmp_path):
    source = tmp_path / "passages.txt"
    source.write_text("1\tone\tT\n")
    formats = convert.formats_of("dpr-passages", "beir-corpus")
    with pytest.raises(ConfigError, match="read as .txt, by its name: rename .* .tsv"):
        convert.convert(source, tmp_path / "c.jsonl", *formats)
    # A name that says nothing is no hindrance.
    source = source.rename(tmp_path / "passages")
    convert.convert(source, tmp_path / "c.jsonl", *formats)
    assert "one" in (tmp_path / "c.jsonl").read_text()


def test_a_broken_source_leaves_nothing(tmp_path):
    source = tmp_path / "corpus.jsonl"
    source.write_text('{"_id": "1", "text": "x"}\n{"_id": "1", "text": "y"}\n')
    for name, target in (("dpr-passages", "a.tsv"), ("tevatron-corpus", "b.jsonl")):
        formats = convert.formats_of("beir-corpus", name)
        with pytest.raises(DataError, match="corpus.jsonl:2: the id '1' is given twi"):
            convert.convert(source, tmp_path / target, *formats)
    assert list(tmp_path.iterdir()) == [source]


def test_kilt_becomes_examples_where_examples_are_asked_for(tmp_path):
    place = {"wikipedia_id": "12", "start_paragraph_id": 1, "end_paragraph_id": 1}
    item = {
        "id": "k",
        "input": "who?",
        "output": [{"answer": "x", "provenance": [place]}],
    }
    (tmp_path / "nq.jsonl").write_text(json.dumps(item))
    (tmp_path / "p.tsv").write_text("12+1+0\tthe text\tT\n")
    formats = convert.formats_of("kilt", "dpr")
    beside = Beside(passages=tmp_path / "p.tsv")
    convert.convert(tmp_path / "nq.jsonl", tmp_path / "t.json", *formats, beside)
    (record,) = json.loads((tmp_path / "t.json").read_text())
    assert record["positive_ctxs"][0]["passage_id"] == "12+1+0"
    with pytest.raises(ConfigError, match="give --passages"):
        convert.convert(tmp_path / "nq.jsonl", tmp_path / "u.json", *formats)
