"""The cache against a dictionary, and against kills and flipped bits."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.errors import ConfigError, CorruptError
from art_jax.teacher.score_cache import ScoreCache

KEY = {"teacher": "t", "evidence": "e", "questions": "q"}


def open_cache(directory, process=0, **changes):
    return ScoreCache.open(directory, {**KEY, **changes}, process=process)


def add(cache, pairs, scores):
    """Adds pairs of a question and a row, one a line."""
    questions, rows = np.array(pairs, np.int64).reshape(-1, 2).T
    cache.add(questions, rows[:, None], np.array(scores, np.float32)[:, None])


def known(cache, num_questions=4, num_rows=5):
    """All that a cache knows of a few questions and rows, as a dictionary."""
    rows = np.broadcast_to(np.arange(num_rows), (num_questions, num_rows))
    scores = cache.lookup(np.arange(num_questions), rows)
    assert scores.dtype == np.float32
    return {
        (question, row): float(scores[question, row])
        for question, row in np.argwhere(~np.isnan(scores)).tolist()
    }


def files(directory):
    return sorted(directory.glob("*"))


def test_what_was_added_is_found_and_the_rest_is_nan(tmp_path):
    cache = open_cache(tmp_path)
    cache.add(
        np.array([3, 0]),
        np.array([[7, -1], [2**31 - 1, 7]]),
        np.array([[-1.5, 9.0], [0.0, np.nan]], np.float32),
    )
    want = np.array([[-1.5, np.nan, np.nan], [0.0, np.nan, np.nan]], np.float32)
    rows = np.array([[7, -1, 2**31 - 1], [2**31 - 1, 7, -1]], np.int32)
    np.testing.assert_array_equal(cache.lookup(np.array([3, 0]), rows), want)
    assert len(cache) == 2
    cache.flush()
    again = open_cache(tmp_path)
    np.testing.assert_array_equal(again.lookup(np.array([3, 0]), rows), want)
    assert len(again) == 2


def test_an_empty_cache_knows_nothing_and_leaves_no_file(tmp_path):
    cache = open_cache(tmp_path / "new" / "folder")
    rows = np.zeros((2, 3), np.int32)
    assert np.isnan(cache.lookup(np.arange(2), rows)).all()
    cache.add(np.arange(2), rows - 1, np.zeros((2, 3), np.float32))
    cache.flush()
    assert files(tmp_path / "new" / "folder") == []
    assert cache.lookup(np.arange(0), np.zeros((0, 3), np.int32)).shape == (0, 3)


steps = st.one_of(
    st.tuples(
        st.just("add"),
        st.lists(
            st.tuples(
                st.integers(0, 3), st.integers(0, 4), st.integers(-9, 9).map(float)
            ),
            max_size=6,
        ),
    ),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(st.just("open again"), st.integers(0, 1)),
    st.tuples(st.just("kill in a write"), st.integers(1, 60)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=12))
def test_it_is_a_dictionary_that_remembers_what_was_flushed(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("cache")
    cache = open_cache(directory)
    flushed, held = {}, {}
    for name, argument in steps:
        if name == "add":
            add(cache, [pair[:2] for pair in argument], [pair[2] for pair in argument])
            held |= {(question, row): score for question, row, score in argument}
        elif name == "flush":
            cache.flush()
            flushed = dict(held)
        else:
            before = {path: path.stat().st_size for path in files(directory)}
            if name == "kill in a write":
                add(cache, [(0, 0)], [99.0])
                cache.flush()
                newest = pathlib.Path(cache._file.name)
                content, size = newest.read_bytes(), before.get(newest, 0)
                # Not the whole of it: its last byte is always missing.
                newest.write_bytes(content[: min(size + argument, len(content) - 1)])
                argument = 0
            cache = open_cache(directory, process=argument)
            held = dict(flushed)
        assert known(cache) == held


def test_the_newest_score_of_a_pair_counts(tmp_path):
    cache = open_cache(tmp_path)
    add(cache, [(0, 0), (0, 1), (1, 0), (0, 0)], [1, 2, 3, 4])
    assert known(cache) == {(0, 0): 4.0, (0, 1): 2.0, (1, 0): 3.0}
    add(cache, [(0, 1)], [5])  # in a run of its own
    want = {(0, 0): 4.0, (0, 1): 5.0, (1, 0): 3.0}
    assert known(cache) == want
    cache.flush()
    assert known(open_cache(tmp_path)) == want


def test_many_pairs_are_kept_in_few_sorted_runs(tmp_path):
    cache = open_cache(tmp_path)
    rng = np.random.default_rng(0)
    questions = rng.permutation(3000)
    rows = rng.integers(0, 10**6, (3000, 8)).astype(np.int32)
    scores = rng.normal(size=rows.shape).astype(np.float32)
    for start in range(0, 3000, 10):
        part = slice(start, start + 10)
        cache.add(questions[part], rows[part], scores[part])
        assert len(cache._runs) <= 16  # log2 of 24,000 pairs
    cache.flush()
    pairs = {
        (question, row): score
        for question, line, values in zip(questions, rows, scores, strict=True)
        for row, score in zip(line, values, strict=True)
    }
    for some in (cache, open_cache(tmp_path)):
        assert len(some) == len(pairs)
        got = some.lookup(questions, rows)
        want = [
            [pairs[question, row] for row in line]
            for question, line in zip(questions, rows, strict=True)
        ]
        np.testing.assert_array_equal(got, np.array(want, np.float32))


def test_every_opening_and_every_process_has_a_file_of_its_own(tmp_path):
    first, second = open_cache(tmp_path, 0), open_cache(tmp_path, 1)
    for number, cache in enumerate((first, second, first)):
        add(cache, [(number, 0)], [number])
        cache.flush()
        # A reader that comes in between, of a run of its own.
        assert known(open_cache(tmp_path)) == {(i, 0): i for i in range(number + 1)}
    later = open_cache(tmp_path, 0)
    add(later, [(3, 0)], [3])
    later.flush()
    assert [path.name for path in files(tmp_path)] == [
        "scores_00000_00000.bin",
        "scores_00000_00001.bin",
        "scores_00001_00000.bin",
    ]
    assert known(open_cache(tmp_path)) == {(i, 0): i for i in range(4)}


@pytest.mark.parametrize("name", ["teacher", "evidence", "questions"])
def test_scores_of_another_key_are_refused(tmp_path, name):
    cache = open_cache(tmp_path)
    add(cache, [(0, 0)], [1])
    cache.flush()
    with pytest.raises(ConfigError, match=f"scores of another {name}: "):
        open_cache(tmp_path, **{name: "x"})
    with pytest.raises(ConfigError, match="scores of another prompt: "):
        open_cache(tmp_path, prompt="p")


def two_blocks(directory):
    """The file of a cache flushed twice, and where its second block starts."""
    cache = open_cache(directory)
    add(cache, [(0, 0), (1, 1)], [1, 2])
    cache.flush()
    (path,) = files(directory)
    start = path.stat().st_size
    add(cache, [(2, 2)], [3])
    cache.flush()
    return path, start


def test_a_torn_end_is_left_out_at_every_length(tmp_path, caplog):
    path, start = two_blocks(tmp_path)
    content = path.read_bytes()
    first, second = {(0, 0): 1.0, (1, 1): 2.0}, {(2, 2): 3.0}
    assert known(open_cache(tmp_path)) == first | second
    assert caplog.text == ""
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert known(open_cache(tmp_path)) == (first if size >= start else {})
    # After a power cut the file may be as long as it was to be.
    path.write_bytes(content[: start + 5] + bytes(len(content) - start - 5))
    caplog.clear()
    assert known(open_cache(tmp_path)) == first
    assert "the last 28 bytes are no whole block" in caplog.text


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    path, start = two_blocks(tmp_path)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        if place < start:
            with pytest.raises(CorruptError, match=f"{path.name} is damaged"):
                open_cache(tmp_path)
        else:  # The last block: as if a kill had torn it.
            assert known(open_cache(tmp_path)) == {(0, 0): 1.0, (1, 1): 2.0}


def test_a_file_of_a_later_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("art_jax.teacher.score_cache._VERSION", 2)
    two_blocks(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CorruptError, match="of version 2; this art_jax reads"):
        open_cache(tmp_path)


def test_a_full_disk_spoils_no_file(tmp_path, monkeypatch):
    cache = open_cache(tmp_path)
    add(cache, [(0, 0)], [1])
    cache.flush()

    def fail(descriptor):
        raise OSError("No space left on device")

    add(cache, [(1, 0)], [2])
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        cache.flush()
    monkeypatch.undo()
    with (tmp_path / "scores_00000_00000.bin").open("ab") as file:
        file.truncate(file.tell() - 3)
    add(cache, [(2, 0)], [3])
    cache.flush()
    assert known(open_cache(tmp_path)) == {(0, 0): 1.0, (1, 0): 2.0, (2, 0): 3.0}


@pytest.mark.parametrize(
    ("questions", "rows", "message"),
    [
        ([-1], [[0]], "questions are from -1"),
        ([2**31], [[0]], "questions are from 2147483648"),
        ([0], [[-2]], "rows are from -2"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(tmp_path, questions, rows, message):
    cache = open_cache(tmp_path)
    questions, rows = np.array(questions, np.int64), np.array(rows, np.int64)
    with pytest.raises(ValueError, match=message):
        cache.lookup(questions, rows)
    with pytest.raises(ValueError, match=message):
        cache.add(questions, rows, np.zeros(rows.shape, np.float32))


def test_rows_and_scores_of_different_shapes_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"rows are \(1, 2\), scores \(1, 1\)"):
        open_cache(tmp_path).add([0], np.zeros((1, 2), int), np.zeros((1, 1)))
