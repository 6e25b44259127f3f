"""The evidence store: what goes in comes out, whole, or an error says what is not."""

import dataclasses
import gzip
import os
import signal
import subprocess
import sys
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from art_jax.data import evidence, layouts, text_files, tokenizers
from art_jax.data.evidence import (
    build_evidence,
    build_or_load_evidence,
    load_evidence,
)
from art_jax.data.passages import Passage, write_passages
from art_jax.errors import ConfigError, CorruptError, DataError

CORPUS = [
    Passage("7", "the cat sat on the mat", "Cats"),
    Passage("a/../b", "dogs 犬 bark\nat [SEP] cats", "Cats"),
    Passage("é", "x", ""),
]
WORDS = tokenizers.train_words(p.text for p in CORPUS)
PIECES = tokenizers.train_wordpiece((f"{p.title} {p.text}" for p in CORPUS), 90)
TOKENIZERS = {"retriever": PIECES, "teacher": WORDS}


@dataclasses.dataclass(frozen=True)
class Letters:
    """One id a character, for a vocabulary of any size."""

    vocab_size: int
    kind = "letters"
    pad_id = 0

    @property
    def digest(self):
        return f"letters {self.vocab_size}"

    def encode_batch(self, texts):
        return [[ord(letter) % self.vocab_size for letter in text] for text in texts]


@pytest.fixture
def store(tmp_path):
    return build_evidence(CORPUS, tmp_path / "store", TOKENIZERS)


def ids_of(table, row):
    return table.token_ids[table.offsets[row] : table.offsets[row + 1]].tolist()


def test_passages_ids_and_rows(store):
    assert store.num_passages == 3
    assert [store.passage(row) for row in range(3)] == CORPUS
    assert list(store.passages()) == CORPUS
    assert [store.row_of(passage.passage_id) for passage in CORPUS] == [0, 1, 2]
    assert store.passage_id(np.int32(2)) == "é"
    with pytest.raises(DataError, match="no passage has the id 'gone'"):
        store.row_of("gone")
    for row in (-1, 3):
        with pytest.raises(IndexError, match=f"row {row} is not in the evidence"):
            store.passage(row)


def test_token_tables_hold_title_then_text(store):
    for name, tokenizer in TOKENIZERS.items():
        table = store.token_tables[name]
        assert table.token_ids.dtype == np.uint16
        for row, passage in enumerate(CORPUS):
            title, text = tokenizer.encode_batch([passage.title, passage.text])
            assert ids_of(table, row) == title + text
            assert table.title_lengths[row] == len(title)
    assert store.tokenizer_digests == {
        name: tokenizer.digest for name, tokenizer in TOKENIZERS.items()
    }


def test_a_passage_is_laid_out_from_the_store(store):
    layout = layouts.Layout((PIECES.cls_id,), (PIECES.sep_id,), (PIECES.sep_id,), 64)
    row = layouts.layout_rows(layout, store.token_tables["retriever"], np.array([1]))[0]
    title, text = PIECES.encode_batch([CORPUS[1].title, CORPUS[1].text])
    want = [PIECES.cls_id, *title, PIECES.sep_id, *text, PIECES.sep_id]
    assert row[: len(want)].tolist() == want
    # The text's own "[SEP]" is no separator.
    assert (row == PIECES.sep_id).sum() == 2


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)]
)
def test_ids_take_two_bytes_where_they_fit(tmp_path, vocab_size, dtype):
    letters = Letters(vocab_size)
    corpus = [Passage("1", "a\uffff\U0001f642")]
    table = build_evidence(corpus, tmp_path / "s", {"t": letters}).token_tables["t"]
    assert table.token_ids.dtype == dtype
    assert ids_of(table, 0) == letters.encode_batch([corpus[0].text])[0]


visible = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9
).filter(text_files.is_visible)


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=30,
)
@hypothesis.given(
    st.lists(
        st.builds(Passage, visible, visible, visible),
        min_size=1,
        max_size=7,
        unique_by=lambda passage: passage.passage_id,
    )
)
def test_any_corpus_comes_out_as_it_went_in(tmp_path_factory, monkeypatch, corpus):
    monkeypatch.setattr(evidence, "_BATCH_PASSAGES", 3)
    monkeypatch.setattr(evidence, "_HASHED_IDS_AT_ONCE", 2)
    done = []
    directory = tmp_path_factory.mktemp("evidence") / "store"
    letters = Letters(2**21)
    store = build_evidence(
        iter(corpus), directory, {"letters": letters}, progress=done.append
    )
    assert list(store.passages()) == corpus
    assert [store.row_of(p.passage_id) for p in corpus] == list(range(len(corpus)))
    table = store.token_tables["letters"]
    wanted = [letters.encode_batch([p.title, p.text]) for p in corpus]
    assert [ids_of(table, row) for row in range(len(corpus))] == [
        title + text for title, text in wanted
    ]
    assert table.title_lengths.tolist() == [len(title) for title, _ in wanted]
    assert done == [*range(3, len(corpus), 3), len(corpus)]


