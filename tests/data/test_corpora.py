"""Corpora told by content, and read in parts that give what the whole gives."""

import collections
import gzip
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data import corpora, text_files
from art_jax.data.corpora import find_corpus, read_corpus, read_part, split_corpus
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, DataError

PAGES = [
    {"wikipedia_id": "1", "wikipedia_title": "A", "text": ["A", "One. Two."]},
    {"wikipedia_id": "2", "wikipedia_title": "B", "text": ["B"]},
    {"wikipedia_id": "3", "wikipedia_title": "C", "text": ["C", "Three.", "Four."]},
]
FILES = {
    "p.tsv": b'text\tid\ttitle\nOne\t7\tA\n"t\tw"\t8\tB\n',
    "p.jsonl": b'{"_id": 7, "text": "One"}\n{"_id": 8, "text": "Two"}\n',
    "p.txt": b"One\nTwo\nThree\n",
    "collection.tsv": b'0\t"One" \xe2\x80\x9cis\n1\t"quoted"\n2\tTwo\n',
    "ks.json": "".join(f"{json.dumps(page)}\n" for page in PAGES).encode(),
}
FORMATS = {"collection.tsv": "msmarco", "ks.json": "kilt"}


@pytest.fixture
def files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def in_parts(corpus, part_bytes):
    parts = split_corpus(corpus, part_bytes)
    return [passage for part in parts for passage in read_part(corpus, part)]


@pytest.mark.parametrize("name", FILES)
def test_formats_are_told_by_content(files, name):
    assert find_corpus(files / name).format == FORMATS.get(name, "passages")
    (files / f"{name}.gz").write_bytes(gzip.compress(FILES[name]))
    corpus = find_corpus(files / f"{name}.gz")
    assert corpus.format == FORMATS.get(name, "passages")
    assert list(read_corpus(corpus)) == list(read_corpus(find_corpus(files / name)))


def test_folders_are_told_by_what_is_in_them(files, tmp_path):
    assert find_corpus(tmp_path).format == "folder"
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": "A", "text": ""}\n')
    corpus = find_corpus(tmp_path)
    assert (corpus.format, corpus.allow_empty_text) == ("passages", True)
    assert list(read_corpus(corpus)) == [Passage("1", "", "A")]
    assert find_corpus(tmp_path, "folder").format == "folder"


def test_other_files_are_passages(tmp_path):
    for content in ("1\tone\n", "0\tone\tA\n", "id\ttext\n0\tone\n"):
        (tmp_path / "p.tsv").write_text(content)
        assert find_corpus(tmp_path / "p.tsv").format == "passages"
    (tmp_path / "p.txt").write_text("0\tone\n")
    assert find_corpus(tmp_path / "p.txt").format == "passages"


def test_texts_of_ms_marco_are_kept_as_they_are(files):
    assert list(read_corpus(find_corpus(files / "collection.tsv"))) == [
        Passage("0", '"One" “is'),
        Passage("1", '"quoted"'),
        Passage("2", "Two"),
    ]


def test_pages_are_cut(files):
    corpus = find_corpus(files / "ks.json", max_tokens=3)
    assert [passage.passage_id for passage in read_corpus(corpus)] == [
        "1+1+0",
        "1+1+1",
        "3+1+0",
        "3+2+0",
    ]
    assert len(list(read_corpus(find_corpus(files / "ks.json")))) == 2


