"""Builds in parts: byte for byte what one process writes, whoever writes the parts."""

import functools
import gzip
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys

import pytest

from art_jax import manifest
from art_jax.data import evidence, evidence_parts, tokenizers
from art_jax.data.corpora import find_corpus, read_corpus
from art_jax.data.evidence_parts import build, run_processes
from art_jax.data.passages import read_passages, write_passages
from art_jax.errors import ConfigError, DataError

PAGES = [
    {
        "wikipedia_id": str(number),
        "wikipedia_title": f"Page {number}",
        "text": [
            "T",
            f"One otter. {'It swims. ' * number}",
            "Section::::A",
            "It eats.",
        ],
    }
    for number in range(1, 8)
]
PIECES = tokenizers.train_wordpiece(["page one otter it swims eats 1234567 ." * 2], 99)
WORDS = tokenizers.train_words(["page one otter"])
TOKENIZERS = {"retriever": PIECES, "teacher": WORDS}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "ks.json"
    path.write_text("".join(f"{json.dumps(page)}\n" for page in PAGES))
    return find_corpus(path, max_tokens=9)


def content(folder):
    """The files under a folder and what is in them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def num_parts(corpus, part_bytes):
    return len(evidence_parts.corpora.split_corpus(corpus, part_bytes))


@pytest.mark.parametrize("part_bytes", [1, 300, 10_000])
def test_a_store_is_the_same_as_that_of_one_process(tmp_path, corpus, part_bytes):
    whole = evidence.build_evidence(
        read_corpus(corpus),
        tmp_path / "whole",
        TOKENIZERS,
        source=evidence.describe_source(corpus.path),
    )
    built = build(corpus, tmp_path / "parts", TOKENIZERS, part_bytes=part_bytes)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert built.digest == whole.digest
    assert built.num_passages == whole.num_passages == len(list(read_corpus(corpus)))
    assert built.num_bytes == sum(map(len, content(tmp_path / "parts").values()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ks.json", "parts", "whole"]
    loaded = evidence.load_evidence(built.target, TOKENIZERS, verify=True)
    assert list(loaded.passages()) == list(read_corpus(corpus))


@pytest.mark.parametrize("name", ["p.tsv", "p.jsonl", "p.tsv.gz", "p.JSONL.GZ"])
def test_a_passage_file_is_the_same_as_that_of_one_process(tmp_path, corpus, name):
    write_passages(tmp_path / f"whole-{name}", read_corpus(corpus))
    built = build(corpus, tmp_path / name, part_bytes=300)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert list(read_passages(tmp_path / name)) == list(read_corpus(corpus))
    assert built.digest is None
    assert built.num_bytes == (tmp_path / name).stat().st_size


def test_several_processes_write_the_same(tmp_path, corpus):
    run = functools.partial(run_processes, num_processes=2)
    built = build(corpus, tmp_path / "two", TOKENIZERS, run=run, part_bytes=300)
    assert num_parts(corpus, 300) > 2
    build(corpus, tmp_path / "one", TOKENIZERS, part_bytes=300)
    assert content(built.target) == content(tmp_path / "one")
    (tmp_path / "bad.txt").write_text("a\nb\n\nd\n")
    with pytest.raises(DataError, match=r"bad\.txt:3: .*'3' is empty"):
        build(find_corpus(tmp_path / "bad.txt"), tmp_path / "p.tsv", run=run)


def test_a_run_takes_the_store_for_its_own(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("1\tone\n2\totter\n")
    build(find_corpus(path), tmp_path / "store", TOKENIZERS, part_bytes=1)
    store = evidence.build_or_load_evidence(path, tmp_path / "store", TOKENIZERS)
    assert store.num_passages == 2


def test_a_gzipped_corpus_is_unpacked_for_the_while(tmp_path, corpus):
    path = tmp_path / "ks.json.gz"
    path.write_bytes(gzip.compress(pathlib.Path(corpus.path).read_bytes()))
    packed = find_corpus(path, max_tokens=9)
    build(packed, tmp_path / "p.tsv", part_bytes=300)
    build(corpus, tmp_path / "q.tsv")
    assert (tmp_path / "p.tsv").read_bytes() == (tmp_path / "q.tsv").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"ks\.json\.gz: the gzip stream is damaged"):
        build(packed, tmp_path / "r.tsv")
    assert len(list(tmp_path.iterdir())) == 4


def test_folders_count_what_they_leave_out(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("One.")
    (folder / "b.md").write_bytes(b"\0")
    (folder / "c.png").write_text("")
    built = build(find_corpus(folder), tmp_path / "p.jsonl", part_bytes=1)
    assert built.skipped == {".png": 1, "binary": 1}
    assert built.num_passages == 1


class Killed(BaseException):
    pass


def stop_after(num_written):
    """A runner that is killed after some parts."""

    def run(folder, plan):
        for index in range(num_written):
            evidence_parts.write_part(folder, index)
        raise Killed

    return run


def test_a_killed_build_goes_on_behind_its_parts(tmp_path, corpus, monkeypatch):
    target = tmp_path / "store"
    with pytest.raises(Killed):
        build(corpus, target, TOKENIZERS, run=stop_after(2), part_bytes=300)
    assert not target.exists()
    (parts,) = (tmp_path / ".store.parts").iterdir()
    (parts / ".00002-left").mkdir()
    written = []
    original = evidence.write_rows

    def write_rows(directory, *rest, **options):
        written.append(directory.name.split("-")[0])
        assert not (parts / ".00002-left").exists()
        return original(directory, *rest, **options)

    monkeypatch.setattr(evidence, "write_rows", write_rows)
    seen = []
    build(
        corpus,
        target,
        TOKENIZERS,
        part_bytes=300,
        progress=lambda *row: seen.append(row),
    )
    last = num_parts(corpus, 300)
    assert written == [f".{index:05d}" for index in range(2, last)]
    assert 0 < seen[0][0] < seen[-1][0] == len(list(read_corpus(corpus)))
    assert 0 < seen[0][1] < seen[-1][1] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ks.json", "store"]


BLOCKED_BUILD = """
import os
from art_jax.data import evidence_parts
from art_jax.data.corpora import find_corpus

