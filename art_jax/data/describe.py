"""Tables of what is known here, in Markdown: formats of files, and tasks."""

import os
import string
from collections.abc import Iterable, Mapping, Sequence

from art_jax.data import benchmarks
from art_jax.data.convert import KINDS, Format

Benchmark = benchmarks.QuestionSet | benchmarks.JudgedSet | benchmarks.ExampleSet


def formats_table(formats: Mapping[str, Format]) -> str:
    """The formats by kind: names, what they are, how names of files to write end."""
    lines = [
        "| holds | format | what it is | name of a file to write |",
        "|---|---|---|---|",
    ]
    for kind, rows in KINDS.items():
        for name, one in formats.items():
            if one.kind is kind:
                ends = ", ".join(f"`{suffix}`" for suffix in one.suffixes) or "a folder"
                ends = ends if one.write else "(only read)"
                lines.append(f"| {rows} | `{name}` | {one.summary} | {ends} |")
    return "\n".join(lines)


def tasks_table() -> str:
    """A Markdown table of all sets: names, files, who publishes them, licences."""
    lines = ["| task | files | published at | licence |", "|---|---|---|---|"]
    for one in (
        *benchmarks.OPEN_QA,
        *benchmarks.MULTI_ANSWER,
        *benchmarks.GENERATION,
        *benchmarks.KILT,
        benchmarks.MS_MARCO,
    ):
        lines.append(_described([one]))
    lines.append(
        _described(benchmarks.ENTITY_QUESTIONS, varies=benchmarks.ENTITY_RELATIONS[0])
    )
    lines.append(_described(benchmarks.BEIR, varies="msmarco"))
    for one in (*benchmarks.BIENCODER, *benchmarks.MULTIKILT):
        lines.append(_described([one]))
    return "\n".join(lines)


def _described(sets: Sequence[Benchmark], varies: str = "*") -> str:
    """A row of the table; `*` stands in names of files for what varies with the set."""
    first = sets[0]
    names = dict.fromkeys(name.replace(varies, "*") for name in _names_of(first))
    cells = (
        f"`{_folded([one.name for one in sets])}`",
        ", ".join(f"`{name}`" for name in names),
        first.url,
        first.licence,
    )
    return f"| {' | '.join(cells)} |"


def _names_of(benchmark: Benchmark) -> list[str]:
    """The files of a set with their folder, those of several splits in one name."""
    if isinstance(benchmark, benchmarks.JudgedSet):
        by_split = [benchmark.questions, benchmark.judgments]
    elif isinstance(benchmark, benchmarks.ExampleSet):
        by_split = [benchmark.files]
    else:
        depth = max(map(len, benchmark.files.values()))
        by_split = [
            {
                split: names[place]
                for split, names in benchmark.files.items()
                if place < len(names)
            }
            for place in range(depth)
        ]
    folder = benchmark.folder or benchmark.name
    return [f"{folder}/{_folded(dict.fromkeys(files.values()))}" for files in by_split]


def _folded(names: Iterable[str]) -> str:
    """Several names in one, what differs in braces: `a-{train,dev}.csv`."""
    names = list(names)
    if len(names) == 1:
        return names[0]
    # Whole words alone: not t{rain,est}.
    start = os.path.commonprefix(names).rstrip(string.ascii_letters)
    ends = [name[len(start) :][::-1] for name in names]
    end = os.path.commonprefix(ends)[::-1].lstrip(string.ascii_letters)
    middles = [name[len(start) : len(name) - len(end)] for name in names]
    return f"{start}{{{','.join(middles)}}}{end}"
