"""Pages of KILT's knowledge source: passages whose ids say page and paragraph."""

import pytest

from art_jax.data import kilt_pages
from art_jax.data.passages import Passage
from art_jax.errors import DataError

PAGE = {
    "_id": "290",
    "wikipedia_id": "290",
    "wikipedia_title": "Otter",
    "text": [
        "Otter\n",
        "Otters swim. They eat fish.\n",
        "Some live at sea.\n",
        "Section::::Names.\n",
        "BULLET::::- a bevy\n",
        "\n",
        "Section::::Names.\n",
        "A lodge.\n",
    ],
    "anchors": [],
}


def cut(max_tokens=100, **changes):
    return list(
        kilt_pages.page_passages(PAGE | changes, "ks.json", 7, max_tokens=max_tokens)
    )


def test_passages_of_a_page():
    assert cut() == [
        Passage("290+2+0", "Otters swim. They eat fish. Some live at sea.", "Otter"),
        Passage("290+4+0", "BULLET::::- a bevy", "Otter"),
        Passage("290+7+0", "A lodge.", "Otter"),
    ]


def test_ids_count_the_passages_that_end_in_a_paragraph():
    assert [(p.passage_id, p.text) for p in cut(max_tokens=5)][:3] == [
        ("290+1+0", "Otters swim."),
        ("290+1+1", "They eat fish."),
        ("290+2+0", "Some live at sea."),
    ]
    ids = [passage.passage_id for passage in cut(max_tokens=1)]
    assert ids[:4] == ["290+1+0", "290+1+1", "290+1+2", "290+1+3"]
    assert len(set(ids)) == len(ids)


def test_sections_of_one_name_are_two():
    assert cut(text=["T", "One.", "Section::::A", "Two.", "Section::::A", "Three."])[
        1:
    ] == [Passage("290+3+0", "Two.", "Otter"), Passage("290+5+0", "Three.", "Otter")]


def test_a_title_alone_has_no_passages():
    assert cut(text=["Otter"]) == cut(text=[]) == []


def test_a_number_may_be_the_id():
    assert cut(wikipedia_id=12)[0].passage_id == "12+2+0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wikipedia_id": None}, "'wikipedia_id' is None"),
        ({"wikipedia_id": "1+2"}, "without '\\+'"),
        ({"wikipedia_title": 3}, "'wikipedia_title' is a number"),
        ({"text": "one"}, "no list of paragraphs"),
        ({"text": ["one", 2]}, "no list of paragraphs"),
        ({"text": ["one", "a\0b"]}, "NUL"),
    ],
)
def test_what_is_no_page_is_named(changes, message):
    with pytest.raises(DataError, match=f"ks.json:7: .*{message}"):
        cut(**changes)


def test_what_looks_like_a_page():
    assert kilt_pages.is_page(PAGE)
    assert not kilt_pages.is_page({"_id": "1", "text": "a"})
    assert not kilt_pages.is_page(PAGE | {"text": "a"})
