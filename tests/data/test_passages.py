"""Corpus files: every row in is a passage out, or an error that names its line."""

import csv
import gzip
import zipfile

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data import passages, text_files
from art_jax.data.passages import Passage, read_passages, write_passages
from art_jax.errors import ConfigError, DataError

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0\n")
# Those that formats are made of come up often.
one_line = st.text(
    st.one_of(characters, st.sampled_from('ab"\t\r {},\u2028\x0c\ufeff'))
)
any_text = st.text(st.one_of(characters, st.sampled_from('ab"\t\r\n {}\\')))
in_tmp_path = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
)


def corpora(text):
    visible = text.filter(text_files.is_visible)
    rows = st.builds(Passage, visible, visible, text)
    return st.lists(rows, min_size=1, max_size=4, unique_by=lambda row: row.passage_id)


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_dpr_tsv_by_hand(tmp_path):
    path = put(
        tmp_path / "psgs.tsv",
        "id\ttext\ttitle\n"
        '1\t"Aaron (or ""Aharon"") is a prophet"\tAaron\n'
        "2\tplain text\t\n"
        '3\tsaid "so" twice\t"The ""Title"""\n',
    )
    assert list(read_passages(path)) == [
        Passage("1", 'Aaron (or "Aharon") is a prophet', "Aaron"),
        Passage("2", "plain text", ""),
        Passage("3", 'said "so" twice', 'The "Title"'),
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("7\tsome text\n8\tmore\n", [Passage("7", "some text"), Passage("8", "more")]),
        ("7\tsome text\tTitle\n", [Passage("7", "some text", "Title")]),
        ("id\ttext\n7\tsome text\n", [Passage("7", "some text")]),
        ("ID\ttitle\ttext\n7\tTitle\tbody\n", [Passage("7", "body", "Title")]),
        ("id\ttext\ttitle\nid\ttext\ttitle\n", [Passage("id", "text", "title")]),
        ("7\tsome text", [Passage("7", "some text")]),
        (
            "7\tsome text\r\n8\tmore\r\n",
            [Passage("7", "some text"), Passage("8", "more")],
        ),
        ("\ufeff7\tsome text\n\n\n", [Passage("7", "some text")]),
        ("7\ta\u2028b\x0cc\x85d\n", [Passage("7", "a\u2028b\x0cc\x85d")]),
    ],
    ids=["two", "three", "header", "order", "once", "cut", "crlf", "bom", "breaks"],
)
def test_tsv_dialects(tmp_path, text, want):
    assert list(read_passages(put(tmp_path / "c.tsv", text))) == want


def test_a_stray_quote_swallows_no_row(tmp_path):
    rows = [f"{n}\ttext {n}\tTitle {n}" for n in range(8)]
    rows[2] = '2\t"text 2\tTitle 2'
    rows[5] = '5\ttext 5\t"Title 5'
    path = put(tmp_path / "c.tsv", "\n".join(rows))
    found = list(read_passages(path))
    assert [passage.passage_id for passage in found] == [str(n) for n in range(8)]
    assert found[2] == Passage("2", '"text 2', "Title 2")
    assert found[3] == Passage("3", "text 3", "Title 3")
    # What this protects from: the standard reader gives these eight rows as five.
    with open(path, newline="") as file:
        assert len(list(csv.reader(file, delimiter="\t"))) == 5


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('7\t"a\tb"\tTitle', ["7", "a\tb", "Title"]),  # a quoted tab is text
        ('7\t"so it began\ta title"', ["7", '"so it began', 'a title"']),
        ('7\t"Hello" he said\tTitle', ["7", '"Hello" he said', "Title"]),
        ('7\t"open\t"closed"', ["7", '"open', "closed"]),
        ('7\t""\t""""', ["7", "", '"']),
        ('7\t"\t"', ["7", '"', '"']),  # quoted, it would be two
        ("7\ttext", None),
        ("7\ta\tb\tc", None),
    ],
)
def test_fields_of_a_line(line, want):
    assert passages.split_fields(line, 3) == want


@in_tmp_path
@hypothesis.given(
    st.one_of(
        st.tuples(corpora(one_line), st.sampled_from([".tsv", ".tsv.gz"])),
        st.tuples(corpora(any_text), st.sampled_from([".jsonl", ".jsonl.gz"])),
    )
)
def test_what_is_written_reads_back(tmp_path, case):
    corpus, suffix = case
    path = tmp_path / f"corpus{suffix}"
    assert write_passages(path, corpus) == len(corpus)
    assert list(read_passages(path)) == corpus


