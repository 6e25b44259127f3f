"""Files of `torch.save`, read without torch, and nothing in them run.

Two forms. Since torch 1.6 a zip archive whose members lie in it uncompressed:

    <name>/data.pkl     a pickle; a tensor in it names its storage
    <name>/data/<key>   the bytes of a storage
    <name>/byteorder    "little" or "big"; older files have none, and are little

Before that a row of pickles (a magic number, the protocol, the machine's sizes, the
object, the keys of its storages), then for each key a count of values (int64) and the
values. Format facts: torch/serialization.py of torch 1.5 and 2.13.
"""

import dataclasses
import io
import math
import mmap
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from art_jax.checkpoints.pickles import Builder, Record, read_pickle
from art_jax.checkpoints.tensors import FileTensor, Index
from art_jax.errors import ConfigError, CorruptError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"
_MAX_AXES = 32
_MAX_DEPTH = 20
_MAX_TENSORS = 100_000

_STORAGE_DTYPES = {
    "torch.FloatStorage": np.dtype("float32"),
    "torch.DoubleStorage": np.dtype("float64"),
    "torch.HalfStorage": np.dtype("float16"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("int64"),
    "torch.IntStorage": np.dtype("int32"),
    "torch.ShortStorage": np.dtype("int16"),
    "torch.CharStorage": np.dtype("int8"),
    "torch.ByteStorage": np.dtype("uint8"),
    "torch.BoolStorage": np.dtype("bool"),
}
# What checkpoints hold besides tensors: settings, enums, loss scalers, the state of
# NumPy's random numbers. All become records, whatever their packages' code would do.
_RECORD_PACKAGES = ("megatron.", "omegaconf.")
_RECORDS = {
    "argparse.Namespace",
    "torch.device",
    *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64")),
    *(f"torch.{name}" for name in ("uint8", "int8", "int16", "int32", "int64", "bool")),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "typing.Any",
    *(
        f"{builtins}.{name}"
        for builtins in ("builtins", "__builtin__")
        for name in ("dict", "list", "tuple", "str", "int", "long", "float", "bool")
    ),
}


def open_torch(path: str | pathlib.Path) -> Any:
    """What `torch.save` wrote, its tensors unread.

    Args:
        path: a file of `torch.save`, in either form.

    Returns:
        Lists, tuples, dicts and plain values, a `FileTensor` for each tensor, and a
        `Record` for each object of another class that a checkpoint may hold. A dict's
        keys are in the file's order.

    Raises:
        ConfigError: there is no such file, or a big-endian machine wrote it.
        CorruptError: the file is damaged, was written by something else, or asks
            for a class or function that no checkpoint needs.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} is no file: give one that torch.save wrote.")
    with path.open("rb") as file:
        start = file.read(len(_ZIP_START))
    if start == _ZIP_START:
        return _open_zip(path)
    return _open_legacy(path)


def named_tensors(tree: Any, source: object) -> dict[str, FileTensor]:
    """The tensors in nested dicts, by their keys joined by dots; the rest left out.

    Raises:
        CorruptError: two tensors have one name, or the dicts nest without end.
    """
    named: dict[str, FileTensor] = {}
    todo: list[tuple[str, int, Any]] = [("", 0, tree)]
    num_found = 0
    while todo:
        name, depth, node = todo.pop()
        if isinstance(node, dict):
            num_found += len(node)
            # A dict inside itself, or one that each of many dicts holds twice.
            if depth > _MAX_DEPTH or num_found > _MAX_TENSORS:
                raise CorruptError(
                    f"{source}: its dicts hold each other without end, or more than "
                    f"{_MAX_TENSORS} tensors: this is no checkpoint, do not use it."
                )
            prefix = f"{name}." if depth else ""
            todo += ((f"{prefix}{key}", depth + 1, node[key]) for key in node)
        elif isinstance(node, FileTensor):
            if name in named:
                raise CorruptError(
                    f"{source}: two tensors are named {name!r}: this is no checkpoint."
                )
            named[name] = node
    return named


@dataclasses.dataclass
class _Storage:
    """The values that tensors are views of.

    start: its first byte in the file; None while that is not known.
    crc32: of all its bytes; 0: the file has none.
    """

    path: pathlib.Path
    key: str
    dtype: np.dtype
    size: int
    start: int | None = None
    crc32: int = 0

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize

    def read(self, first: int, last: int) -> np.ndarray:
        """Its values from `first` up to `last`."""
        itemsize = self.dtype.itemsize
        data = _read_bytes(
            self.path, self.start + first * itemsize, (last - first) * itemsize
        )
        is_whole = data.size == self.num_bytes
        if is_whole and self.crc32 and zlib.crc32(data) != self.crc32:
            raise CorruptError(
                f"{self.path}: the bytes of storage {self.key!r} are not those that "
                "were written (CRC-32 differs): copy the file again from its source."
            )
        return data.view(self.dtype)


def _read_bytes(path: pathlib.Path, start: int, count: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8, count, offset=start)
    if data.size != count:
        raise CorruptError(f"{path}: the file has become shorter: copy it again.")
    return data


class _Storages:
    """The storages that a pickle names, each made once."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.by_key: dict[str, _Storage] = {}

    def find(self, persistent_id: Any) -> _Storage:
        """The storage of ("storage", class, key, device, size)."""
        # The old form has a sixth part: None, or the storage that this is a part of.
        match persistent_id:
            case ("storage", np.dtype() as dtype, str(key), str(), int(size)):
                pass
            case ("storage", np.dtype() as dtype, str(key), str(), int(size), None):
                pass
            case _:
                raise ValueError("a tensor's storage has an unknown form")
        if not 0 <= size < 2**63:
            raise ValueError(f"storage {key[:50]!r} has {size} values")
        storage = self.by_key.setdefault(key, _Storage(self.path, key, dtype, size))
        if (storage.dtype, storage.size) != (dtype, size):
            raise ValueError(f"storage {key[:50]!r} has two forms")
        return storage


def _find_global(name: str) -> Any:
    if name in _BUILDERS:
        return _BUILDERS[name]
    if name in _STORAGE_DTYPES:
        return _STORAGE_DTYPES[name]
    if name in _RECORDS or name.startswith(_RECORD_PACKAGES):
        return Record(name)
    return None


def _build_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> Any:
    """A view of a storage, checked to lie inside it."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    if not (_is_sizes(shape) and _is_sizes(strides) and _is_sizes((offset,))):
        raise ValueError("a tensor's offset, sizes or strides are no counts")
    if len(shape) > _MAX_AXES:
        raise ValueError(f"a tensor has {len(shape)} axes")
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # Strides of 0 would make any size out of one value.
    if size > storage.size or (size and last >= storage.size):
        raise ValueError(
            f"a tensor of {size} values reaches outside storage "
            f"{storage.key[:50]!r}, which has {storage.size}"
        )

    def read(index: Index) -> np.ndarray:
        ranges = [range(n)[part] for n, part in zip(shape, index, strict=True)]
        part = tuple(len(items) for items in ranges)
        if 0 in part:
            return np.empty(part, storage.dtype)
        steps = list(zip(strides, ranges, strict=True))
        first = offset + sum(step * items[0] for step, items in steps)
        last = offset + sum(step * items[-1] for step, items in steps)
        values = storage.read(first, last + 1)
        strides_bytes = [step * storage.dtype.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(values, part, strides_bytes)

    return FileTensor(shape, storage.dtype, read)


def _is_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _build_parameter(tensor: Any, *_) -> FileTensor:
    if not isinstance(tensor, FileTensor):
        raise ValueError("a parameter holds no tensor")
    return tensor


def _build_size(sizes: Any) -> tuple[int, ...]:
    if not _is_sizes(sizes):
        raise ValueError("a torch.Size holds no sizes")
    return sizes


_BUILDERS = {
    "torch._utils._rebuild_tensor": Builder(_build_tensor),
    "torch._utils._rebuild_tensor_v2": Builder(_build_tensor),
    "torch._utils._rebuild_parameter": Builder(_build_parameter),
    "torch.Size": Builder(_build_size),
    "collections.OrderedDict": Builder(lambda: {}),
    "collections.defaultdict": Builder(lambda default=None: {}),
}


def _open_zip(path: pathlib.Path) -> Any:
    members = _zip_members(path)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CorruptError(
            f"{path} is a zip archive with {len(pickles)} files data.pkl where one of "
            "torch.save has one: it was written by something else."
        )
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{root}byteorder")
    _require_little_endian(
        path, order is None or _read_member(path, order) == b"little"
    )
    storages = _Storages(path)

    def find_storage(persistent_id: Any) -> _Storage:
        storage = storages.find(persistent_id)
        if storage.start is None:
            member = members.get(f"{root}data/{storage.key}")
            if member is None or member.file_size != storage.num_bytes:
                raise ValueError(
                    f"the {storage.num_bytes} bytes of storage {storage.key[:50]!r} "
                    "are missing"
                )
            storage.start, storage.crc32 = _member_start(path, member), member.CRC
        return storage

    pickle = io.BytesIO(_read_member(path, members[pickles[0]]))
    return read_pickle(pickle, path, _find_global, find_storage)


def _zip_members(path: pathlib.Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CorruptError(
            f"{path} starts as a zip archive and does not end as one ({error}): it "
            "was cut short, copy it again from its source."
        ) from error
    by_name = {member.filename: member for member in members}
    if len(by_name) != len(members):
        raise CorruptError(f"{path}: two members of the archive have one name.")
    return by_name


def _member_start(path: pathlib.Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin; its own header says how long that is."""
    if (
        member.compress_type != zipfile.ZIP_STORED
        or member.file_size != member.compress_size
    ):
        raise CorruptError(
            f"{path}: {member.filename!r} is compressed, which torch.save never does: "
            "the archive was packed again; unpack it and save it with torch."
        )
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        # zipfile computes the offset, and from damaged numbers an impossible one.
        file.seek(member.header_offset if 0 <= member.header_offset < size else size)
        header = file.read(30)
    if len(header) == 30 and header.startswith(_ZIP_START):
        start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        if start + member.file_size <= size:
            return start
    raise CorruptError(
        f"{path}: {member.filename!r} is not where the archive says: the file is "
        "damaged, copy it again from its source."
    )


def _read_member(path: pathlib.Path, member: zipfile.ZipInfo) -> bytes:
    start = _member_start(path, member)
    content = _Storage(
        path, member.filename, np.dtype("uint8"), member.file_size, start, member.CRC
    )
    return content.read(0, member.file_size).tobytes()


def _open_legacy(path: pathlib.Path) -> Any:
    with path.open("rb") as file:
        # The magic number as a pickle of any protocol writes it.
        if _LEGACY_MAGIC not in file.read(32):
            raise CorruptError(
                f"{path} is no file of torch.save: it is damaged, or was written by "
                "something else."
            )
        # A map, because a read of it never sets aside more than the file has.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read_legacy(path, content)


def _read_legacy(path: pathlib.Path, content: mmap.mmap) -> Any:
    def refuse(name: str) -> None:
        return None

    _, protocol = [read_pickle(content, path, refuse) for _ in range(2)]
    if protocol != _LEGACY_PROTOCOL:
        raise CorruptError(
            f"{path} is of a protocol of torch.save that torch never used: it is "
            "damaged, or was written by something else."
        )
    sizes = read_pickle(content, path, refuse)
    is_little = isinstance(sizes, dict) and sizes.get("little_endian", True)
    _require_little_endian(path, is_little)
    storages = _Storages(path)
    tree = read_pickle(content, path, _find_global, storages.find)
    keys = read_pickle(content, path, refuse)
    _place_storages(storages, keys, content)
    return tree


def _place_storages(storages: _Storages, keys: Any, content: mmap.mmap) -> None:
    """Finds where each storage's values start: one after the other, counts between."""
    start = content.tell()
    for key in keys if isinstance(keys, list) else []:
        storage = storages.by_key.get(key) if isinstance(key, str) else None
        count = content[start : start + 8]
        if storage is None or count != struct.pack("<q", storage.size):
            break
        storage.start = start + 8
        start = storage.start + storage.num_bytes
    missing = [s.key for s in storages.by_key.values() if s.start is None]
    if missing or start > len(content):
        raise CorruptError(
            f"{storages.path}: the values of {len(missing) or 1} of "
            f"{len(storages.by_key)} storages are missing: the file was cut short or "
            "damaged, copy it again from its source."
        )


def _require_little_endian(path: pathlib.Path, is_little: bool) -> None:
    if not is_little:
        raise ConfigError(
            f"{path} was written by a big-endian machine, which is not read here: "
            "load it with torch on any little-endian machine and save it again."
        )
