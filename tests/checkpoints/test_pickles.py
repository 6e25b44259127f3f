import contextlib
import copyreg
import io
import pickle
import types

import hypothesis
import pytest
from hypothesis import strategies

from art_jax.checkpoints.pickles import Builder, Record, read_pickle
from art_jax.errors import CorruptError

SIMPLE = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(),
    strategies.floats(allow_nan=False),
    strategies.text(),
)
VALUES = strategies.recursive(
    SIMPLE,
    lambda inner: strategies.one_of(
        strategies.lists(inner),
        strategies.lists(inner).map(tuple),
        strategies.dictionaries(strategies.text(), inner),
    ),
    max_leaves=20,
)


def read(code, find_global=lambda name: None, find_persistent=None):
    return read_pickle(io.BytesIO(code), "model.pt", find_global, find_persistent)


@hypothesis.given(VALUES, strategies.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_pickle_wrote(value, protocol):
    got = read(pickle.dumps(value, protocol))
    assert got == value
    # 1 == True == 1.0, so types are compared too.
    assert repr(got) == repr(value)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_bytes_are_read(protocol):
    assert read(pickle.dumps([b"", b"abc", bytes(300)], protocol)) == [
        b"",
        b"abc",
        bytes(300),
    ]


def test_strings_of_python_2_are_text():
    assert read(b"(S'a'\nU\x01bT\x01\x00\x00\x00ct.") == ("a", "b", "c")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_shared_stays_shared_and_may_hold_itself(protocol):
    inner = {"a": 1}
    outer = [inner, inner]
    outer.append(outer)
    got = read(pickle.dumps(outer, protocol))
    assert got[0] is got[1]
    assert got[2] is got


def test_a_mark_is_taken_back_like_a_value():
    assert read(b"K\x01(0.") == 1
    assert read(b"K\x01(K\x02K\x031.") == 1


def test_the_file_is_left_after_the_pickle():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    got = [read_pickle(file, "model.pt", lambda name: None) for _ in range(2)]
    assert got == [1, [2]]
    assert file.read() == b"rest"


def test_an_object_becomes_a_record_and_its_class_is_not_touched():
    # A class that pickle would make, and fill through __setstate__.
    value = types.SimpleNamespace(a=1, b=[2])
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        got = read(pickle.dumps(value, protocol), Record)
        assert isinstance(got, Record)
        assert got.name == "types.SimpleNamespace"
        assert got.arguments == ()
        assert got.state == {"a": 1, "b": [2]}


def test_a_call_becomes_a_record_of_its_arguments():
    got = read(b"cposix\nsystem\n(X\x02\x00\x00\x00lstR.", Record)
    assert (got.name, got.arguments, got.state) == ("posix.system", ("ls",), None)


def test_two_calls_of_one_function_are_two_records():
    one, two = read(b"(cm\nf\nq\x00K\x01\x85Rh\x00K\x02\x85Rt.", Record)
    assert (one.arguments, two.arguments) == ((1,), (2,))


def test_a_builder_is_called_with_what_the_pickle_gives():
    built = Builder(lambda low, high: list(range(low, high)))
    assert read(b"cm\nf\n(K\x01K\x04tR.", {"m.f": built}.get) == [1, 2, 3]


@pytest.mark.parametrize("code", [b"cm\nf\n(K\x01tR.", b"cm\nf\n(NNtR."])
def test_arguments_that_a_builder_cannot_take_are_an_error(code):
    built = Builder(lambda low, high: list(range(low, high)))
    with pytest.raises(CorruptError, match=r"model\.pt.*damaged"):
        read(code, {"m.f": built}.get)


def test_attributes_of_a_dict_are_left_out():
    # As state_dict() has a _metadata beside its items.
    assert read(b"}X\x01\x00\x00\x00aK\x01s}b.") == {"a": 1}


def test_a_persistent_id_is_what_the_caller_says():
    assert read(b"K\x07Q.", find_persistent=lambda value: value + 1) == 8
    with pytest.raises(CorruptError, match="data outside the pickle"):
        read(b"K\x07Q.")


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def extension():
    copyreg.add_extension("posix", "system", 0xF0)
    yield
    copyreg.remove_extension("posix", "system", 0xF0)


@pytest.mark.usefixtures("extension")
def test_no_way_of_running_code_runs_it(torch_writer, canary):
    for name, instructions in torch_writer.attacks(f"touch {canary}").items():
        code = b"\x80\x04" + instructions + b"."
        # The attack is real: Python's own pickle falls for it.
        pickle.loads(code)
        assert canary.exists(), name
        canary.unlink()
        with pytest.raises(CorruptError, match=r"model\.pt: .*It was not run"):
            read(code)
        # Nor where the caller lets every name through.
        with contextlib.suppress(CorruptError):
            read(code, Record)
        assert not canary.exists(), name


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (b"cposix\nsystem\n.", "'posix.system'"),
        (b"\x8c\x05posix\x8c\x06system\x93.", "'posix.system'"),
        # What find_global allows must not be reached around.
        (b"\x8c\x08argparse\x8c\x0a_os.system\x93.", "'argparse._os.system'"),
        (b"\x8c\x00\x8c\x06system\x93.", "'.system'"),
        (b"\x8c\x03a b\x8c\x01c\x93.", "'a.b c'"),
        (b"(iposix\nsystem\n.", "instruction INST"),
        (b"(cm\nC\no.", "'m.C'"),
        (b"\x82\xf0.", "instruction EXT1"),
        (b"\x83\xf0\x00.", "instruction EXT2"),
        (b"\x84\xf0\x00\x00\x00.", "instruction EXT4"),
        (b"Pkey\n.", "instruction PERSID"),
        (b"\x8f.", "instruction EMPTY_SET"),
        (b"(\x91.", "instruction FROZENSET"),
        (b"\x97.", "instruction NEXT_BUFFER"),
    ],
)
def test_what_no_file_of_weights_needs_is_refused_by_name(code, named):
    with pytest.raises(CorruptError, match=named.replace(".", r"\.")):
        read(b"\x80\x04" + code, lambda name: None)