def test_the_digest_is_of_what_is_inside(tmp_path, store):
    def digest(name, corpus=CORPUS, tokenizers=TOKENIZERS, **extra):
        return build_evidence(corpus, tmp_path / name, tokenizers, **extra).digest

    assert digest("again", source={"name": "elsewhere"}) == store.digest
    others = {
        digest("order", CORPUS[::-1]),
        digest("title", [Passage("7", CORPUS[0].text, "Dogs"), *CORPUS[1:]]),
        digest("id", [Passage("8", CORPUS[0].text, "Cats"), *CORPUS[1:]]),
        digest("fewer tables", tokenizers={"retriever": PIECES}),
        digest("other name", tokenizers={"retriever": PIECES, "other": WORDS}),
    }
    assert len(others - {store.digest}) == 5


def test_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(
        evidence, "hash_ids", lambda ids, offsets: np.zeros(len(offsets) - 1, "u8")
    )
    store = build_evidence(CORPUS, tmp_path / "store", {})
    assert [store.row_of(passage.passage_id) for passage in CORPUS] == [0, 1, 2]
    with pytest.raises(DataError):
        store.row_of("gone")
    corpus = [*CORPUS, Passage("7", "again")]
    with pytest.raises(DataError, match="'7' is given twice, to passages 1 and 4"):
        build_evidence(corpus, tmp_path / "twice", {})


def test_hashes_differ_by_letters_places_and_length():
    ids = ["", "a", "b", "ab", "ba", "aab", "\x00", "\x00\x00", "1" * 1000, "1" * 1001]
    blob = np.frombuffer("".join(ids).encode(), np.uint8)
    offsets = np.cumsum([0, *map(len, ids)])
    hashes = evidence.hash_ids(blob, offsets)
    assert len(set(hashes.tolist())) == len(ids)
    counted = [str(number) for number in range(100_000)]
    blob = np.frombuffer("".join(counted).encode(), np.uint8)
    hashes = evidence.hash_ids(blob, np.cumsum([0, *map(len, counted)]))
    assert len(np.unique(hashes)) == 100_000


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "no passages"),
        ([*CORPUS, Passage("é", "y")], "'é' is given twice, to passages 3 and 4"),
        ([*CORPUS, Passage("", "y")], "id is empty"),
        ([*CORPUS, Passage("z", " ")], "'z' is empty"),
        ([*CORPUS, Passage("z", "", "T")], "title but no text"),
        ([*CORPUS, Passage("z", "\ud800")], "surrogate"),
    ],
)
def test_a_bad_corpus_leaves_nothing(tmp_path, corpus, message):
    with pytest.raises(DataError, match=message):
        build_evidence(corpus, tmp_path / "store", TOKENIZERS)
    assert not list(tmp_path.iterdir())


def test_a_title_alone_can_be_allowed(tmp_path):
    corpus = [Passage("z", "", "Title")]
    store = build_evidence(corpus, tmp_path / "s", TOKENIZERS, allow_empty_text=True)
    assert list(store.passages()) == corpus


def test_what_is_there_is_not_written_over(tmp_path, store):
    with pytest.raises(ConfigError, match="exists"):
        build_evidence(CORPUS, store.directory, TOKENIZERS)
    (tmp_path / "empty").mkdir()
    assert build_evidence(CORPUS, tmp_path / "empty", {}).num_passages == 3