def test_folders_are_read_in_order_of_paths(tmp_path):
    (tmp_path / "b.txt").write_text("One. Two.")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c.md").write_text("# A\nThree.")
    (tmp_path / "x.png").write_text("")
    (tmp_path / "y.org").write_text("Four.")
    skipped = collections.Counter()
    corpus = find_corpus(tmp_path, max_tokens=2)
    assert list(read_corpus(corpus, skipped=skipped)) == [
        Passage("a/c.md#0", "Three.", "A"),
        Passage("b.txt#0", "One.", "b"),
        Passage("b.txt#1", "Two.", "b"),
    ]
    assert skipped == {".png": 1, ".org": 1}
    corpus = find_corpus(tmp_path, suffixes=(".org",))
    assert [passage.passage_id for passage in read_corpus(corpus)] == ["y.org#0"]
    for part_bytes in (1, 9, 10, 11, 1000):
        corpus = find_corpus(tmp_path)
        assert in_parts(corpus, part_bytes) == list(read_corpus(corpus))
    assert len(split_corpus(corpus, 1)) == 2
    assert sum(part.num_bytes for part in split_corpus(corpus, 1)) == 19


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part_bytes", [1, 20, 60, 10_000])
def test_parts_give_what_the_whole_gives(files, name, part_bytes):
    corpus = find_corpus(files / name)
    assert in_parts(corpus, part_bytes) == list(read_corpus(corpus))
    if part_bytes == 1:
        assert len(split_corpus(corpus, 1)) == FILES[name].count(b"\n")


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)
@hypothesis.given(st.text("a\n\r\ufeff", max_size=30), st.integers(1, 12))
def test_any_lines_in_parts_have_the_numbers_they_have(tmp_path, text, part_bytes):
    path = tmp_path / "lines"
    path.write_bytes(text.encode())
    ranges = text_files.split_lines(path, part_bytes)
    found = [row for part in ranges for row in text_files.read_raw_lines(path, part)]
    assert found == list(text_files.read_raw_lines(path))
    assert ranges[0].start == 0
    assert ranges[-1].end == len(text.encode())
    assert all(a.end == b.start for a, b in zip(ranges, ranges[1:], strict=False))


def test_a_line_that_is_too_long_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 10)
    path = tmp_path / "p.txt"
    path.write_text("one\n" + "x" * 1000)
    ranges = text_files.split_lines(path, 4)
    assert ranges[-1].end is None
    with pytest.raises(DataError, match=r"p\.txt:2: the line is longer"):
        in_parts(find_corpus(path, "passages"), 4)


def test_gzipped_files_have_no_parts(files):
    path = files / "p.txt.gz"
    path.write_bytes(gzip.compress(b"One\n"))
    with pytest.raises(ConfigError, match="gunzip"):
        split_corpus(find_corpus(path), 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"_id": "1", "text": "a"}\n' * 3 + "{\n", ":4: not JSON"),
        ("p.txt", "a\nb\n\nc\n", ":3: .*'3' is empty"),
        ("p.tsv", "1\ta\n2\tb\tc\n", ":2: 3 columns"),
        ("collection.tsv", "0\ta\n1\tb\tc\n", ":2: 3 tab-separated columns"),
        ("collection.tsv", "0\ta\n1\n", ":2: 1 tab-separated columns"),
        ("ks.json", json.dumps(PAGES[0]) + '\n{"text": []}\n', ":2: 'wikipedia_id'"),
    ],
)
@pytest.mark.parametrize("part_bytes", [1, 10_000])
def test_faults_name_file_and_line(tmp_path, name, content, message, part_bytes):
    (tmp_path / name).write_text(content)
    corpus = find_corpus(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}{message}"):
        list(read_corpus(corpus))
    with pytest.raises(DataError, match=f"{name}{message}"):
        in_parts(corpus, part_bytes)


def test_what_cannot_be_found_is_named(files, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_corpus(tmp_path / "gone")
    with pytest.raises(ConfigError, match="'word' is not known"):
        find_corpus(tmp_path, "word")
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        find_corpus(tmp_path, max_tokens=0)
    with pytest.raises(ConfigError, match="'kilt' needs a file"):
        find_corpus(tmp_path, "kilt")
    with pytest.raises(ConfigError, match="'folder' needs a folder"):
        find_corpus(files / "p.txt", "folder")
    with pytest.raises(DataError, match=r"holds no corpus\.jsonl"):
        find_corpus(tmp_path, "beir")
    assert set(corpora.FORMATS) == {"passages", "beir", "msmarco", "kilt", "folder"}
