"""Finished parts of a refresh on disk, so that a killed one goes on where it was.

A part is some consecutive calls of the refresh. Each process keeps what its own shards
made of them, `KEY/PART-SHARD/values.bin` beside a manifest, where the key is a digest
of all that the numbers depend on. Parts of another key are removed; a damaged one is
as good as none.
"""

import contextlib
import hashlib
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from art_jax import atomic, manifest, partitioning
from art_jax.errors import CorruptError
from art_jax.index.embed import Call
from art_jax.types import Params

_VALUES = "values.bin"
_KEY = re.compile(r"[0-9a-f]{64}")
# A kill costs at most one part in so many, and less where rows are many.
_NUM_PARTS = 64
_MAX_PART_ROWS = 65_536


def params_digest(params: Params) -> str:
    """Returns the SHA-256 of a tree's names, shapes, dtypes and numbers. Collective."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {leaf.shape} {leaf.dtype}\n".encode())
        values = np.ascontiguousarray(partitioning.to_host(leaf))
        digest.update(values.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def split_calls(calls: Sequence[Call]) -> list[Sequence[Call]]:
    """Returns the calls in parts of about equal work, equal on every process."""
    sizes = [call.local_rows.shape[1] for call in calls]
    all_tokens = sum(
        size * call.bucket.length for size, call in zip(sizes, calls, strict=True)
    )
    parts, part, num_rows, num_tokens = [], [], 0, 0
    for size, call in zip(sizes, calls, strict=True):
        part.append(call)
        num_rows += size
        num_tokens += size * call.bucket.length
        if num_rows >= _MAX_PART_ROWS or num_tokens * _NUM_PARTS >= all_tokens:
            parts.append(part)
            part, num_rows, num_tokens = [], 0, 0
    return [*parts, part] if part else parts


def open_folder(directory: pathlib.Path, key: str) -> pathlib.Path:
    """Returns the folder of a key's parts, without those of other keys. Collective.

    Args:
        directory: that holds parts and nothing else; need not exist.
        key: 64 hexadecimal digits.
    """
    folder = pathlib.Path(directory) / key
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.parent.iterdir():
            if other != folder and _KEY.fullmatch(other.name):
                shutil.rmtree(other)
    partitioning.barrier("parts_opened")
    return folder


def remove_folder(directory: pathlib.Path) -> None:
    """Removes the parts of every key, and their directory if it is empty. Collective.

    Args:
        directory: as given to `open_folder`.
    """
    partitioning.barrier("parts_done")
    directory = pathlib.Path(directory)
    if jax.process_index() == 0 and directory.exists():
        for path in directory.iterdir():
            if _KEY.fullmatch(path.name):
                shutil.rmtree(path)
        with contextlib.suppress(OSError):  # Something else is in it.
            directory.rmdir()
    partitioning.barrier("parts_removed")


def find_saved(folder: pathlib.Path, num_parts: int, mesh: Mesh) -> np.ndarray:
    """Returns [num_parts] bool, which parts are there in good order. Collective.

    A part counts if every process has those of all its shards, since all of them must
    make the same calls. What is damaged is removed.

    Args:
        folder: from `open_folder`.
        num_parts: of the refresh.
        mesh: whose shards this process holds some of.
    """
    is_saved = np.array(
        [
            all([_verify(_part_folder(folder, part, s)) for s in local_shards(mesh)])
            for part in range(num_parts)
        ]
    )
    if jax.process_count() > 1:
        is_saved = multihost_utils.process_allgather(is_saved).all(axis=0)
    return is_saved


@contextlib.contextmanager
def saving(
    folder: pathlib.Path,
) -> Iterator[Callable[[int, Sequence[jax.Array]], None]]:
    """Gives `save(part, values)`, which writes while the devices go on.

    `values` holds what each call of the part gave, [shards, C, D]. The part before is
    written when `save` returns, and the last one after the block, however it is left.

    Args:
        folder: from `open_folder`.
    """

    def write(part: int, values: Sequence[jax.Array]) -> None:
        shards = zip(*(array.addressable_shards for array in values), strict=True)
        for of_shard in shards:
            shard = of_shard[0].index[0].start or 0
            # Copied one call at a time, so that no program runs beside the refresh's.
            rows = np.concatenate([np.asarray(piece.data)[0] for piece in of_shard])
            with atomic.building_directory(_part_folder(folder, part, shard)) as new:
                rows.tofile(new / _VALUES)
                manifest.write_manifest(new, {"kind": "refresh_part"})

    with ThreadPoolExecutor(max_workers=1) as pool:
        before = []

        def save(part: int, values: Sequence[jax.Array]) -> None:
            while before:
                before.pop().result()
            before.append(pool.submit(write, part, values))

        yield save
        while before:
            before.pop().result()


def load_part(
    folder: pathlib.Path,
    part: int,
    calls: Sequence[Call],
    *,
    width: int,
    dtype: str,
    mesh: Mesh,
) -> Iterator[jax.Array]:
    """Yields what each call of a part gave, [shards, C, D], split over the devices.

    Args:
        folder: from `open_folder`.
        part: which one; `find_saved` says that it is there.
        calls: of the part.
        width: D.
        dtype: of the values.
        mesh: where to.
    """
    files = {
        shard: np.fromfile(
            _part_folder(folder, part, shard) / _VALUES, jnp.dtype(dtype)
        ).reshape(-1, width)
        for shard in local_shards(mesh)
    }
    start = 0
    for call in calls:
        num_shards, size = call.local_rows.shape
        rows = slice(start, start + size)
        yield partitioning.make_array(
            (num_shards, size, width),
            partitioning.row_sharding(mesh),
            lambda index, rows=rows: files[index[0].start or 0][rows][None],
        )
        start += size


def local_shards(mesh: Mesh) -> list[int]:
    """Returns the shards of rows that are on devices of this process."""
    sharding = partitioning.row_sharding(mesh)
    shape = (partitioning.num_row_shards(mesh),)
    indices = sharding.addressable_devices_indices_map(shape).values()
    return sorted(index[0].start or 0 for index in indices)


def _part_folder(folder: pathlib.Path, part: int, shard: int) -> pathlib.Path:
    return folder / f"{part:05d}-{shard:05d}"


def _verify(folder: pathlib.Path) -> bool:
    """Whether a part is there in good order; what is left of a bad one is removed."""
    try:
        manifest.verify_manifest(folder)
    except CorruptError:
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True