@pytest.mark.parametrize("name", ["../x", "A", "", "a b", "x.y"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be called"):
        build_evidence(CORPUS, tmp_path / "store", {name: WORDS})


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "_BATCH_PASSAGES", 1)

    def interrupt(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_evidence(CORPUS, tmp_path / "store", TOKENIZERS, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_killed_build_is_cleared_away_and_a_running_one_is_not(tmp_path):
    code = (
        "import sys, time\n"
        "from art_jax.data import evidence\n"
        "evidence._BATCH_PASSAGES = 1\n"
        "def stop(done):\n"
        "    print(done, flush=True)\n"
        "    if done == 2: sys.stdin.read()\n"
        "rows = [evidence.Passage(str(n), 'x' * 99) for n in range(9)]\n"
        "evidence.build_evidence(rows, sys.argv[1], {}, progress=stop)\n"
    )
    directory = tmp_path / "store"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "1\n"
        assert child.stdout.readline() == "2\n"
        with pytest.raises(ConfigError, match="another process is building"):
            build_evidence(CORPUS, directory, TOKENIZERS)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert not directory.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".store.unfinished"]
    with pytest.raises(CorruptError, match="missing"):
        load_evidence(tmp_path / ".store.unfinished")
    assert list(build_evidence(CORPUS, directory, {}).passages()) == CORPUS
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_cut_files_are_named_at_loading(store, verify):
    path = store.directory / "tokens" / "retriever.ids"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(CorruptError, match=r"retriever\.ids has \d+ bytes instead"):
        load_evidence(store.directory, verify=verify)
    path.unlink()
    with pytest.raises(CorruptError, match=r"retriever\.ids is missing"):
        load_evidence(store.directory, verify=verify)


def test_a_flipped_bit_is_found_by_verifying(store):
    for path in sorted(store.directory.rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(CorruptError, match=path.name):
            load_evidence(store.directory, verify=True)
        path.write_bytes(content)
    assert load_evidence(store.directory, TOKENIZERS, verify=True).num_passages == 3


def test_counts_must_reconcile(tmp_path, monkeypatch):
    def lose_the_last(self, texts):
        original(self, list(texts)[:-1])

    original = evidence.PiecesWriter.write_texts
    monkeypatch.setattr(evidence.PiecesWriter, "write_texts", lose_the_last)
    with pytest.raises(CorruptError, match="not of the same 3 passages"):
        build_evidence(CORPUS, tmp_path / "store", TOKENIZERS)
    assert not list(tmp_path.iterdir())


def test_another_tokenizer_is_not_taken_for_the_same(store):
    other = tokenizers.train_words(["cat"])
    with pytest.raises(CorruptError, match="'teacher'.* but has those of another"):
        load_evidence(store.directory, {"teacher": other})
    with pytest.raises(CorruptError, match="'third'.* but has those of none"):
        load_evidence(store.directory, {"third": other})
    assert load_evidence(store.directory, {"teacher": WORDS}).num_passages == 3


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(CorruptError, match=r"manifest\.json is missing"):
        load_evidence(tmp_path / "gone")
    evidence.write_manifest(tmp_path, {})
    with pytest.raises(CorruptError, match="not an evidence store"):
        load_evidence(tmp_path)


def test_a_store_is_built_once_and_reused(tmp_path):
    path, directory = tmp_path / "corpus.jsonl.gz", tmp_path / "store"
    write_passages(path, CORPUS)
    done = []

    def build(tokenizers=TOKENIZERS):
        return build_or_load_evidence(path, directory, tokenizers, progress=done.append)

    assert list(build().passages()) == CORPUS
    assert list(build().passages()) == CORPUS
    assert done == [3]
    # A copy has another time, but the same bytes.
    os.utime(path, ns=(0, 0))
    assert build().num_passages == 3
    with pytest.raises(CorruptError, match="another tokeniser"):
        build({"retriever": WORDS})
    write_passages(path, CORPUS[:2])
    with pytest.raises(CorruptError, match=r"built from corpus\.jsonl\.gz.* Delete it"):
        build()
    assert done == [3]


def test_a_file_of_the_same_size_and_other_bytes_is_another(tmp_path):
    path, directory = tmp_path / "c.txt", tmp_path / "store"
    path.write_text("abc\n")
    build_or_load_evidence(path, directory, {})
    path.write_text("abd\n")
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    with pytest.raises(CorruptError, match="holds now"):
        build_or_load_evidence(path, directory, {})


def test_a_store_that_was_not_built_from_a_file_matches_none(tmp_path, store):
    write_passages(tmp_path / "c.jsonl", CORPUS)
    with pytest.raises(CorruptError, match="built from other passages"):
        build_or_load_evidence(tmp_path / "c.jsonl", store.directory, TOKENIZERS)


def test_a_fault_in_the_file_keeps_its_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "c.tsv.gz"
    path.write_bytes(gzip.compress(b"1\tx\n2\n"))
    with pytest.raises(DataError, match=r"c\.tsv\.gz:2: "):
        build_or_load_evidence(path, tmp_path / "store", TOKENIZERS)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="cannot be read: No such file"):
        build_or_load_evidence(tmp_path / "gone", tmp_path / "store", TOKENIZERS)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "_BATCH_PASSAGES", 1)
    path = tmp_path / "c.txt"
    path.write_text("x\n" * 3)
    with pytest.raises(DataError, match="changed while it was read"):
        build_or_load_evidence(
            path, tmp_path / "store", {}, progress=lambda done: os.utime(path, (0, 0))
        )
    assert list(tmp_path.iterdir()) == [path]


def test_the_store_is_read_only(store):
    with pytest.raises(ValueError, match="read-only"):
        store.token_tables["retriever"].token_ids[0] = 1
