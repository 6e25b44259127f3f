"""`art-jax ann`: an index for approximate search, and what it misses."""

import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from art_jax.data.evidence import EvidenceStore
from art_jax.errors import ConfigError
from art_jax.index import ann
from art_jax.index.retriever import QUERY_BATCH, Retriever, search_queries
from art_jax.types import SearchResults

# Below this the way to more is said.
GOOD_RECALL = 0.95


def run(options) -> None:
    """Runs the verb `ann`."""
    if options.k < 1 or options.num_queries < 1:
        raise ConfigError(
            f"-k is {options.k} and --num_queries {options.num_queries}: each must be "
            "at least 1."
        )
    settings = ann.AnnSettings(
        partitions=options.partitions,
        searched_partitions=options.searched_partitions,
        rescored=options.rescored,
        brute_force_below=options.brute_force_below,
    )
    ann.import_scann()  # Its absence is said before anything is read.
    folder = pathlib.Path(options.run)
    retriever = Retriever.load(folder)
    texts = read_texts(retriever.evidence, options.queries, options.num_queries)
    started = time.perf_counter()
    index = ann.build_ann_from_files(folder / "index", settings)
    seconds = time.perf_counter() - started
    k = min(options.k, index.num_rows)
    measured = measure(retriever, index, texts, k)
    measured["queries_from"] = options.queries or "passages"
    ann.save_ann(index, folder / "ann", measured=measured)
    print(f"{ann.in_words(index)}; built in {seconds:.1f} s: {folder / 'ann'}")
    for line in format_measured(measured):
        print(line)
    if measured["recall"] < GOOD_RECALL:
        print("Higher --searched_partitions or --rescored find more, in longer.")
    print(f'Search with it: art-jax search {folder} "a question" --ann')


def read_texts(
    evidence: EvidenceStore, queries: str | None, num_queries: int
) -> list[str]:
    """Returns questions of a file, or texts of passages where there is none.

    Either is a sample drawn with a fixed seed where there are more than asked for.
    """
    if queries is None:
        rows = _sample(evidence.num_passages, num_queries)
        return [evidence.passage(int(row)).text for row in rows]
    from art_jax.data.questions import read_questions

    texts = [question.text for question in read_questions(queries)]
    return [texts[place] for place in _sample(len(texts), num_queries)]


def measure(
    retriever: Retriever, index: ann.AnnIndex, texts: Sequence[str], k: int
) -> dict[str, float]:
    """Returns recall at k against the exact search, and queries a second of both.

    Both search embeddings that are there already, on this machine as it is now.
    """
    queries = retriever.encode_queries(texts)
    exact, exact_speed = _timed(
        lambda some: search_queries(retriever.table, some, k=k), queries
    )
    found, speed = _timed(lambda some: ann.search(index, some, k=k), queries)
    return {
        "k": k,
        "num_queries": len(texts),
        "recall": ann.recall(found.rows, exact.rows),
        "queries_per_second": speed,
        "exact_queries_per_second": exact_speed,
    }


def format_measured(measured: dict) -> list[str]:
    """Returns lines of a table that compares the two searches."""
    asked = "questions" if measured["queries_from"] != "passages" else "passages"
    return [
        f"{'':8}{'recall@' + str(measured['k']):>12}{'queries/s':>12}",
        f"{'exact':8}{1:12.3f}{measured['exact_queries_per_second']:12,.0f}",
        f"{'scann':8}{measured['recall']:12.3f}{measured['queries_per_second']:12,.0f}",
        f"measured with {measured['num_queries']:,} {asked}"
        + ("" if asked == "questions" else "' first words: give --queries FILE"),
    ]


def _sample(num: int, at_most: int) -> np.ndarray:
    if num <= at_most:
        return np.arange(num)
    return np.sort(np.random.default_rng(0).choice(num, at_most, replace=False))


def _timed(
    search: Callable[[np.ndarray], SearchResults], queries: np.ndarray
) -> tuple[SearchResults, float]:
    """Returns what was found, and queries a second once all is compiled."""
    search(queries[:QUERY_BATCH])
    started = time.perf_counter()
    found = search(queries)
    return found, len(queries) / (time.perf_counter() - started)
