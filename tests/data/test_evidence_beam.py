"""The Beam pipeline: the same bytes as one process, on Beam's own local runner."""

import logging
import pathlib
import sys

import pytest

from art_jax.data import evidence_parts, tokenizers
from art_jax.data.corpora import find_corpus
from art_jax.errors import ConfigError, DataError

pytest.importorskip(
    "apache_beam", reason="apache_beam is not installed: pip install 'art-jax[beam]'"
)

from art_jax.data import evidence_beam  # noqa: E402

NUM_PASSAGES = 60
TOKENIZERS = {
    "retriever": tokenizers.train_wordpiece(["text of passage 0123456789"] * 2, 60),
    "teacher": tokenizers.train_words(["text of passage"]),
}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [f'{{"_id": "p{n}", "text": "text of {n}"}}\n' for n in range(NUM_PASSAGES)]
    path.write_text("".join(rows))
    return find_corpus(path)


@pytest.fixture
def run():
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    return evidence_beam.beam_runner("DirectRunner", ["--direct_num_workers=1"])


def content(path):
    files = [path] if path.is_file() else path.rglob("*")
    return [(p.name, p.read_bytes()) for p in sorted(files) if p.is_file()]


@pytest.mark.parametrize("chosen", [TOKENIZERS, {}], ids=["store", "passage file"])
def test_the_bytes_are_those_of_one_process(tmp_path, corpus, run, chosen):
    name = "built" if chosen else "built.jsonl"
    (tmp_path / "here").mkdir()
    here = evidence_parts.build(corpus, tmp_path / "here" / name, chosen)
    there = evidence_parts.build(
        corpus, tmp_path / name, chosen, run=run, part_bytes=300
    )
    assert content(tmp_path / name) == content(tmp_path / "here" / name)
    assert (there.num_passages, there.digest) == (NUM_PASSAGES, here.digest)
    assert not (tmp_path / f".{name}.parts").exists()


def test_parts_that_are_there_are_kept(tmp_path, corpus, run, monkeypatch):
    def stop(folder, plan):
        evidence_parts.write_part(folder, 1)
        (folder / "faults").mkdir()
        (folder / "faults" / "part-00000.json").write_text("{}")
        raise KeyboardInterrupt

    target = tmp_path / "p.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evidence_parts.build(corpus, target, run=stop, part_bytes=300)
    (part,) = tmp_path.glob(".p.jsonl.parts/*/00001")
    written_before = part.stat().st_mtime_ns

    def look(folder, plan):
        run(folder, plan)
        assert part.stat().st_mtime_ns == written_before

    evidence_parts.build(corpus, target, run=look, part_bytes=300)
    assert target.read_text() == "".join(
        f'{{"_id": "p{n}", "title": "", "text": "text of {n}"}}\n'
        for n in range(NUM_PASSAGES)
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"_id": "x", "text": ""}', r"corpus\.jsonl:61: .*'x' is empty"),
        ('{"_id": "p7", "text": "a"}', "'p7' is given twice, to passages 8 and 61"),
    ],
)
def test_faults_come_back_as_they_are(tmp_path, corpus, run, row, message):
    with pathlib.Path(corpus.path).open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(DataError, match=message):
        evidence_parts.build(corpus, tmp_path / "p.tsv", run=run, part_bytes=300)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_nothing_more_is_written_after_a_fault(tmp_path):
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "part-00003.json").write_text("{}")
    # There is no plan in the folder, so that writing would raise.
    assert not evidence_beam._write_part(0, str(tmp_path))
    evidence_beam._check_ids(0, str(tmp_path), [True, False])


def test_a_runner_that_beam_does_not_know_is_named(tmp_path, corpus):
    run = evidence_beam.beam_runner("WalkRunner")
    with pytest.raises(ConfigError, match="Beam refuses --runner=WalkRunner"):
        evidence_parts.build(corpus, tmp_path / "p.tsv", run=run)


def test_without_beam_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install 'art-jax\[beam\]'"):
        evidence_beam.beam_runner("DirectRunner")
