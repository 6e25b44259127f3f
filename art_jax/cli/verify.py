"""`art-jax verify`: whether every file is still what was saved."""

import os
import pathlib
import re

from art_jax import manifest
from art_jax.data.evidence import load_evidence
from art_jax.data.tokenizers import load_tokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import ann as approximate

# The parts of a run that have a manifest; a part that lost it is damaged, not unknown.
_PARTS = re.compile(r"retriever|index|ann|evidence|checkpoint_[0-9]+")


def run(options) -> None:
    """Runs the verb `verify`."""
    path = pathlib.Path(options.path)
    parts = find_parts(path)
    errors = {}
    for part in parts:
        name = part.relative_to(path.parent)
        try:
            print(f"good     {name}  {check_part(part)}", flush=True)
        except CorruptError as error:
            print(f"DAMAGED  {name}", flush=True)
            errors[part] = str(error)
    for word, check, made, source in (
        ("SWAPPED", check_pair, path / "index", path / "evidence"),
        ("STALE  ", check_ann, path / "ann", path / "index"),
    ):
        if {made, source}.issubset(parts) and not {made, source} & errors.keys():
            try:
                check(made, source)
            except CorruptError as error:
                print(f"{word}  {path.name}/{made.name}", flush=True)
                errors[made] = str(error)
    if errors:
        raise CorruptError(
            f"{len(errors)} of {len(parts)} parts of {path} are not what was saved:\n  "
            + "\n  ".join(errors.values())
        )


def find_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders under a path that carry digests, or should.

    Raises:
        ConfigError: there are none.
    """
    if not path.is_dir():
        raise ConfigError(
            f"{path} is no folder: give a run, or one of the folders in it."
        )
    parts = []
    for name, folders, files in os.walk(path):
        # What begins with a dot is unfinished, or what a kill left behind.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = pathlib.Path(name)
        has_manifest = manifest.MANIFEST_NAME in files
        # Evaluations are filed by what was measured, which may be "ann".
        is_part = _PARTS.fullmatch(folder.name) and folder.parent.name != "evaluation"
        if has_manifest or _is_tokenizer(folder) or is_part:
            folders.clear()  # What lies in a part belongs to it.
            parts.append(folder)
    if not parts:
        raise ConfigError(
            f"{path} holds nothing with a manifest, so nothing says what its files "
            "should be: `art-jax import` makes a copy that has one."
        )
    return parts


def check_part(folder: pathlib.Path) -> str:
    """Returns what was verified of a part, in words, or raises CorruptError."""
    if _is_tokenizer(folder):
        return f"{load_tokenizer(folder).vocab_size:,} entries"
    files = manifest.verify_manifest(folder)["files"].values()
    return f"{len(files)} files, {sum(file['bytes'] for file in files):,} bytes"


def check_pair(index: pathlib.Path, evidence: pathlib.Path) -> None:
    """Raises where a table is of other passages: each folder may be whole alone."""
    wanted = manifest.read_manifest(index)["extra"].get("evidence_digest")
    if wanted != load_evidence(evidence).digest:
        raise CorruptError(
            f"{index} was made from other passages than {evidence} holds: one of them "
            "is another run's. Bring it back, or embed again with `art-jax embed`."
        )


def check_ann(ann: pathlib.Path, index: pathlib.Path) -> None:
    """Raises where ScaNN's index is of another table: `--ann` would refuse it."""
    approximate.check_source(ann, index, CorruptError)


def _is_tokenizer(folder: pathlib.Path) -> bool:
    # It keeps its digest in its own tokenizer.json.
    return folder.parent.name == "tokenizers"
