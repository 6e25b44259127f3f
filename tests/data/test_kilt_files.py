"""KILT's lines are read and written, predictions among them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import kilt_files
from art_jax.data.kilt_files import KiltItem, Output, Provenance
from art_jax.data.questions import Question
from art_jax.errors import DataError

IDS = st.text("ab1", min_size=1, max_size=3)
PARAGRAPHS = st.none() | st.integers(0, 9)
ITEMS = st.builds(
    KiltItem,
    IDS,
    st.text("xy \n?é", max_size=5),
    st.lists(
        st.builds(
            Output,
            st.text("xyé", max_size=3),
            st.lists(
                st.builds(
                    Provenance,
                    IDS,
                    st.text("xy", max_size=2),
                    PARAGRAPHS,
                    PARAGRAPHS,
                    st.none() | st.floats(0, 1),
                ),
                max_size=2,
            ).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(deadline=None, max_examples=50)
@given(
    items=st.lists(ITEMS, min_size=1, max_size=3, unique_by=lambda item: item.item_id)
)
def test_what_is_written_reads_back(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("kilt") / "file.jsonl"
    assert kilt_files.write_kilt(path, items) == len(items)
    assert list(kilt_files.read_kilt(path)) == items


def test_a_line_as_published(tmp_path):
    path = tmp_path / "nq-dev-kilt.jsonl"
    place = {
        "wikipedia_id": "1645518",
        "title": "Six Nations",
        "section": "Section::::x.",
        "start_paragraph_id": 1,
        "start_character": 866,
        "end_paragraph_id": 1,
        "end_character": 870,
        "bleu_score": 1,
        "meta": {"fever_page_id": ""},
    }
    lines = [
        {
            "id": -42,
            "input": "who?",
            "output": [
                {"answer": "us", "provenance": [place]},
                {"answer": "us"},
                {"provenance": [place]},
            ],
        },
        {"id": " b ", "input": "test"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second = kilt_files.read_kilt(path)
    want = Provenance("1645518", "Six Nations", 1, 1, 1.0)
    assert first.outputs == (Output("us", (want,)), Output("us"), Output("", (want,)))
    evidence = (("1645518+1",), ("1645518+1",))
    assert first.question() == Question("-42", "who?", ("us",), evidence=evidence)
    assert second == KiltItem("b", "test")


def test_a_question_has_each_place_of_an_output_once():
    places = [Provenance("7", end_paragraph=p) for p in (2, None, 2, 0)]
    item = KiltItem("a", "x", (Output("", tuple(places)), Output("y")))
    assert item.question().evidence == (("7+2", "7", "7+0"),)


def test_ids_of_pages_paragraphs_and_passages():
    assert kilt_files.evidence_id(" 12 ") == "12"
    assert kilt_files.evidence_id(12, 3) == "12+3"
    for one in ("12", "12+3", "12+3+0"):
        assert kilt_files.page_of(one) == "12"
    assert kilt_files.paragraph_of("12+3+0") == kilt_files.paragraph_of("12+3")
    assert kilt_files.paragraph_of("12+3") == "12+3"
    assert kilt_files.paragraph_of("12") is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"input": "x"}, "'id' is missing"),
        ({"id": "a", "output": {}}, "'output' must be a list of objects"),
        ({"id": "a", "output": [{"provenance": ["x"]}]}, "'provenance' must be"),
        ({"id": "a", "output": [{"provenance": [{}]}]}, "no 'wikipedia_id'"),
        (
            {
                "id": "a",
                "output": [{"provenance": [{"wikipedia_id": 1, "bleu_score": "x"}]}],
            },
            "'bleu_score' is 'x'",
        ),
        (
            {
                "id": "a",
                "output": [
                    {"provenance": [{"wikipedia_id": 1, "end_paragraph_id": True}]}
                ],
            },
            "'end_paragraph_id' is True",
        ),
        ({"id": "first"}, "'first' comes twice"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, record, message):
    path = tmp_path / "file.jsonl"
    path.write_text('{"id": "first"}\n' + json.dumps(record))
    with pytest.raises(DataError, match=f":2: .*{message}"):
        list(kilt_files.read_kilt(path))


def test_nothing_to_read_or_name(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="no item"):
        list(kilt_files.read_kilt(path))
    for items in ([KiltItem("", "x")], [KiltItem("a", ""), KiltItem("a", "")]):
        with pytest.raises(DataError, match="empty or comes twice"):
            kilt_files.write_kilt(tmp_path / "new.jsonl", items)
    assert not (tmp_path / "new.jsonl").exists()


def test_a_question_becomes_an_item():
    question = Question(
        " k", "who?", ("a", "", "b"), evidence=(("12+3", "7", "x+y", "5+07"), (" ", ""))
    )
    item = kilt_files.kilt_item(question)
    places = (
        Provenance("12", end_paragraph=3),
        Provenance("7"),
        Provenance("x+y"),
        Provenance("5+07"),  # not paragraph 7: that is 5+7
    )
    outputs = (Output("a"), Output("b"), Output("", places))
    assert item == KiltItem("k", "who?", outputs)
    assert item.question() == Question(
        "k", "who?", ("a", "b"), evidence=(("12+3", "7", "x+y", "5+07"),)
    )
