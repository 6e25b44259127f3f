"""`art-jax rerank`: the passages of a run in a better order."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.checkpoints import formats
from art_jax.cli import ranked_files, rerank_report, rerank_shards, rerank_trained
from art_jax.cli.progress import make_progress
from art_jax.cli.rerank_shards import Shard
from art_jax.cli.rerank_trained import JointReranker, PointwiseReranker
from art_jax.data.examples import RankedQuestion
from art_jax.errors import ConfigError
from art_jax.generation.tree import TreeRules
from art_jax.methods.mmr import Mmr
from art_jax.methods.monot5 import MonoT5
from art_jax.methods.upr import Upr
from art_jax.teacher.interface import Teacher
from art_jax.teacher.prompts import Prompt, WholePrompt
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher

QUERY_LIKELIHOOD = "query_likelihood"
_JOINT = ("indeppr", "jpr")
_DEPTH = 1000
_CHOSEN_BY_K = 5


class Reranker(Protocol):
    """What reranks; it may have a `note()` for people, once it has."""

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh
    ) -> Iterable[np.ndarray]:
        """Gives the scores of each question's candidates, one after the other."""
        ...


def run(options) -> None:
    """Runs the verb `rerank`."""
    check_options(options)
    rerankers = METHODS[options.method](options)
    read_as = options.read_as or ranked_files.find_format(options.run_file)
    write_as = options.write_as or read_as
    if options.keep_order and write_as == ranked_files.TREC:
        raise ConfigError(
            "--keep_order leaves scores out of order, which a TREC run cannot hold: "
            "write another format, such as --to dpr-results."
        )
    ranked = ranked_files.read_rankings(
        options.run_file,
        read_as,
        k=depth_of(options),
        queries=options.queries,
        qrels=options.qrels,
        passages=options.passages,
    )
    ranked, hits = rerank_report.find_hits(ranked, options.match)
    reranked = rerank_by_name(ranked, rerankers, options)
    if reranked is None:
        shard = Shard.parse(options.shard)
        print(f"{shard} is done; {options.output} follows with the last of them.")
        return

    def write(label: str) -> None:
        ranked_files.write_rankings(
            options.output,
            reranked[label],
            write_as,
            tag=f"art_jax_{options.method}",
        )

    if len(reranked) == 1:
        # Before it is measured, which may fail where hours of work did not.
        write(*reranked)
    best = report(ranked, hits, reranked, options)
    if len(reranked) > 1:
        write(best)
    for label, one in rerankers.items():
        if hasattr(one, "note") and one.note():
            print(f"{label}: {one.note()}")
    print(f"{len(ranked):,} questions reranked: {options.output}")


def rerank_by_name(
    ranked: Sequence[RankedQuestion], rerankers: Mapping[str, Reranker], options
) -> dict[str, list[RankedQuestion]] | None:
    """Returns what each reranker makes of rankings; None: other shards are to follow.

    Raises:
        ConfigError: there are several rerankers, and no answers to compare them by.
    """
    if len(rerankers) > 1 and not any(one.question.answers for one in ranked):
        raise ConfigError(
            "several --beta are compared by the answers of questions, and these have "
            "none: give --queries with answers, or one --beta."
        )
    mesh = partitioning.make_mesh(model_parallelism=options.model_parallelism)
    rerank = functools.partial(rerank_all, mesh=mesh, keep_order=options.keep_order)
    if options.shard is None:
        return {label: rerank(ranked, one) for label, one in rerankers.items()}
    ((label, one),) = rerankers.items()
    found = rerank_shards.rerank_shard(
        ranked,
        Shard.parse(options.shard),
        options.output,
        lambda part: rerank(part, one),
    )
    return None if found is None else {label: found}


