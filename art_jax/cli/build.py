"""`art-jax build`: a passage file or an evidence store from any corpus."""

import functools
import json
import os
import sys
import time

from art_jax.data import corpora, evidence_parts, tokenizers
from art_jax.errors import ConfigError

_DEFAULT_TABLE = "retriever"


def run(options) -> None:
    """Runs the verb `build`."""
    started = time.monotonic()
    corpus = corpora.find_corpus(
        options.source,
        options.format,
        max_tokens=options.max_tokens,
        suffixes=corpora.folders.TEXT_SUFFIXES + tuple(options.suffix),
        allow_empty_text=options.allow_empty_text,
    )
    built = evidence_parts.build(
        corpus,
        options.target,
        load_tokenizers(options.tokenizer, is_cased=options.cased),
        run=make_runner(options),
        overwrite=options.overwrite,
        progress=None if options.json else Progress(),
    )
    seconds = time.monotonic() - started
    if options.json:
        report = {
            "target": str(built.target),
            "format": corpus.format,
            "passages": built.num_passages,
            "bytes": built.num_bytes,
            "digest": built.digest,
            "skipped": built.skipped,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(report))
        return
    print(
        f"{built.target}: {built.num_passages:,} passages of {corpus.path} "
        f"({corpus.format}), {built.num_bytes:,} bytes, {seconds:.1f} s"
    )
    if built.skipped:
        kinds = ", ".join(f"{n:,} {what}" for what, n in sorted(built.skipped.items()))
        print(f"files left out: {kinds}")


def make_runner(options) -> evidence_parts.Runner:
    """Returns what writes the parts, as the flags say."""
    if options.runner is None:
        if options.runner_option:
            raise ConfigError("--runner_option needs --runner.")
        num_processes = options.processes
        if num_processes is None:
            num_processes = _num_cores()
        if num_processes < 1:
            raise ConfigError(f"--processes is {num_processes}; it must be 1 or more.")
        return functools.partial(
            evidence_parts.run_processes, num_processes=num_processes
        )
    if options.processes is not None:
        raise ConfigError("--processes is of this machine; --runner has its own way.")
    # Only here, since Beam is an extra.
    from art_jax.data import evidence_beam

    flags = [f"--{option}" for option in options.runner_option]
    return evidence_beam.beam_runner(options.runner, flags)


def load_tokenizers(given: list[str], *, is_cased: bool = False) -> dict:
    """Returns tokenisers by table name, from "PATH" or "NAME=PATH".

    A PATH is BERT's vocab.txt, a SentencePiece .model, or a folder that a run keeps a
    tokeniser in. Without a name it is the retriever's.

    Raises:
        ConfigError: a name comes twice.
        DataError: a file is none of those.
    """
    made = {}
    for one in given:
        name, _, path = one.rpartition("=")
        name = name or _DEFAULT_TABLE
        if name in made:
            raise ConfigError(
                f"two tokenisers are called {name!r}: name them, as in "
                "--tokenizer retriever=vocab.txt --tokenizer teacher=spiece.model"
            )
        made[name] = tokenizers.find_tokenizer(path, lowercase=not is_cased)
    return made


def _num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Progress:
    """Prints passages, speed and time left to stderr, as parts get ready."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._first: tuple[float, int, float] | None = None
        self._shown = -1

    def __call__(self, num_passages: int, share: float) -> None:
        """Takes the passages that are ready and their share of the corpus' bytes."""
        now = self._clock()
        if self._first is None:
            # What an earlier build left is no speed of this one.
            self._first, self._shown = (now, num_passages, share), num_passages
            return
        started, first_passages, first_share = self._first
        if num_passages == self._shown:
            return
        self._shown = num_passages
        seconds = max(now - started, 1e-9)
        speed = (num_passages - first_passages) / seconds
        left = int((1 - share) / (share - first_share) * seconds)
        sys.stderr.write(
            f"{num_passages:,} passages  {share:.1%}  {speed:,.0f}/s  "
            f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}\n"
        )
