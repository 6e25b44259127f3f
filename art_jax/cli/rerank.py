"""`art-jax rerank`: the passages of a run in a better order."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.checkpoints import formats
from art_jax.cli import ranked_files
from art_jax.cli.progress import make_progress
from art_jax.data.examples import RankedQuestion
from art_jax.errors import ConfigError
from art_jax.evaluation import answers, measures
from art_jax.methods.mmr import Mmr
from art_jax.methods.monot5 import MonoT5
from art_jax.methods.upr import Upr
from art_jax.teacher.interface import Teacher
from art_jax.teacher.passage_pool import make_pool
from art_jax.teacher.prompts import Prompt, WholePrompt
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher

DEPTHS = (1, 5, 10, 20, 50, 100, 1000)
QUERY_LIKELIHOOD = "query_likelihood"

# (rankings, devices) -> the scores of each question's candidates, one after the other
ScoreFn = Callable[[Sequence[RankedQuestion], Mesh], Iterable[np.ndarray]]


def run(options) -> None:
    """Runs the verb `rerank`."""
    if options.k < 1:
        raise ConfigError(f"-k is {options.k}: rerank at least one passage.")
    if not pathlib.Path(options.output).absolute().parent.is_dir():
        raise ConfigError(f"there is no folder to write {options.output} to: make it.")
    score = METHODS[options.method](options)
    read_as = options.read_as or ranked_files.find_format(options.run_file)
    ranked = ranked_files.read_rankings(
        options.run_file,
        read_as,
        k=options.k,
        queries=options.queries,
        qrels=options.qrels,
        passages=options.passages,
    )
    ranked, hits = find_hits(ranked, options.match)
    mesh = partitioning.make_mesh(model_parallelism=options.model_parallelism)
    report = make_progress(
        "reranked", len(ranked), lambda line: print(line, file=sys.stderr)
    )
    orders, reranked = [], []
    for one, scores in zip(ranked, score(ranked, mesh), strict=True):
        order = best_first(scores)
        orders.append(order)
        reranked.append(in_order(one, scores, order))
        report(len(reranked))
    ranked_files.write_rankings(
        options.output,
        reranked,
        options.write_as or read_as,
        tag=f"art_jax_{options.method}",
    )
    if hits is not None:
        after = np.zeros_like(hits)
        for place, order in enumerate(orders):
            after[place, : len(order)] = hits[place, order]
        print(accuracy_table({"before": hits, options.method: after}))
    print(f"{len(ranked):,} questions reranked: {options.output}")


def make_upr(options) -> ScoreFn:
    """Returns UPR as the options say."""
    teacher = make_teacher(options)
    is_text_model = isinstance(teacher, T5Teacher)
    whole_prompt = None
    if is_text_model and options.prompt == "upr":
        whole_prompt = WholePrompt()
        whole_prompt = dataclasses.replace(
            whole_prompt,
            head=_given(options.head, whole_prompt.head),
            instruction=_given(options.instruction, whole_prompt.instruction),
        )
    return Upr(
        teacher,
        whole_prompt=whole_prompt,
        aggregate=options.aggregate,
        add_question_mark=options.question_mark == "add",
        cache_dir=pathlib.Path(options.cache_dir) if options.cache_dir else None,
        pairs_a_call=options.pairs_a_call,
    ).score


def make_monot5(options) -> ScoreFn:
    """Returns monoT5 as the options say."""
    model = make_teacher(options)
    if not isinstance(model, T5Teacher):
        raise ConfigError("--method monot5 needs --teacher FOLDER, of a monoT5.")
    return MonoT5(
        model,
        words=tuple(options.relevant_words),
        cache_dir=pathlib.Path(options.cache_dir) if options.cache_dir else None,
        pairs_a_call=options.pairs_a_call,
    ).score


def make_mmr(options) -> ScoreFn:
    """Returns MMR as the options say."""
    return Mmr(options.relevance_weight).score


METHODS: dict[str, Callable[..., ScoreFn]] = {
    "upr": make_upr,
    "monot5": make_monot5,
    "mmr": make_mmr,
}


def make_teacher(options) -> Teacher:
    """Returns the teacher that --teacher names: a T5's files, or query likelihood."""
    if options.teacher == QUERY_LIKELIHOOD:
        return QueryLikelihoodTeacher(
            mu=options.mu, max_passage_tokens=options.max_passage_tokens
        )
    found = formats.open_t5(options.teacher, dtype=options.dtype)
    prompt = Prompt()
    prompt = dataclasses.replace(
        prompt,
        head=_given(options.head, prompt.head),
        instruction=_given(options.instruction, prompt.instruction),
        question_head=_given(options.question_head, prompt.question_head),
    )
    return T5Teacher(
        found.config,
        chunk_size=options.chunk_size,
        max_passage_tokens=options.max_passage_tokens,
        max_question_tokens=options.max_question_tokens,
        checkpoint_path=options.teacher,
        vocabulary=options.vocabulary,
        param_dtype=options.dtype,
        prompt=prompt,
    )