def run(folder, plan):
    os.rename("pipe", "docs/a.md")
    evidence_parts.run_processes(folder, plan, num_processes=2)

if __name__ == "__main__":
    evidence_parts.build(find_corpus("docs"), "p.tsv", run=run, part_bytes=1)
"""


def test_processes_of_a_killed_build_end_too(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("One.")
    (tmp_path / "docs" / "b.md").write_text("Two.")
    (tmp_path / "blocked.py").write_text(BLOCKED_BUILD)
    os.mkfifo(tmp_path / "pipe")
    os.link(tmp_path / "pipe", tmp_path / "our_end")
    builder = subprocess.Popen([sys.executable, "blocked.py"], cwd=tmp_path)
    try:
        # Returns when a process reads the other end, in place of a.md.
        writer = os.open(tmp_path / "our_end", os.O_WRONLY)
    finally:
        builder.kill()
        builder.wait()
    poll = select.poll()
    poll.register(writer, select.POLLERR)
    assert poll.poll(60_000)  # milliseconds until nobody reads any more
    os.close(writer)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizers": {"retriever": WORDS}},
        {"part_bytes": 400},
        {"max_tokens": 5},
        {"corpus": PAGES[:4]},
    ],
)
def test_parts_of_another_build_are_cleared_away(tmp_path, corpus, change):
    target = tmp_path / "store"
    with pytest.raises(Killed):
        build(corpus, target, TOKENIZERS, run=stop_after(2), part_bytes=300)
    if "corpus" in change:
        rows = "".join(f"{json.dumps(page)}\n" for page in change["corpus"])
        pathlib.Path(corpus.path).write_text(rows)
    corpus = find_corpus(corpus.path, max_tokens=change.get("max_tokens", 9))
    chosen = change.get("tokenizers", TOKENIZERS)
    build(corpus, target, chosen, part_bytes=change.get("part_bytes", 300))
    build(corpus, tmp_path / "fresh", chosen)
    assert content(target) == content(tmp_path / "fresh")


def test_a_part_that_changed_on_disk_is_named(tmp_path, corpus):
    def damage(folder, plan):
        run_processes(folder, plan)
        (folder / "00001" / "text.utf8").write_bytes(b"x")

    with pytest.raises(evidence.CorruptError, match=r"00001/text\.utf8"):
        build(corpus, tmp_path / "store", TOKENIZERS, run=damage, part_bytes=300)
    assert not (tmp_path / "store").exists()


def test_a_part_that_two_write_is_that_of_the_first(tmp_path, corpus, monkeypatch):
    def run(folder, plan):
        original = evidence_parts.corpora.read_part

        def read_part(*row, **options):
            # Another worker is done before this one has begun.
            monkeypatch.setattr(evidence_parts.corpora, "read_part", original)
            evidence_parts.write_part(folder, 0)
            yield from original(*row, **options)

        monkeypatch.setattr(evidence_parts.corpora, "read_part", read_part)
        run_processes(folder, plan)
        assert sorted(p.name for p in folder.iterdir()) == ["00000", "plan.json"]

    build(corpus, tmp_path / "p.tsv", run=run)
    assert len(list(read_passages(tmp_path / "p.tsv"))) == len(
        list(read_corpus(corpus))
    )


@pytest.mark.parametrize("bucket_bytes", [1 << 30, 300])
@pytest.mark.parametrize("equal_hashes", [False, True])
@pytest.mark.parametrize("target", ["store", "p.tsv"])
def test_ids_that_come_twice_are_named(
    tmp_path, monkeypatch, bucket_bytes, equal_hashes, target
):
    monkeypatch.setattr(evidence_parts, "_BYTES_PER_BUCKET", bucket_bytes)
    if equal_hashes:
        zeros = evidence.np.zeros
        monkeypatch.setattr(
            evidence, "hash_ids", lambda ids, offsets: zeros(len(offsets) - 1, "<u8")
        )
    path = tmp_path / "p.jsonl"
    rows = [f'{{"_id": "{n}", "text": "one"}}\n' for n in (*"abcdé", *range(5, 40))]
    path.write_text("".join(rows))
    chosen = TOKENIZERS if target == "store" else {}
    corpus = find_corpus(path)
    assert build(corpus, tmp_path / target, chosen, part_bytes=200).num_passages == 40
    path.write_text("".join([*rows, rows[4]]))
    with pytest.raises(DataError, match="'é' is given twice, to passages 5 and 41"):
        build(corpus, tmp_path / target, chosen, part_bytes=200, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_corpus_that_changes_while_it_is_read_is_refused(tmp_path, corpus):
    def touch(folder, plan):
        run_processes(folder, plan)
        os.utime(corpus.path, (0, 0))

    with pytest.raises(DataError, match="changed while it was read"):
        build(corpus, tmp_path / "p.tsv", run=touch)
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("One.")

    def change(folder_of_parts, plan):
        run_processes(folder_of_parts, plan)
        (folder / "a.md").write_text("Two.")

    with pytest.raises(DataError, match="changed while it was read"):
        build(find_corpus(folder), tmp_path / "p.tsv", run=change)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs", "ks.json"]


def test_no_passages_are_an_error(tmp_path):
    (tmp_path / "p.tsv").write_text("id\ttext\n")
    with pytest.raises(DataError, match=r"p\.tsv: there are no passages"):
        build(find_corpus(tmp_path / "p.tsv"), tmp_path / "q.tsv")


def test_what_is_there_is_replaced_only_when_asked(tmp_path, corpus):
    for name, chosen in (("store", TOKENIZERS), ("p.tsv", {})):
        target = tmp_path / name
        build(corpus, target, chosen)
        other = find_corpus(corpus.path, max_tokens=4)
        with pytest.raises(ConfigError, match=f"{name} exists. Give --overwrite"):
            build(other, target, chosen)
        before = build(corpus, target, chosen, overwrite=True)
        assert build(other, target, chosen, overwrite=True).num_passages > (
            before.num_passages
        )


def test_only_stores_and_files_are_replaced(tmp_path, corpus):
    precious = tmp_path / "home" / "letter"
    precious.parent.mkdir()
    precious.write_text("dear")
    for name, chosen, message in [
        ("home", TOKENIZERS, "no evidence store, so it is not replaced"),
        ("home/letter", TOKENIZERS, "is a file"),
        ("home.tsv", {}, "is a folder"),
    ]:
        if name == "home.tsv":
            shutil.copytree(tmp_path / "home", tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            build(corpus, tmp_path / name, chosen, overwrite=True)
    assert precious.read_text() == "dear"
    for target in (tmp_path, corpus.path):
        with pytest.raises(ConfigError, match="holds the corpus itself"):
            build(corpus, target, TOKENIZERS, overwrite=True)


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("p.tsv", TOKENIZERS, "holds no tokens"),
        ("store", {}, "at least one tokeniser"),
        ("p.txt", {}, "ends in .tsv or .jsonl"),
        ("p.csv.gz", {}, "ends in .tsv or .jsonl"),
        ("store", {"../x": WORDS}, "cannot be called"),
    ],
)
def test_targets_that_do_not_fit(tmp_path, corpus, name, chosen, message):
    with pytest.raises(ConfigError, match=message):
        build(corpus, tmp_path / name, chosen)
    assert [p.name for p in tmp_path.iterdir()] == ["ks.json"]


def test_a_target_is_built_by_one_at_a_time(tmp_path, corpus):
    def build_again(folder, plan):
        build(corpus, tmp_path / "p.tsv")

    with pytest.raises(ConfigError, match=r"another process is building .*p\.tsv"):
        build(corpus, tmp_path / "p.tsv", run=build_again)


def test_a_build_that_ends_before_its_first_part_leaves_nothing(tmp_path, corpus):
    with pytest.raises(Killed):
        build(corpus, tmp_path / "p.tsv", run=stop_after(0))
    assert [p.name for p in tmp_path.iterdir()] == ["ks.json"]
    with pytest.raises(Killed):
        build(corpus, tmp_path / "p.tsv", run=stop_after(1), part_bytes=300)
    assert len(list(tmp_path.glob(".p.tsv.parts/*/00000"))) == 1


def test_parts_say_how_much_they_hold(tmp_path, corpus):
    def look(folder, plan):
        run_processes(folder, plan)
        counts = [
            manifest.read_manifest(folder / f"{index:05d}")["extra"]["num_passages"]
            for index in range(len(plan.parts))
        ]
        assert sum(counts) == len(list(read_corpus(corpus)))
        assert evidence_parts.read_plan(folder) == plan

    build(corpus, tmp_path / "p.tsv", run=look, part_bytes=300)
