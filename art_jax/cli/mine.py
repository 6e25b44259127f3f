"""`art-jax mine`: training examples from what a search finds."""

import functools
import pathlib
import sys
from collections.abc import Iterable, Iterator

from art_jax import partitioning
from art_jax.checkpoints import formats
from art_jax.data import example_files
from art_jax.data.evidence import EvidenceStore, load_evidence
from art_jax.data.examples import TrainingExample
from art_jax.data.questions import read_questions
from art_jax.errors import ConfigError
from art_jax.index import bm25
from art_jax.index.retriever import Retriever, retriever_of
from art_jax.methods.mining import (
    MiningSettings,
    MiningStatistics,
    Search,
    TeacherFilter,
    mine_examples,
)
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.teacher.text_scores import build_score_texts, load_for_texts

QUERY_LIKELIHOOD = "query_likelihood"
_REPORT_EVERY = 10_000


def run(options) -> None:
    """Runs the verb `mine`."""
    settings = MiningSettings(
        num_hard_negatives=options.hard_negatives,
        num_random_negatives=options.random_negatives,
        num_positives=options.positives,
        margin=options.margin,
        match=options.match,
        keep_given=options.keep_given,
        seed=options.seed,
    )
    if options.k < 1:
        raise ConfigError(f"-k is {options.k}: ask for at least one passage.")
    if options.queries is not None:
        examples = (
            TrainingExample(question, ())
            for question in read_questions(options.queries)
        )
    else:
        if options.format not in example_files.formats_of(TrainingExample):
            raise ConfigError(
                f"--format is {options.format!r}: training examples are "
                f"{', '.join(example_files.formats_of(TrainingExample))}."
            )
        examples = example_files.read_examples(options.examples, options.format)
    evidence, search = open_search(
        pathlib.Path(options.run), options.bm25, options.k, options.query_task
    )
    statistics = MiningStatistics()
    teacher = make_filter(options, evidence)
    mined = mine_examples(examples, search, evidence, settings, statistics, teacher)
    example_files.write_examples(
        options.output, report_progress(mined, statistics), "dpr"
    )
    print(f"{options.output}: {statistics.describe()}")


def open_search(
    folder: pathlib.Path, is_bm25: bool, k: int, query_task: str | None = None
) -> tuple[EvidenceStore, Search]:
    """Returns passages and what finds k of them for each of some questions.

    Args:
        folder: a run; for BM25 an evidence store will do.
        is_bm25: search by words, and not by the run's retriever.
        k: passages a question, at most those there are.
        query_task: as which of the retriever's tasks the questions are read; None: of
            its only one, or as they are.

    Raises:
        ConfigError: it has no such task, or several and nothing says which; or BM25 is
            given one.
    """
    if is_bm25 and query_task is not None:
        raise ConfigError(
            "--query_task says how a retriever reads questions, but --bm25 searches "
            "by words: leave one of them out."
        )
    if is_bm25:
        stored = folder / "evidence"
        evidence = load_evidence(stored if stored.is_dir() else folder)
        index = bm25.open_bm25(evidence)
        return evidence, lambda texts: bm25.search_bm25(index, texts, k)
    retriever = retriever_of(Retriever.load(folder), query_task)
    k = min(k, retriever.evidence.num_passages)
    return retriever.evidence, functools.partial(retriever.search, k=k)


def make_filter(options, evidence: EvidenceStore) -> TeacherFilter | None:
    """Returns what keeps likely right passages out, as --teacher says; None: nothing.

    Raises:
        ConfigError: the teacher's files are not as they should be.
    """
    if options.teacher is None:
        return None
    if options.teacher == QUERY_LIKELIHOOD:
        teacher = QueryLikelihoodTeacher()
    else:
        found = formats.open_t5(options.teacher, dtype="bfloat16")
        teacher = T5Teacher(found.config, checkpoint_path=options.teacher)
    mesh = partitioning.make_mesh()
    tokenizer, params = load_for_texts(teacher, evidence.passages, mesh)
    score = build_score_texts(teacher, tokenizer, params, mesh)
    return TeacherFilter(score, options.teacher_margin)


def report_progress(
    examples: Iterable[TrainingExample], statistics: MiningStatistics
) -> Iterator[TrainingExample]:
    """Yields the examples, and says on stderr how many questions are done."""
    reported = 0
    for example in examples:
        if statistics.questions >= reported + _REPORT_EVERY:
            reported = statistics.questions
            sys.stderr.write(f"{reported:,} questions\n")
        yield example
