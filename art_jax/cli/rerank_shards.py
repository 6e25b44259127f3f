"""One reranking in shards, each by a command of its own, on any machine.

A shard leaves `OUT.shard-2-of-16.json`, DPR's results of its questions. The command
that finds all of them there, its own the last, joins them.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence

from art_jax.data import example_files
from art_jax.data.examples import RankedQuestion
from art_jax.errors import ConfigError, DataError

_FORMAT = "dpr-results"
_TEXT = re.compile(r"([0-9]+)/([0-9]+)")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of the parts of a run's questions.

    number: of the part, from 1.
    count: of all parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Returns the shard that "2/16" names.

        Raises:
            ConfigError: it names none.
        """
        match = _TEXT.fullmatch(text)
        if match is not None:
            number, count = map(int, match.groups())
            if 1 <= number <= count:
                return cls(number, count)
        raise ConfigError(f"--shard is {text!r}: give 1/16 for the first of sixteen.")

    def __str__(self) -> str:
        """As people say it."""
        return f"shard {self.number} of {self.count}"

    @property
    def name(self) -> str:
        """As it stands in names of files."""
        return f"shard-{self.number}-of-{self.count}"

    def part(self, ranked: Sequence[RankedQuestion]) -> Sequence[RankedQuestion]:
        """Its questions, of those of the whole run."""
        total = len(ranked)
        start = total * (self.number - 1) // self.count
        return ranked[start : total * self.number // self.count]

    def path(self, output: str) -> pathlib.Path:
        """Where its rankings lie."""
        return pathlib.Path(f"{output}.{self.name}.json")


def rerank_shard(
    ranked: Sequence[RankedQuestion],
    shard: Shard,
    output: str,
    rerank: Callable[[Sequence[RankedQuestion]], Sequence[RankedQuestion]],
) -> list[RankedQuestion] | None:
    """Reranks a shard, and returns the whole run where it was the last.

    A shard whose file is there is not reranked again.

    Args:
        ranked: the whole run.
        shard: which part of it.
        output: of the whole run; files of shards lie beside it.
        rerank: from rankings to the same with new scores.

    Raises:
        DataError: the file of a shard is of other questions.
    """
    path = shard.path(output)
    if not path.exists():
        example_files.write_examples(path, rerank(shard.part(ranked)), _FORMAT)
    shards = [Shard(number, shard.count) for number in range(1, shard.count + 1)]
    if not all(one.path(output).exists() for one in shards):
        return None
    return [one for each in shards for one in _read(each, ranked, output)]


def _read(
    shard: Shard, ranked: Sequence[RankedQuestion], output: str
) -> list[RankedQuestion]:
    """The rankings of a shard's file, with all that the run knows of the questions."""
    path = shard.path(output)
    found = list(example_files.read_examples(path, _FORMAT))
    part = shard.part(ranked)
    ids = [
        [one.question.question_id for one in questions] for questions in (found, part)
    ]
    if ids[0] != ids[1]:
        raise DataError(
            "the questions are not those of the run: delete the file, and its shard is "
            "reranked again.",
            path,
        )
    return [
        dataclasses.replace(one, question=known.question, target=known.target)
        for one, known in zip(found, part, strict=True)
    ]