def check_options(options) -> None:
    """Raises ConfigError where options do not fit each other, before any work."""
    for name, value in (("-k", options.k), ("--depth", options.depth)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: rerank at least one passage.")
    if not pathlib.Path(options.output).absolute().parent.is_dir():
        raise ConfigError(f"there is no folder to write {options.output} to: make it.")
    if options.method in _JOINT and options.model is None:
        raise ConfigError(
            f"--method {options.method} needs --model, the MODEL_DIR of an `art-jax "
            "train` of it (see docs/reranking.md)."
        )
    if options.beta and (options.method != "jpr" or options.decode == "seq"):
        raise ConfigError("--beta is of TreeDecode: say --method jpr --decode tree.")
    if options.cache_dir and (options.model is not None or options.method == "mmr"):
        raise ConfigError(
            "--cache_dir keeps the scores of a --teacher, and there is none here: "
            "leave it out; --shard splits the work of monot5."
        )
    is_of_the_run = options.method in (*_JOINT, "mmr") or (
        options.method == "upr" and options.teacher == QUERY_LIKELIHOOD
    )
    if options.shard is not None and is_of_the_run:
        raise ConfigError(
            "--shard is for methods that score each passage alone: upr with a T5, and "
            "monot5; what others do depends on the whole run."
        )


def depth_of(options) -> int:
    """Returns how many passages of each question are read, and stay in the output."""
    if options.method in _JOINT:
        return options.depth or rerank_trained.joint_sizes(options.model)[1]
    return options.depth or options.k or _DEPTH


def rerank_all(
    ranked: Sequence[RankedQuestion],
    reranker: Reranker,
    *,
    mesh: Mesh,
    keep_order: bool = False,
) -> list[RankedQuestion]:
    """Returns rankings with new scores, in their order; shows how far it is.

    Args:
        ranked: the rankings.
        reranker: scores them.
        mesh: on which.
        keep_order: leave the candidates where they are, with the new scores.
    """
    progress = make_progress(
        "reranked", len(ranked), lambda line: print(line, file=sys.stderr)
    )
    reranked = []
    for one, scores in zip(ranked, reranker.score(ranked, mesh), strict=True):
        order = best_first(scores)
        if keep_order:
            order = np.arange(len(order))
        reranked.append(in_order(one, scores, order))
        progress(len(reranked))
    return reranked


def report(
    ranked: Sequence[RankedQuestion],
    hits: np.ndarray | None,
    reranked: Mapping[str, Sequence[RankedQuestion]],
    options,
) -> str:
    """Prints how good the rankings are, and returns the name of the best.

    Where questions have several answers SeqIO's evaluator measures them; else the
    top-k accuracy is printed, where it is known what is right.

    Args:
        ranked: before.
        hits: which of the candidates are right; None: nobody knows.
        reranked: after, by name; of several the best by MRecall@k is chosen.
        options: of the verb.
    """
    labels = list(reranked)
    is_several = rerank_report.has_several_answers(ranked)
    if len(labels) > 1 or (is_several and rerank_report.can_evaluate()):
        k = _CHOSEN_BY_K
        if options.method in _JOINT:
            k = options.k or rerank_trained.joint_sizes(options.model)[0]
        rankings = {"before": ranked, **reranked}
        k = min(k, max(len(one.candidates) for one in ranked))
        results = rerank_report.measure_answers(rankings, k=k, match=options.match)
        print(rerank_report.measure_table(results))
        del results["before"]
        measure = f"mrecall_at_{k}"
        best = rerank_report.best_by(results, measure)
        if len(labels) > 1:
            print(f"best by {measure}: {best}")
        return best
    if hits is not None:
        after = rerank_report.hits_of(reranked[labels[0]], hits.shape[1])
        table = {"before": hits, labels[0]: after}
        print(rerank_report.accuracy_table(table))
    return labels[0]


def make_upr(options) -> dict[str, Reranker]:
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
    upr = Upr(
        teacher,
        whole_prompt=whole_prompt,
        aggregate=options.aggregate,
        add_question_mark=options.question_mark == "add",
        cache_dir=cache_dir_of(options),
        pairs_a_call=options.pairs_a_call,
    )
    return {"upr": upr}


def make_monot5(options) -> dict[str, Reranker]:
    """Returns monoT5 as the options say: of a T5's folder, or trained here."""
    if options.model is not None:
        return {
            "monot5": PointwiseReranker(
                options.model, options.batch_size, dtype=options.dtype
            )
        }
    model = make_teacher(options)
    if not isinstance(model, T5Teacher):
        raise ConfigError(
            "--method monot5 needs --teacher FOLDER, of a monoT5, or --model, the "
            "MODEL_DIR of one that was trained here."
        )
    monot5 = MonoT5(
        model,
        words=tuple(options.relevant_words),
        cache_dir=cache_dir_of(options),
        pairs_a_call=options.pairs_a_call,
    )
    return {"monot5": monot5}


def make_mmr(options) -> dict[str, Reranker]:
    """Returns MMR as the options say."""
    return {"mmr": Mmr(options.relevance_weight)}


def make_indeppr(options) -> dict[str, Reranker]:
    """Returns IndepPR of a model that was trained here."""
    given = {"batch_size": options.batch_size, "dtype": options.dtype}
    return {"indeppr": JointReranker(options.model, "indeppr", **given)}


def make_jpr(options) -> dict[str, Reranker]:
    """Returns JPR of a model that was trained here, one for each beta."""
    given = {"batch_size": options.batch_size, "dtype": options.dtype, "k": options.k}
    rules = {"jpr": None}
    if options.decode == "tree":
        betas = list(dict.fromkeys(options.beta or [TreeRules().beta]))
        rules = {f"beta {beta:g}": TreeRules(beta, options.combine) for beta in betas}
        if len(rules) == 1:
            rules = {"jpr": rules.popitem()[1]}
    return {
        label: JointReranker(options.model, "jpr", rules=one, **given)
        for label, one in rules.items()
    }


METHODS: dict[str, Callable[..., dict[str, Reranker]]] = {
    "upr": make_upr,
    "monot5": make_monot5,
    "mmr": make_mmr,
    "indeppr": make_indeppr,
    "jpr": make_jpr,
}


def cache_dir_of(options) -> pathlib.Path | None:
    """Returns where scores are kept; each shard has a folder of its own."""
    if not options.cache_dir:
        return None
    folder = pathlib.Path(options.cache_dir)
    return folder if options.shard is None else folder / Shard.parse(options.shard).name


def make_teacher(options) -> Teacher:
    """Returns the teacher that --teacher names: a T5's files, or query likelihood."""
    if options.teacher == QUERY_LIKELIHOOD:
        return QueryLikelihoodTeacher(
            mu=options.mu, max_passage_tokens=options.max_passage_tokens
        )
    dtype = options.dtype or "bfloat16"
    found = formats.open_t5(options.teacher, dtype=dtype)
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
        param_dtype=dtype,
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


def _given(value: str | None, default: str) -> str:
    return default if value is None else value