@in_tmp_path
@hypothesis.given(
    st.lists(any_text.filter(text_files.is_visible), min_size=1, max_size=4)
)
def test_plain_text_reads_back_or_is_refused(tmp_path, texts):
    path = tmp_path / "corpus.txt"
    corpus = [Passage(str(number), text) for number, text in enumerate(texts, 1)]
    try:
        write_passages(path, corpus)
    except DataError:
        starts_with_mark = texts[0].startswith("\ufeff")
        assert starts_with_mark or any(
            "\n" in text or text.endswith("\r") for text in texts
        )
    else:
        assert list(read_passages(path)) == corpus


def test_a_mark_that_would_be_dropped_is_not_written(tmp_path):
    with pytest.raises(DataError, match="does not fit"):
        write_passages(tmp_path / "c.txt", [Passage("1", "\ufeffx")])
    corpus = [Passage("1", "x"), Passage("2", "\ufeffx")]
    write_passages(tmp_path / "c.txt", corpus)
    assert list(read_passages(tmp_path / "c.txt")) == corpus


@in_tmp_path
@hypothesis.given(corpora(one_line))
def test_the_standard_csv_module_writes_and_reads_the_same(tmp_path, corpus):
    rows = [[p.passage_id, p.text, p.title] for p in corpus]
    theirs, ours = tmp_path / "theirs.tsv", tmp_path / "ours.tsv"
    with open(theirs, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, "excel-tab").writerows([["id", "text", "title"], *rows])
    assert list(read_passages(theirs)) == corpus
    write_passages(ours, corpus)
    with open(ours, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file, "excel-tab"))[1:] == rows


def test_beir_jsonl_by_hand(tmp_path):
    path = put(
        tmp_path / "corpus.jsonl",
        '{"_id": "a", "title": "T", "text": "x", "metadata": {"url": 1}}\n'
        '{"id": 12, "text": "y"}\n'
        '{"_id": "b", "title": null, "text": "z\\nw"}\n',
    )
    assert list(read_passages(path)) == [
        Passage("a", "x", "T"),
        Passage("12", "y"),
        Passage("b", "z\nw"),
    ]


def test_plain_text_is_numbered_by_line(tmp_path):
    path = put(tmp_path / "corpus.txt", "one\ttab\ntwo\n")
    assert list(read_passages(path)) == [Passage("1", "one\ttab"), Passage("2", "two")]


@pytest.mark.parametrize(
    ("content", "want"), [('{"_id": 1, "text": "x"}\n', "1"), ("a\tx\n", "a")]
)
def test_another_name_is_told_by_content(tmp_path, content, want):
    (found,) = read_passages(put(tmp_path / "corpus.dump", content))
    assert found == Passage(want, "x")
    with pytest.raises(DataError, match="does not say the format"):
        list(read_passages(put(tmp_path / "unknown", "just text\n")))


def test_gzip_is_told_by_content_and_written_the_same_each_time(tmp_path):
    put(tmp_path / "named.tsv", gzip.compress(b"1\tx\n"))
    put(tmp_path / "not.tsv.gz", b"1\tx\n")
    for name in ("named.tsv", "not.tsv.gz"):
        assert list(read_passages(tmp_path / name)) == [Passage("1", "x")]
    for name in ("a.tsv.gz", "b.tsv.gz"):
        write_passages(tmp_path / name, [Passage("1", "x")])
    assert (tmp_path / "a.tsv.gz").read_bytes() == (tmp_path / "b.tsv.gz").read_bytes()


