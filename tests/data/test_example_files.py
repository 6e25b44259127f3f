"""Questions with passages go through every tool's format and come back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import example_files
from art_jax.data.examples import Candidate, RankedQuestion, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Cn", "Co", "Zl", "Zp")),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() and text.strip().isprintable())
PASSAGES = st.builds(Passage, TEXTS, TEXTS, st.just("") | TEXTS)
CANDIDATES = st.builds(
    Candidate,
    PASSAGES,
    st.none() | st.floats(-1e6, 1e6),
    st.none() | st.booleans(),
)
ANSWERS = st.lists(TEXTS, max_size=2).map(tuple)
GROUPS = st.lists(st.lists(TEXTS, min_size=1, max_size=2).map(tuple), max_size=2)
QUESTIONS = st.builds(Question, TEXTS, TEXTS, ANSWERS, answer_groups=GROUPS.map(tuple))


def tuples(of, **sizes):
    return st.lists(of, max_size=3, **sizes).map(tuple)


TRAINING = st.builds(
    TrainingExample,
    QUESTIONS,
    tuples(CANDIDATES, min_size=1),
    tuples(CANDIDATES),
    tuples(CANDIDATES),
    st.just("") | TEXTS,
)
RANKED = st.builds(RankedQuestion, QUESTIONS, tuples(CANDIDATES), st.just("") | TEXTS)


@pytest.mark.parametrize("file_format", example_files.FORMATS)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_what_a_format_holds_comes_back(tmp_path_factory, file_format, suffix, data):
    kind = example_files.FORMATS[file_format].kind
    examples = data.draw(
        st.lists(
            TRAINING if kind is TrainingExample else RANKED,
            min_size=1,
            max_size=3,
            unique_by=lambda example: example.question.question_id,
        )
    )
    path = tmp_path_factory.mktemp("examples") / f"file{suffix}"
    count = example_files.write_examples(path, examples, file_format)
    assert count == len(examples)
    got = list(example_files.read_examples(path, file_format))
    keep = example_files.FORMATS[file_format].keep
    kept = [keep(example, place) for place, example in enumerate(examples, 1)]
    assert got == kept
    # What is lost once is lost: nothing more goes the second time.
    assert [keep(example, place) for place, example in enumerate(kept, 1)] == kept


def test_what_each_format_holds():
    scored = Candidate(Passage("1", "a", "T"), 2.0, True)
    bare = Candidate(Passage("1", "a", "T"))
    example = TrainingExample(
        Question("q", "who?", ("x",), ("1",)), (scored, scored), (bare,), (scored,), "d"
    )
    question, text = Question("q", "who?", ("x",)), Candidate(Passage("", "T a"))
    known = Candidate(bare.passage, 2.0)
    kept = {
        name: form.keep(example, 7)
        for name, form in example_files.FORMATS.items()
        if form.kind is TrainingExample
    }
    assert kept == {
        "dpr": TrainingExample(question, (known, known), (bare,), (known,), "d"),
        "tevatron": TrainingExample(question, (bare, bare), (), (bare, bare)),
        "sentence-transformers": TrainingExample(
            Question("7", "who?"), (text,), (), (text, text)
        ),
        "flagembedding": TrainingExample(
            Question("7", "who?"), (text, text), (), (text, text)
        ),
    }
    ranked = RankedQuestion(example.question, (scored,), "x")
    for name, form in example_files.FORMATS.items():
        if form.kind is RankedQuestion:
            target = "x" if name == "fid" else ""
            assert form.keep(ranked, 7) == RankedQuestion(question, (scored,), target)


def test_flagembeddings_own_file(tmp_path):
    path = tmp_path / "train.jsonl"
    record = {"query": "who?", "pos": ["a"], "neg": ["b", "c"]}
    scores = {"pos_scores": [1], "neg_scores": [0.5, 0.25], "prompt": "x"}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record | scores) + "\n")
    first, second = example_files.read_examples(path, "flagembedding")
    negatives = [Candidate(Passage("", text)) for text in "bc"]
    assert first.positives == (Candidate(Passage("", "a")),)
    assert first.hard_negatives == tuple(negatives)
    assert first.question == Question("1", "who?")
    assert [one.score for one in second.positives] == [1.0]
    assert [one.score for one in second.hard_negatives] == [0.5, 0.25]
    copy = tmp_path / "copy.jsonl"
    example_files.write_examples(copy, [first, second], "flagembedding")
    del scores["prompt"]
    want = [record, record | scores]
    assert [json.loads(line) for line in copy.read_text().splitlines()] == want


@pytest.mark.parametrize(
    ("title", "text"),
    [('"Heroes"', "x"), ('"', "x"), ("", "two\nlines"), ('a"', "x\ny"), ("T", "")],
)
def test_pyserinis_titles_come_back(tmp_path, title, text):
    ranked = RankedQuestion(
        Question("q", "who?"), (Candidate(Passage("1", text or "x", title)),)
    )
    path = tmp_path / "run.json"
    example_files.write_examples(path, [ranked], "pyserini")
    assert list(example_files.read_examples(path, "pyserini")) == [ranked]


def test_faults_can_be_read_over(tmp_path):
    path = tmp_path / "file.jsonl"
    lines = [{"anchor": "a", "positive": "b"}, {"anchor": "c"}, {"anchor": ""}]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second, third = example_files.parse_examples(path, "sentence-transformers")
    assert first[1].question.text == "a"
    assert (second[0], third[0]) == (2, 3)
    assert "'positive' is missing" in str(second[1])
    assert isinstance(third[1], DataError)


def test_sentence_transformers_holds_texts_alone(tmp_path):
    example = TrainingExample(
        Question("q", "who?"),
        (Candidate(Passage("1", "he did", "History")), Candidate(Passage("2", "no"))),
        (Candidate(Passage("3", "far")),),
        (Candidate(Passage("4", "near", "Here")),),
    )
    path = tmp_path / "file.jsonl"
    example_files.write_examples(path, [example], "sentence-transformers")
    assert json.loads(path.read_text()) == {
        "anchor": "who?",
        "positive": "History he did",
        "negative": "Here near",
        "negative_2": "far",
    }
    (got,) = example_files.read_examples(path, "sentence-transformers")
    assert got.question == Question("1", "who?")
    assert [c.passage.text for c in got.hard_negatives] == ["Here near", "far"]


def test_dprs_own_file(tmp_path):
    path = tmp_path / "biencoder.json"
    context = {"title": "T", "text": "x", "score": 1000, "title_score": 1}
    record = {
        "dataset": "nq_dev_psgs_w100",
        "question": "q",
        "answers": ["a"],
        "positive_ctxs": [{**context, "passage_id": "7"}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [{**context, "psg_id": 8, "score": "9.5"}],
    }
    path.write_text(json.dumps([record, record], indent=4))
    first, second = example_files.read_examples(path, "dpr")
    assert first.question == Question("2", "q", ("a",))
    assert first.positives == (Candidate(Passage("7", "x", "T"), 1000.0),)
    assert first.hard_negatives == (Candidate(Passage("8", "x", "T"), 9.5),)
    assert second.question.question_id != first.question.question_id


def test_pyserinis_own_file(tmp_path):
    path = tmp_path / "run.json"
    contexts = [{"docid": "5", "score": 2.5, "text": '"A title"\nand text'}]
    path.write_text(
        json.dumps({"q1": {"question": "q", "answers": [], "contexts": contexts}})
    )
    (got,) = example_files.read_examples(path, "pyserini")
    assert got.question == Question("q1", "q")
    assert got.candidates == (Candidate(Passage("5", "and text", "A title"), 2.5),)


@pytest.mark.parametrize(
    ("file_format", "record", "message"),
    [
        ("dpr", {"answers": []}, "'question' is missing"),
        ("dpr", {"question": "q", "positive_ctxs": 7}, "must be a list of objects"),
        ("dpr", {"question": "q", "positive_ctxs": [{}]}, "'text' is missing"),
        ("fid", {"question": "q", "ctxs": [{"text": "t", "score": "x"}]}, "a number"),
        ("fid", {"question": "q", "ctxs": [{"text": "t", "score": True}]}, "a number"),
        (
            "dpr-results",
            {"question": "q", "ctxs": [{"text": "t", "has_answer": 1}]},
            "true or false",
        ),
        ("sentence-transformers", {"anchor": "a"}, "'positive' is missing"),
        (
            "flagembedding",
            {"query": "a", "pos": ["b"], "pos_scores": []},
            "a score for",
        ),
        ("flagembedding", {"query": "a", "pos": [" "]}, "'pos' has an empty text"),
        ("pyserini", {"q1": 7}, "object is needed"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, file_format, record, message):
    path = tmp_path / "file.json"
    path.write_text("\n" + json.dumps(record))
    with pytest.raises(DataError, match=f":2: .*{message}"):
        list(example_files.read_examples(path, file_format))


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    ranked = RankedQuestion(Question("q", "who?"), ())
    with pytest.raises(ConfigError, match="holds TrainingExamples.*dpr-results, fid"):
        example_files.write_examples(tmp_path / "a", [ranked], "dpr")
    with pytest.raises(DataError, match="'q' has no positive"):
        example_files.write_examples(
            tmp_path / "a",
            [TrainingExample(ranked.question, ())],
            "sentence-transformers",
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no format 'x': choose of dpr"):
        list(example_files.read_examples(tmp_path / "a", "x"))


@pytest.mark.parametrize("file_format", example_files.formats_of(RankedQuestion))
def test_several_answers_are_a_list_that_other_tools_leave_alone(tmp_path, file_format):
    one = Question("q", "who?", ("x",))
    several = Question("r", "who?", ("x", "y"), answer_groups=(("x",), ("y", "z")))
    path = tmp_path / "rankings.json"
    ranked = [RankedQuestion(one, ()), RankedQuestion(several, ())]
    example_files.write_examples(path, ranked, file_format)
    records = json.loads(path.read_text())
    first, second = records.values() if isinstance(records, dict) else records
    assert "answer_groups" not in first
    assert second["answers"] == ["x", "y"]
    assert second["answer_groups"] == [["x"], ["y", "z"]]
    assert list(example_files.read_examples(path, file_format)) == ranked


def test_answers_that_are_no_groups_are_refused(tmp_path):
    path = tmp_path / "rankings.json"
    record = {"question": "who?", "ctxs": [], "answer_groups": ["x"]}
    path.write_text(json.dumps([record]))
    with pytest.raises(DataError, match="'answer_groups' must be a list, each of it a"):
        list(example_files.read_examples(path, "dpr-results"))