def best_first(scores: np.ndarray) -> np.ndarray:
    """Returns places in the order of scores [K]; of equal scores the first is first.

    Raises:
        ConfigError: a score is NaN: the weights overflow, or are no T5's.
    """
    if np.isnan(scores).any():
        raise ConfigError(
            "a score is not a number: the teacher's weights overflow in this dtype; "
            "try --dtype float32."
        )
    return np.argsort(-scores, kind="stable")


def in_order(
    one: RankedQuestion, scores: np.ndarray, order: np.ndarray
) -> RankedQuestion:
    """Returns a ranking in another order, with new scores.

    Args:
        one: with K candidates.
        scores: [K] float32, of the candidates as they stand.
        order: [K] int, places, the new best first.
    """
    candidates = tuple(
        dataclasses.replace(one.candidates[place], score=float(scores[place]))
        for place in order
    )
    return dataclasses.replace(one, candidates=candidates)


def find_hits(
    ranked: list[RankedQuestion], match: str
) -> tuple[list[RankedQuestion], np.ndarray | None]:
    """Returns rankings that say which candidates are right, and the same as an array.

    A question with `relevant_ids` is judged by them; otherwise what its candidates
    say of themselves counts, and where they say nothing, whether they hold one of its
    answers, which they say from then on.

    Args:
        ranked: n rankings.
        match: how answers are compared, see `evaluation.answers`.

    Returns:
        [n, K] bool, False behind a shorter ranking; None where of some question
        nobody knows what is right.
    """
    unmarked = [place for place, one in enumerate(ranked) if _is_to_be_matched(one)]
    pool = make_pool([ranked[place] for place in unmarked])
    found = answers.answer_hits(
        pool.rows,
        lambda row: pool.passages[row].text,
        [ranked[place].question.answers for place in unmarked],
        match,
    )
    ranked = list(ranked)
    for place, row in zip(unmarked, found.tolist(), strict=True):
        one = ranked[place]
        candidates = tuple(
            dataclasses.replace(candidate, has_answer=is_hit)
            for candidate, is_hit in zip(one.candidates, row, strict=False)
        )
        ranked[place] = dataclasses.replace(one, candidates=candidates)
    depth = max((len(one.candidates) for one in ranked), default=0)
    hits = np.zeros((len(ranked), depth), bool)
    for place, one in enumerate(ranked):
        row = _hits_of(one)
        if row is None:
            return ranked, None
        hits[place, : len(row)] = row
    return ranked, hits if depth else None


def accuracy_table(hits: Mapping[str, np.ndarray]) -> str:
    """Returns top-k accuracies as a table of text, a row for each name.

    Args:
        hits: [n, K] bool, best candidate first, by name.
    """
    width = max(map(len, hits)) + 2
    depths = [k for k in DEPTHS if k <= max(len(row[0]) for row in hits.values())]
    lines = [" " * width + "".join(f"top-{k}".rjust(10) for k in depths)]
    for name, array in hits.items():
        shares = measures.top_k_accuracy(array, depths)
        lines.append(name.ljust(width) + "".join(f"{shares[k]:10.3f}" for k in depths))
    return "\n".join(lines)


def _given(value: str | None, default: str) -> str:
    return default if value is None else value


def _is_to_be_matched(one: RankedQuestion) -> bool:
    return (
        bool(one.question.answers)
        and not one.question.relevant_ids
        and any(candidate.has_answer is None for candidate in one.candidates)
    )


def _hits_of(one: RankedQuestion) -> list[bool] | None:
    """Which candidates of a question are right; None where nobody knows."""
    if one.question.relevant_ids:
        relevant = frozenset(one.question.relevant_ids)
        return [
            candidate.passage.passage_id in relevant for candidate in one.candidates
        ]
    hits = [candidate.has_answer for candidate in one.candidates]
    return None if None in hits else hits