JSON = '{"_id": "a", "text": "x"}\n'
FAULTS = {
    "too few columns": ("c.tsv", "1\tx\ty\n2\tx\n", 2, "2 columns where .* says 3"),
    "too many columns": ("c.tsv", "1\tx\n2\tx\ty\tz\n", 2, "4 columns"),
    "one column": ("c.tsv", "x\n", 1, "1 tab-separated columns"),
    "quote over two lines": ("c.tsv", '1\tx\ty\n2\t"x\nx"\ty\n', 2, "2 columns"),
    "empty line": ("c.tsv", "1\tx\n\n2\tx\n", 2, "1 column where"),
    "header alone": ("c.tsv", "id\ttext\n", None, "holds no passages"),
    "empty file": ("c.tsv", "", None, "holds no passages"),
    "line ends alone": ("c.jsonl", "\n\n", None, "holds no passages"),
    "duplicate counted ids": ("c.tsv", "1\tx\n2\ty\n1\tz\n", 3, "'1'.*on line 1"),
    "duplicate ids": ("c.tsv", "id\ttext\nb\tx\na\ty\nb\tz\n", 4, "'b'.*line 2"),
    "duplicate of a counted id": ("c.tsv", "1\tx\n3\ty\n2\tz\n3\tw\n", 4, "line 2"),
    "empty id": ("c.tsv", "1\tx\n\ty\n", 2, "id is empty"),
    "white id": ("c.tsv", "\u200b \ty\n", 1, "id is empty"),
    "empty passage": ("c.tsv", "1\tx\ty\n2\t\t\n", 2, "'2' is empty"),
    "zero-width passage": ("c.tsv", "1\t\u200b\u2060\ufeff\n", 1, "'1' is empty"),
    "title alone": ("c.tsv", "1\t \tTitle\n", 1, "has a title but no text"),
    "empty text line": ("c.txt", "x\n\ny\n", 2, "'2' is empty"),
    "latin-1": ("c.tsv", b"1\tx\n2\tcaf\xe9 x\n", 2, r"byte 6 .*0xe9.* not UTF-8"),
    "NUL": ("c.tsv", b"1\tx\n2\ta\0b\n", 2, "NUL"),
    "UTF-16": ("c.tsv", "1\tx\n".encode("utf-16"), 1, "UTF-16"),
    "UTF-16 without mark": ("c.tsv", "1\tx\n".encode("utf-16-le"), 1, "NUL"),
    "no JSON": ("c.jsonl", JSON + "{'_id': 'b'}\n", 2, "not JSON.*column 2"),
    "trailing comma": ("c.jsonl", '{"_id": "a",}\n', 1, "not JSON"),
    "cut JSON": ("c.jsonl", JSON + '{"_id": "b", "te', 2, "not JSON"),
    "NaN": ("c.jsonl", '{"_id": "a", "text": "x", "s": NaN}\n', 1, "NaN is not JSON"),
    "infinity": ("c.jsonl", '{"_id": "a", "s": -Infinity}\n', 1, "-Infinity"),
    "key twice": ("c.jsonl", '{"_id": "a", "_id": "b"}\n', 1, "'_id' is given twice"),
    "inner key twice": (
        "c.jsonl",
        '{"m": {"k": 1, "k": 2}}\n',
        1,
        "'k' is given twice",
    ),
    "array": ("c.jsonl", '["a", "x"]\n', 1, "object is needed, not an array"),
    "null": ("c.jsonl", "null\n", 1, "object is needed, not null"),
    "deep": ("c.jsonl", "[" * 100_000 + "\n", 1, "not JSON"),
    "long number": ("c.jsonl", '{"_id": ' + "1" * 5000 + "}\n", 1, "not JSON"),
    "no id": ("c.jsonl", '{"text": "x"}\n', 1, "'_id' is missing.*'text'"),
    "null id": ("c.jsonl", '{"_id": null, "text": "x"}\n', 1, "id is empty"),
    "boolean id": ("c.jsonl", '{"_id": true, "text": "x"}\n', 1, "'_id' is a boolean"),
    "no text": ("c.jsonl", '{"_id": "a", "title": "x"}\n', 1, "'text' is missing"),
    "nested text": ("c.jsonl", '{"_id": "a", "text": ["x"]}\n', 1, "is an array"),
    "number text": ("c.jsonl", '{"_id": "a", "text": 7}\n', 1, "'text' is a number"),
    "surrogate": ("c.jsonl", r'{"_id": "a", "text": "x\ud800"}', 1, r"U\+D800"),
    "escaped NUL": ("c.jsonl", r'{"_id": "a", "text": "x\u0000"}', 1, "NUL"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_error_with_its_line(tmp_path, fault):
    name, content, line, message = FAULTS[fault]
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_passages(path))
    assert caught.value.line == line
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_passages(tmp_path / "gone.tsv"))
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(DataError, match="cannot be opened: Is a directory"):
        list(read_passages(tmp_path / "folder.tsv"))


