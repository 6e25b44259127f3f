import json
import os

import pytest

from art_jax.checkpoints import json_files
from art_jax.errors import CorruptError


@pytest.mark.parametrize(
    ("read", "value"),
    [(json_files.read_object, {"é": [1, None]}), (json_files.read_array, [{"a": 1}])],
)
def test_what_is_written_is_read(tmp_path, read, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read(path) == value


def test_an_object_is_written_in_order_of_its_keys_as_utf8(tmp_path):
    json_files.write_object(tmp_path / "a.json", {"b": "é", "a": {"d": 1, "c": 2}})
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert text.endswith("}\n")
    assert [line.split('"')[1] for line in text.splitlines() if '"' in line] == [
        *("a", "c", "d"),
        "b",
    ]
    assert "é" in text
    assert json_files.read_object(tmp_path / "a.json")["b"] == "é"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', "Expecting value"),
        (b"\xff\xfe{}", "utf-8"),
        (b'{"a":' * 200_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
        (b"[]", "holds a list where a JSON object"),
        (b"null", "holds a NoneType where a JSON object"),
    ],
    ids=["cut", "encoding", "nested", "long number", "array", "null"],
)
def test_what_is_no_object_is_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=rf"config\.json .*{message}"):
        json_files.read_object(path)


def test_an_object_is_no_array(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(CorruptError, match="holds a dict where a JSON array"):
        json_files.read_array(tmp_path / "a.json")


def test_a_file_too_large_for_json_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    os.truncate(path, 100_000_001)  # a hole: no byte of it lies on disk
    with pytest.raises(CorruptError, match="more than 100000000 bytes"):
        json_files.read_object(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorruptError, match=r"gone\.json .*No such file"):
        json_files.read_object(tmp_path / "gone.json")
