"""Arrays of JSON objects are read piece by piece, with the line of every fault."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.data import json_files, text_files
from art_jax.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(-9, 9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


def write(tmp_path, text, name="file.json"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@settings(deadline=None, max_examples=40)
@given(
    records=st.lists(st.dictionaries(st.text(), VALUES, max_size=3), min_size=1),
    indent=st.sampled_from([None, 1]),
    is_escaped=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_an_array_reads_back_whatever_the_pieces(
    tmp_path_factory, records, indent, is_escaped, chunk
):
    text = json.dumps(records, indent=indent, ensure_ascii=is_escaped)
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK_BYTES", chunk)
        got = [record for _, record in json_files.read_json_records(path)]
    assert got == records


@pytest.mark.parametrize("name", ["file.json", "file.json.gz", "file.jsonl"])
def test_lines_and_arrays_say_where_an_object_starts(tmp_path, name):
    array = write(tmp_path, '\n[{"a": 1},\n\n {"b":\n 2}\n, {}]\n', name)
    assert list(json_files.read_json_records(array)) == [
        (2, {"a": 1}),
        (4, {"b": 2}),
        (6, {}),
    ]
    lines = write(tmp_path, '{"a": 1}\n\n{"b": 2}\n', name)
    assert list(json_files.read_json_records(lines)) == [(1, {"a": 1}), (3, {"b": 2})]


def test_a_byte_order_mark_is_dropped(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbf[{"a": "\xc3\xa9"}]')
    assert list(json_files.read_json_records(path)) == [(1, {"a": "é"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}\n {"b": 2}]', ":2: .*',' or ']' must follow"),
        ('[{"a": 1},\n]', ":2: .*comma behind the last item"),
        ('[{"a": 1},\n{"b": ', ":2: .*not JSON"),
        ('[{"a": 1},\n', ":2: .*cut off"),
        ('[{"a": 1}', ":1: .*must follow"),
        ('[{"a": 1}] x', ":1: .*behind what is"),
        ('[{"a": 1},\n 7]', ":2: .*object is needed, not a number"),
        ('[{"a": 1, "a": 2}]', ":1: .*given twice"),
        ('[{"a": NaN}]', ":1: .*NaN is not JSON"),
        ('[{"a": "x\ny"}]', ":1: .*not JSON"),
        ("[" * 100_000, ":1: .*not JSON"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b'[{"a": 1},\n\0]', "NUL"),
        ("[]", "no JSON object"),
        ("", "no JSON object"),
        ("7", ":1: .*object is needed"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"(?s){message}"):
        list(json_files.read_json_records(path))


def test_a_cut_gzip_is_named(tmp_path):
    path = write(tmp_path, "", "file.json.gz")
    whole = gzip.compress(json.dumps([{"a": str(i)} for i in range(9_999)]).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or cut off"):
        list(json_files.read_json_records(path))


def test_an_endless_object_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1_000)
    monkeypatch.setattr(json_files, "_CHUNK_BYTES", 300)
    path = write(tmp_path, '[{"a":\n"' + "x" * 5_000)
    with pytest.raises(DataError, match=":1: .*longer than 1000"):
        list(json_files.read_json_records(path))


def test_a_fault_is_told_before_all_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_CHUNK_BYTES", 100)
    path = write(tmp_path, '[{"a": 1, b}' + " " * 10_000)
    reads = []
    more = json_files._Text._more
    monkeypatch.setattr(
        json_files._Text, "_more", lambda text: reads.append(1) or more(text)
    )
    with pytest.raises(DataError, match="not JSON"):
        list(json_files.read_json_records(path))
    assert len(reads) < 4


def test_an_object_is_read_entry_by_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_CHUNK_BYTES", 3)
    path = write(tmp_path, '{"q1": {"a": 1},\n "q\\u00e9":\n {"b": [2]} }\n')
    assert list(json_files.read_json_entries(path)) == [
        (1, "q1", {"a": 1}),
        (2, "q\u00e9", {"b": [2]}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {},\n"a": {}}', ":2: .*given twice"),
        ('{"a": {},\n7: {}}', ":2: .*double quotes is needed, not 7"),
        ('{"a": {},\n"b" {}}', ":2: .*':' is needed"),
        ('{"a": 7}', ":1: .*object is needed, not a number"),
        ('{"a": {}', ":1: .*must follow"),
        ("[]", ":1: .*'{' is needed"),
        ("{}", "no JSON object"),
        ("", "'{' is needed"),
    ],
)
def test_faults_of_entries_are_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message):
        list(json_files.read_json_entries(path))


def test_the_array_under_a_key_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "_CHUNK_BYTES", 4)
    path = write(tmp_path, '{"v": [1, {"data": 2}],\n"data": [{"a": 1},\n{}], "w": 2}')
    assert list(json_files.read_json_member(path, "data")) == [(2, {"a": 1}), (3, {})]
    with pytest.raises(DataError, match="with 'Data', a list"):
        list(json_files.read_json_member(path, "Data"))
    for text in ('{"data": 7}', "[]", '{"data": []} x'):
        with pytest.raises(DataError, match=":1: "):
            list(json_files.read_json_member(write(tmp_path, text), "data"))


def test_columns_of_a_table(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": {"0": 1, "7": [2]},\n "skip": {"0": {}}, "b": {}}')
    columns = json_files.read_json_columns(path, ("a", "b"))
    assert columns == {"a": {"0": 1, "7": [2]}, "b": {}}
    with pytest.raises(DataError, match="no column 'c'"):
        json_files.read_json_columns(path, ("a", "c"))
    path.write_text('{"a": {"0": 1}, "b": [1]}')
    with pytest.raises(DataError, match=":1: '{' is needed, not '\\['"):
        json_files.read_json_columns(path, ("a",))


def test_the_first_record(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('\n[{"a": 1}, {"b": 2}, broken')
    assert json_files.first_json_record(path) == {"a": 1}
    assert json_files.first_character(path) == "["
