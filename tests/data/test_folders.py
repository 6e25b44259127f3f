"""Folders of text: which files are read, and where Markdown is cut."""

import pytest

from art_jax.data import folders
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError, DataError


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
    return folder


def cut(folder, text, name="a.md", **options):
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return list(folders.document_passages(folder, name, **options))


def titles_and_texts(folder, text, name="a.md"):
    return [(passage.title, passage.text) for passage in cut(folder, text, name)]


def test_text_files_are_found_in_order_and_the_others_counted(tmp_path):
    write(tmp_path, b_txt="", B_md="", a__z_MD="", a__b__c_txt="", a_b_txt="")
    write(tmp_path, x_png="", y_png="", _git__config="", a___hidden_md="", Makefile="")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names, skipped = folders.list_files(tmp_path)
    assert names == ["B.md", "a/b/c.txt", "a/z.MD", "a.b.txt", "b.txt"]
    assert skipped == {".png": 2, "hidden": 2, "without a suffix": 1}
    assert folders.list_files(tmp_path, (".png",))[0] == ["x.png", "y.png"]


def test_a_folder_without_text_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none of its files ends in \.md"):
        folders.list_files(write(tmp_path, x_png=""))


def test_plain_text_is_titled_by_its_name_and_cut_at_empty_lines(tmp_path):
    text = "# No heading\nhere.\r\n\n  \nMore\ttext. And more.\n"
    (tmp_path / "guide").mkdir()
    assert cut(tmp_path, text, "guide/notes.v2.txt", max_tokens=6) == [
        Passage("guide/notes.v2.txt#0", "# No heading here.", "notes.v2"),
        Passage("guide/notes.v2.txt#1", "More text. And more.", "notes.v2"),
    ]


def test_headings_are_titles_and_passages_do_not_cross_them(tmp_path):
    text = """Before.

# Guide
## Linux ##
Type it.
### Old
Long ago.
## Mac
Click it.

Twice.
# Index
"""
    assert titles_and_texts(tmp_path, text) == [
        ("a", "Before."),
        ("Guide > Linux", "Type it."),
        ("Guide > Linux > Old", "Long ago."),
        ("Guide > Mac", "Click it. Twice."),
    ]


def test_underlined_headings(tmp_path):
    text = "Guide\n=====\nOne.\n\nUse\n---\nTwo.\n\n---\nThree.\n- item\n---\nFour.\n"
    assert titles_and_texts(tmp_path, text) == [
        ("Guide", "One."),
        ("Guide > Use", "Two. --- Three. - item --- Four."),
    ]


def test_sections_of_one_name_are_two(tmp_path):
    assert titles_and_texts(tmp_path, "# A\nOne.\n# A\nTwo.\n") == [
        ("A", "One."),
        ("A", "Two."),
    ]


@pytest.mark.parametrize("line", ["#hashtag", "    # code", "####### seven", "\\# x"])
def test_what_only_looks_like_a_heading_is_text(tmp_path, line):
    assert titles_and_texts(tmp_path, f"{line}\n") == [("a", " ".join(line.split()))]


def test_an_empty_heading_has_no_name(tmp_path):
    assert titles_and_texts(tmp_path, "# A\n##\nOne.\n") == [("A", "One.")]


def test_in_code_nothing_is_a_heading(tmp_path):
    text = "# A\n```sh\n# comment\n~~~\n---\n```\n~~~~\n~~~\n# b\n~~~~\n## C\nOne.\n"
    assert titles_and_texts(tmp_path, text) == [
        ("A", "```sh # comment ~~~ --- ``` ~~~~ ~~~ # b ~~~~"),
        ("A > C", "One."),
    ]


@pytest.mark.parametrize("end", ["---", "..."])
def test_front_matter_is_left_out(tmp_path, end):
    text = f"---\ntitle: x\n# no\n{end}\nOne.\n"
    assert titles_and_texts(tmp_path, text) == [("a", "One.")]
    assert titles_and_texts(tmp_path, text, "a.txt")[0][1].startswith("--- title")


def test_a_rule_at_the_top_is_no_front_matter(tmp_path):
    assert titles_and_texts(tmp_path, "---\nOne.\n") == [("a", "--- One.")]


def test_files_without_passages_are_counted(tmp_path):
    skipped = folders.collections.Counter()
    assert cut(tmp_path, b"ab\0c", skipped=skipped) == []
    assert cut(tmp_path, "# A\n \n", skipped=skipped) == []
    assert cut(tmp_path, "", "b.txt", skipped=skipped) == []
    assert cut(tmp_path, "One.", skipped=skipped) != []
    assert skipped == {"binary": 1, "without text": 2}


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert titles_and_texts(tmp_path, "\ufeff# A\r\nOne.\r\n") == [("A", "One.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntw\xff\n", r"a\.md:2: byte 3 .* is not UTF-8"),
        (b"\xff\xfeo\0", "UTF-16"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        cut(tmp_path, content)


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.md: cannot be read"):
        list(folders.document_passages(tmp_path, "gone.md"))
