"""KILT's questions and the passages of their evidence, in miniature."""

import json

import pytest

from art_jax.data import kilt_examples
from art_jax.data.kilt_files import Provenance
from art_jax.errors import DataError

# Page 12: paragraph 1 in two pieces; 2 and 3 share a passage, which ends in 3.
PASSAGES = ["12+1+0", "12+1+1", "12+3+0", "12+10+0", "7+2+0"]


def write(tmp_path, *items, passages=PASSAGES):
    (tmp_path / "p.tsv").write_text("".join(f"{p}\ttext {p}\tT\n" for p in passages))
    (tmp_path / "k.jsonl").write_text("\n".join(map(json.dumps, items)))
    return tmp_path / "k.jsonl", tmp_path / "p.tsv"


def item(name, *places, answer="x"):
    provenance = [
        {
            "wikipedia_id": page,
            "start_paragraph_id": start,
            "end_paragraph_id": end,
            **({} if bleu is None else {"bleu_score": bleu}),
        }
        for page, start, end, bleu in places
    ]
    output = [{"answer": answer}, {"provenance": provenance}]
    return {"id": name, "input": f"{name}?", "output": output}


def positives(example):
    return [candidate.passage.passage_id for candidate in example.positives]


def test_positives_hold_the_evidence(tmp_path):
    files = write(
        tmp_path,
        item("a", ("12", 1, 1, 0.5)),
        item("weak", ("12", 1, 1, 0.49), ("7", 2, 2, 0.1)),
        item("b", ("7", 2, 2, 0.2), ("12", 2, 2, 0.9), ("12", 3, 3, 1)),
        item("c", ("99", 1, 1, None)),
        item("d", ("7", 0, 0, None)),
        item("none"),
    )
    examples = {
        e.question.question_id: e for e in kilt_examples.read_kilt_examples(*files)
    }
    assert {name: positives(one) for name, one in examples.items()} == {
        "a": ["12+1+0", "12+1+1"],
        # The best place is good enough, so all of them count, each passage once.
        "b": ["7+2+0", "12+3+0"],
        "d": ["7+2+0"],
    }
    assert examples["b"].question.answers == ("x",)
    assert examples["b"].question.evidence == (("7+2", "12+2", "12+3"),)
    assert examples["a"].positives[0].passage.text == "text 12+1+0"
    least = kilt_examples.read_kilt_examples(*files, min_bleu=0.0)
    assert "weak" in {example.question.question_id for example in least}


@pytest.mark.parametrize(
    ("start", "end", "want"),
    [
        (1, 1, ["0", "1"]),
        (1, 2, ["0", "1", "2"]),
        (2, 2, ["2"]),
        (3, 3, ["2"]),
        (None, 3, ["2"]),
        (2, 5, ["2", "3"]),
        (11, 12, []),
        (None, None, ["0", "1", "2", "3"]),
    ],
)
def test_passages_of_paragraphs(start, end, want):
    # Paragraph 10 comes after 3: places are numbers, not text.
    of_page = {(10, 0): "3", (1, 1): "1", (3, 0): "2", (1, 0): "0"}
    place = Provenance("12", start_paragraph=start, end_paragraph=end)
    assert list(kilt_examples.passages_of(place, of_page)) == want


def test_other_ids_are_named(tmp_path):
    files = write(tmp_path, item("a", ("12", 1, 1, None)), passages=["12"])
    with pytest.raises(DataError, match="'12' is not page.end_paragraph.piece"):
        list(kilt_examples.read_kilt_examples(*files))
    files = write(tmp_path, item("a", ("12", 1, 1, None)), passages=["1", "2"])
    with pytest.raises(DataError, match="none of the 1 pages"):
        list(kilt_examples.read_kilt_examples(*files))