def test_a_dotted_name_is_never_asked_for():
    asked = []
    with pytest.raises(CorruptError):
        read(b"\x8c\x08argparse\x8c\x0a_os.system\x93.", asked.append)
    assert asked == []


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80\x02",
        b".",
        b"K\x01",
        b"\xff.",
        b"t.",
        b"0.",
        b"2.",
        b"K\x01\x86.",
        b"h\x00.",
        b"j\xff\xff\xff\xff.",
        b"K\x01K\x01a.",
        b"K\x01(K\x01e.",
        b"}(K\x01u.",
        b"K\x01NK\x01s.",
        b"]K\x05aK\x00K\x06s.",
        b"}K\x01K\x02\x85NsR.",
        b"K\x01)R.",
        b"cm\nf\nK\x01R.",
        b"](b.",
        b"K\x01}b.",
        b"I12a\n.",
        b"L1" + b"0" * 5000 + b"L\n.",
        b"X\xff\xff\xff\x7fabc.",
        # Eight exabytes.
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x6fabc.",
        b"\x8b\xff\xff\xff\x7fabc.",
    ],
    ids=repr,
)
def test_a_damaged_pickle_is_an_error(code):
    with pytest.raises(CorruptError, match=r"model\.pt"):
        read(code, Record)


def test_a_pickle_cut_anywhere_is_an_error():
    code = pickle.dumps({"a": [1, 2.5, "x", (None, True)], "b": 10**30}, 2)
    for length in range(len(code)):
        with pytest.raises(CorruptError):
            read(code[:length])


@hypothesis.given(strategies.binary(max_size=60))
@hypothesis.example(b"(((((((.")
def test_no_bytes_at_all_do_more_than_fail(code):
    with contextlib.suppress(CorruptError):
        read(code, Record, lambda value: value)


def test_lists_nest_as_deep_as_they_like():
    depth = 200_000
    nested = b"]" * depth + b"a" * (depth - 1)
    got = read(nested + b".")
    for _ in range(depth - 1):
        (got,) = got
    assert got == []
    # Nothing that could be said of it goes down into it.
    with pytest.raises(CorruptError, match="the name of a class is no text"):
        read(nested + b"\x8c\x01a\x93.")
    with pytest.raises(CorruptError, match="a key of a dict is a list"):
        read(b"}" + nested + b"Ns.")


@pytest.mark.parametrize("key", [b"K\x01\x85", b"]", b"}", b"cm\nC\n"])
def test_keys_are_plain_values(key):
    # To hash a million tuples in each other would end the process.
    with pytest.raises(CorruptError, match="a key of a dict is a"):
        read(b"}" + key + b"K\x01s.", Record)


def test_a_place_in_the_memo_takes_no_memory_for_those_before_it():
    assert read(b"K\x05r\xfe\xff\xff\xff0j\xfe\xff\xff\xff.") == 5