def test_damaged_and_foreign_compression(tmp_path):
    rows = b"".join(b"%d\ttext number %d\n" % (n, n * n) for n in range(20_000))
    whole = gzip.compress(rows)
    path = put(tmp_path / "cut.tsv.gz", whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or cut off") as caught:
        list(read_passages(path))
    assert 0 < caught.value.line < 20_000
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    with pytest.raises(DataError):
        list(read_passages(put(tmp_path / "flipped.tsv.gz", bytes(flipped))))
    with zipfile.ZipFile(tmp_path / "c.tsv", "w") as archive:
        archive.writestr("c.tsv", "1\tx\n")
    with pytest.raises(DataError, match="compressed with zip"):
        list(read_passages(tmp_path / "c.tsv"))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 100)
    path = put(tmp_path / "c.txt", "x" * 99 + "\n" + "y" * 100 + "\n")
    lines = read_passages(path)
    with pytest.raises(DataError, match="longer than 100 bytes") as caught:
        list(lines)
    assert caught.value.line == 1
    assert list(read_passages(put(path, "x" * 98 + "\n"))) == [Passage("1", "x" * 98)]


def test_rows_before_a_fault_are_read_first(tmp_path):
    reader = read_passages(put(tmp_path / "c.tsv", "1\tx\n2\ty\nbroken\n"))
    assert [next(reader).passage_id, next(reader).passage_id] == ["1", "2"]
    with pytest.raises(DataError, match=r"c\.tsv:3: "):
        next(reader)


def test_a_title_alone_can_be_allowed(tmp_path):
    path = put(tmp_path / "c.jsonl", '{"_id": "a", "title": "T", "text": ""}\n')
    assert list(read_passages(path, allow_empty_text=True)) == [Passage("a", "", "T")]


def test_equal_hashes_of_different_ids_are_no_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr(passages.SeenIds, "add", lambda self, passage_id: False)
    path = put(tmp_path / "c.tsv", "a\tx\nb\ty\n")
    assert len(list(read_passages(path))) == 2


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.one_of(st.integers(0, 9).map(str), st.sampled_from(["a", "٣", "007"])))
)
def test_seen_ids_are_a_set(ids):
    seen, want = passages.SeenIds(), set()
    for passage_id in ids:
        assert seen.add(passage_id) == (passage_id not in want)
        want.add(passage_id)


def test_ids_that_count_up_take_no_memory():
    seen = passages.SeenIds()
    assert all(seen.add(str(number)) for number in range(1, 10_000))
    assert not any(seen._places)


def test_many_ids_take_little_memory():
    seen = passages.SeenIds()
    ids = [f"{number}+1" for number in range(3000)]
    assert all(map(seen.add, ids))
    assert not any(map(seen.add, ids))
    assert len(seen._places) == 8192  # a third to two thirds are taken


def test_hashes_of_one_place_are_told_apart(monkeypatch):
    # All lowest bits are 0; one hash is 0, which is the mark of a free place.
    monkeypatch.setattr(passages, "hash", lambda one: int(one) << 20, raising=False)
    seen = passages.SeenIds()
    assert [seen.add(f"0{number}") for number in (0, 1, 2, 1, 0)] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("name", "corpus", "message"),
    [
        ("c.tsv", [Passage("a", "x\ny")], "line break"),
        ("c.jsonl", [Passage("a", "x"), Passage("a", "y")], "given twice"),
        ("c.jsonl", [Passage("", "x")], "id is empty"),
        ("c.jsonl", [Passage("a", " ")], "is empty"),
        ("c.jsonl", [Passage("a", "\ud800")], "surrogate"),
        ("c.txt", [Passage("a", "x")], "does not fit"),
        ("c.txt", [Passage("1", "x", "T")], "does not fit"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, name, corpus, message):
    put(tmp_path / name, "what was there")
    with pytest.raises(DataError, match=message):
        write_passages(tmp_path / name, corpus)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "what was there"


def test_an_unknown_suffix_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="must end in one of"):
        write_passages(tmp_path / "c.parquet", [Passage("a", "x")])


def test_passages_of_some_ids_are_selected_or_the_first_missing_is_named():
    corpus = [Passage("a", "one"), Passage("b", "two"), Passage("c", "three")]
    assert passages.select_passages(iter(corpus), {"a", "c"}) == {
        "a": corpus[0],
        "c": corpus[2],
    }
    with pytest.raises(DataError, match="r.trec: 2 passages .* not in p.tsv.* 'x'"):
        passages.select_passages(
            corpus, {"y", "a", "x"}, source="in p.tsv", path="r.trec"
        )
