"""`art-jax plan`: what a run would take of devices that need not be there."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from art_jax.cli import gin_flags, train, train_t5
from art_jax.data.evidence import load_evidence
from art_jax.data.passages import read_passages
from art_jax.data.tokenizers import load_tokenizer
from art_jax.errors import ConfigError
from art_jax.hardware import DEVICE_KINDS, device_kind
from art_jax.index.search_options import SearchOptions
from art_jax.methods.art import Art
from art_jax.methods.costs import plan
from art_jax.methods.costs.sizes import (
    Cluster,
    Evidence,
    RunSizes,
    StageSizes,
    spread_lengths,
)
from art_jax.methods.dpr import Dpr
from art_jax.methods.ict import Ict
from art_jax.methods.workspace import RETRIEVER, TEACHER
from art_jax.models.dual_encoder import DualEncoder
from art_jax.training.stage import Stage

# psgs_w100.tsv, the Wikipedia of DPR and ART.
DEFAULT_PASSAGES = 21_015_324
# Of 4,966 pieces of 100 words of wiki-pool with their titles, by bert-base-uncased and
# T5's vocabulary: 131.8 and 148.8 tokens, standard deviations of 10 and 12 %.
DEFAULT_PASSAGE_TOKENS = 135.0
TEACHER_TOKENS_A_TOKEN = 148.8 / 131.8
LENGTH_SPREAD = 0.11
WORDS_A_TOKEN = 100 / 131.8
RETRIEVER_SPECIALS, TEACHER_SPECIALS = 3, 17
_GIB = 1 << 30
# What JAX takes of a GPU's memory by default.
_GPU_SHARE = 0.75


def run(options) -> None:
    """Runs the verb `plan`."""
    if not options.gin_file:
        raise ConfigError(
            "art-jax plan needs a run file, such as "
            "--gin_file=gin/runs/art_nq_t0_3b.gin (see gin/runs)."
        )
    if options.devices is not None and options.device is None:
        raise ConfigError(
            f"--devices {options.devices} of which kind? Give --device too, one of "
            f"{', '.join(kind.name for kind in DEVICE_KINDS)}."
        )
    for name in ("num_passages", "passage_tokens", "question_tokens", "num_questions"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: at least 1.")
    shares = {
        "matmul_share": options.mfu,
        "bandwidth_share": options.bandwidth,
        "memory_share": options.memory,
    }
    kinds = DEVICE_KINDS if options.device is None else [device_kind(options.device)]
    sizes, model_parallelism, notes = read_run(options)
    result = {"run": options.gin_file, "assumed": notes}
    if options.num_questions is not None:
        result["epochs"] = count_epochs(sizes, options.num_questions)
    if options.devices is not None:
        model = options.model_parallelism or model_parallelism
        cluster = Cluster(kinds[0], options.devices, model, **shares)
        plans = {kinds[0].name: plan.plan_run(sizes, cluster)}
    else:
        plans = {
            kind.name: plan.plan_smallest(
                sizes, kind, options.model_parallelism, shares
            )
            for kind in kinds
        }
    if options.json:
        print(json.dumps({**result, "plans": plans}))
        return
    print("\n".join([*show_head(result), "", *show_plans(plans)]))


def read_run(options) -> tuple[RunSizes, int, list[str]]:
    """Returns the sizes of what gin configures, its MODEL_PARALLELISM, assumptions.

    Macros that have no value yet are given none: nothing here opens them.

    Raises:
        ConfigError: the gin files are wrong, or configure no run of ART and ICT.
    """
    files, bindings = options.gin_file, options.gin_bindings
    missing = gin_flags.required_macros(files, bindings, options.gin_search_paths)
    given = [f"{name} = '<{name}>'" for name in missing]
    gin_flags.parse_gin(files, [*given, *bindings], options.gin_search_paths)
    known = (train.train, train_t5.train)
    if gin_flags.configured_one(known) is train_t5.train:
        raise ConfigError(
            f"{files[-1]} trains a T5, a reranker or a reader: art-jax plan knows the "
            "sizes of retrievers' runs alone."
        )
    arguments = gin_flags.bound_arguments(
        train.train,
        (
            "encoder",
            "stages",
            "task_feature_lengths",
            "vocabulary",
            "vocab_size",
            "initial_checkpoint_path",
            "model_parallelism",
            "stream_tokens",
            "table_dtype",
            "search_method",
            "embed_chunk_tokens",
        ),
    )
    encoder = arguments["encoder"]
    if not arguments["stages"]:
        raise ConfigError("the run has no stages: there is nothing to plan.")
    if arguments["vocabulary"] is None and arguments["initial_checkpoint_path"] is None:
        vocab_size = learnt_vocab_size() or arguments["vocab_size"]
        config = dataclasses.replace(encoder.config, vocab_size=vocab_size)
        encoder = dataclasses.replace(encoder, config=config)
    lengths = arguments["task_feature_lengths"]
    search = SearchOptions(arguments["search_method"])
    evidence, notes = find_evidence(options)
    sizes = RunSizes(
        encoder=encoder,
        stages=tuple(
            stage_sizes(
                stage,
                encoder,
                lengths,
                search,
                question_tokens=options.question_tokens,
                num_rows=evidence.num_rows,
            )
            for stage in arguments["stages"]
        ),
        evidence=evidence,
        passage_tokens=lengths["passage"],
        stream_tokens=arguments["stream_tokens"],
        table_dtype=arguments["table_dtype"],
        int8_rows=search.method.startswith("int8"),
        embed_chunk_tokens=arguments["embed_chunk_tokens"] or 16_384,
    )
    if missing:
        notes.append(
            f"without values, as nothing here needs them: {', '.join(missing)}"
        )
    return sizes, arguments["model_parallelism"], notes


def learnt_vocab_size() -> int | None:
    """Returns the pieces that a run learnt from its passages; None: it did not yet."""
    model_dir = gin_flags.bound_text(train.train, "model_dir")
    directory = pathlib.Path(model_dir or "") / "tokenizers" / RETRIEVER
    return load_tokenizer(directory).vocab_size if directory.is_dir() else None


def stage_sizes(
    stage: Stage,
    encoder: DualEncoder,
    lengths: dict[str, int],
    search: SearchOptions,
    *,
    question_tokens: int,
    num_rows: int,
) -> StageSizes:
    """Returns a stage's sizes.

    Args:
        stage: of the run.
        encoder: the retriever.
        lengths: {"query": Q, "passage": L} tokens.
        search: how the table is searched.
        question_tokens: as the teacher reads a question.
        num_rows: N.

    Raises:
        ConfigError: its method is none that is known here.
    """
    method = stage.method
    common = {
        "name": stage.name,
        "train_steps": stage.train_steps,
        "batch_size": stage.batch_size,
        "num_chunks": stage.num_chunks,
        "optimizer": stage.optimizer,
        "refresh_every_steps": stage.refresh_every_steps,
        "rolling_refresh": stage.rolling_refresh,
        "keep_checkpoints": stage.keep_checkpoints,
    }
    if isinstance(method, Art):
        return StageSizes(
            **common,
            query_tokens=lengths["query"],
            passage_tokens=lengths["passage"],
            num_passages=method.num_candidates(stage.batch_size),
            num_products=method.num_candidates(stage.batch_size),
            frozen=frozen_towers(method),
            dropout=method.dropout and has_dropout(encoder),
            teacher=method.teacher,
            question_tokens=question_tokens,
            search=search,
            write_back=method.write_back,
        )
    if isinstance(method, Ict):
        both_ways = 2 if method.symmetric else 1
        return StageSizes(
            **common,
            query_tokens=min(method.max_query_tokens, lengths["query"]),
            passage_tokens=method.max_passage_tokens or lengths["passage"],
            num_passages=1,
            num_products=both_ways * stage.batch_size,
            dropout=method.dropout and has_dropout(encoder),
            is_whole_batch=True,
        )
    if isinstance(method, Dpr):
        is_full = method.negatives == "all_passages"
        num_passages = 0 if is_full else method.num_passages
        return StageSizes(
            **common,
            query_tokens=lengths["query"],
            passage_tokens=lengths["passage"],
            num_passages=num_passages,
            num_products=num_rows if is_full else stage.batch_size * num_passages,
            frozen=frozen_towers(method),
            dropout=method.dropout and has_dropout(encoder),
            is_whole_batch=True,
            scores_table=is_full,
        )
    raise ConfigError(
        f"stage {stage.name!r} trains by {type(method).__name__}: art-jax plan knows "
        "the costs of Art, Dpr and Ict."
    )


def frozen_towers(method: Art | Dpr) -> tuple[str, ...]:
    """Which of "query" and "passage" a method leaves as they are."""
    is_trained = {
        "query": method.train_query_tower,
        "passage": method.train_passage_tower,
    }
    return tuple(name for name, trained in is_trained.items() if not trained)


def has_dropout(encoder: DualEncoder) -> bool:
    """Whether anything of an encoder is ever dropped."""
    config = encoder.config
    return config.dropout_rate > 0 or config.attention_dropout_rate > 0


def find_evidence(options) -> tuple[Evidence, list[str]]:
    """Returns the passages' number and lengths, and in words what was assumed.

    They are those of the run's evidence store where there is one, or of the file of
    passages, or as the flags say.
    """
    model_dir = gin_flags.bound_text(train.train, "model_dir")
    passages = gin_flags.bound_text(train.train, "passages")
    is_given = options.num_passages is not None or options.passage_tokens is not None
    if model_dir and not is_given and (pathlib.Path(model_dir) / "evidence").is_dir():
        return stored_evidence(pathlib.Path(model_dir) / "evidence")
    num_rows, tokens = options.num_passages, options.passage_tokens
    notes = []
    if passages and pathlib.Path(passages).is_file() and None in (num_rows, tokens):
        counted, words = count_passages(passages)
        num_rows = num_rows or counted
        tokens = tokens or words / WORDS_A_TOKEN + RETRIEVER_SPECIALS
        notes.append(f"{passages}: {counted:,} passages of {words:.0f} words")
    if num_rows is None:
        num_rows = DEFAULT_PASSAGES
        notes.append(f"{num_rows:,} passages, as in psgs_w100 (--num_passages)")
    if tokens is None:
        tokens = DEFAULT_PASSAGE_TOKENS
        notes.append(
            f"{tokens:.0f} tokens a passage, as of 100 words of Wikipedia and a title "
            "(--passage_tokens)"
        )
    ids = tokens - RETRIEVER_SPECIALS
    teacher_ids = ids * TEACHER_TOKENS_A_TOKEN
    evidence = Evidence(
        num_rows=num_rows,
        passage_lengths=spread_lengths(tokens, LENGTH_SPREAD),
        teacher_lengths=spread_lengths(teacher_ids + TEACHER_SPECIALS, LENGTH_SPREAD),
        passage_ids=ids,
        teacher_ids=teacher_ids,
    )
    return evidence, notes


def stored_evidence(directory: pathlib.Path) -> tuple[Evidence, list[str]]:
    """Returns the passages of an evidence store, lengths as they are."""
    store = load_evidence(directory)
    every = max(1, store.num_passages // 16_384)

    def lengths(name: str) -> np.ndarray:
        table = store.token_tables.get(name)
        return None if table is None else np.diff(table.offsets)

    retriever, teacher = lengths(RETRIEVER), lengths(TEACHER)
    if teacher is None:
        teacher = np.rint(retriever * TEACHER_TOKENS_A_TOKEN).astype(np.int64)
    evidence = Evidence(
        num_rows=store.num_passages,
        passage_lengths=retriever[::every] + RETRIEVER_SPECIALS,
        teacher_lengths=teacher[::every] + TEACHER_SPECIALS,
        passage_ids=float(retriever.mean()),
        teacher_ids=float(teacher.mean()),
        text_bytes=len(store.text) / store.num_passages,
        id_bytes=len(store.ids) / store.num_passages,
    )
    return evidence, [f"passages as in {directory}: {store.num_passages:,}"]


def count_passages(path: str) -> tuple[int, float]:
    """Returns the passages of a file, and their mean number of words with the title."""
    count = words = 0
    for passage in read_passages(path):
        count += 1
        words += len(passage.title.split()) + len(passage.text.split())
    return count, words / count


def count_epochs(run: RunSizes, num_questions: int) -> dict[str, float]:
    """Returns how often each ART stage sees every question.

    Raises:
        ConfigError: there are fewer questions than a batch takes.
    """
    epochs = {}
    for stage in run.stages:
        if stage.teacher is None:
            continue
        if num_questions < stage.batch_size:
            raise ConfigError(
                f"BATCH_SIZE of stage {stage.name!r} is {stage.batch_size}, but there "
                f"are {num_questions} questions: lower it."
            )
        steps = num_questions // stage.batch_size
        epochs[stage.name] = stage.train_steps / steps
    return epochs


def show_head(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines of what the plan is of, and what it assumes."""
    yield f"Plan of {', '.join(result['run'])}; nothing was measured."
    for note in result["assumed"]:
        yield f"  {note}"
    for name, epochs in result.get("epochs", {}).items():
        yield f"  stage {name}: {epochs:.1f} epochs"


def show_plans(plans: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    """Yields lines of one plan, or a table of several.

    Args:
        plans: by the name of the device; None where the run fits no number of them.
    """
    if len(plans) == 1:
        (found,) = plans.values()
        if found is None:
            raise ConfigError(_no_number(next(iter(plans))))
        yield from show_plan(found)
        return
    yield "The fewest devices that it fits:"
    yield f"{'device':9}{'devices':>8}{'model':>7}{'GiB':>8}{'of':>6}" + (
        f"{'s/step':>9}{'refresh':>10}{'hours':>8}"
    )
    for name, found in plans.items():
        if found is None:
            yield _no_number(name)
            continue
        step = found["stages"][-1]["step_seconds"]
        minutes = found["refresh"]["seconds"] / 60
        yield (
            f"{name:9}{found['num_devices']:8}{found['model_parallelism']:7}"
            f"{found['peak_bytes'] / _GIB:8.1f}{found['device_bytes'] / _GIB:6.0f}"
            f"{step:9.3g}{minutes:6.3g} min{found['hours']:8.3g}"
        )


def show_plan(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines of one plan."""
    data = found["num_devices"] // found["model_parallelism"]
    yield (
        f"{found['num_devices']} x {found['device']}: data {data}, "
        f"model {found['model_parallelism']}; MFU {found['mfu']:g}, "
        f"{found['bandwidth_share']:g} of bandwidth."
    )
    for stage in found["stages"]:
        yield ""
        yield from show_memory(stage, found)
    yield ""
    yield from show_verdict(found)
    for stage in found["stages"]:
        yield ""
        yield from show_step(stage)
    refresh = found["refresh"]
    yield ""
    yield (
        f"Refresh: {refresh['passages']:,} passages in {refresh['seconds'] / 60:.3g} "
        f"min, {refresh['flops'] / 1e15:.3g} PFLOP a device, "
        f"{refresh['padding_share']:.0%} of tokens padding."
    )
    yield (
        f"Whole run: {found['hours']:.3g} hours, without evaluation, tokenising, "
        "saving and compiling."
    )
    disk = found["disk_bytes"]
    yield f"On disk: {sum(disk.values()) / _GIB:.3g} GiB in all."
    for name, size in disk.items():
        yield f"  {name:24}{size / _GIB:10.3f} GiB"


def show_memory(stage: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines of a stage's memory."""
    memory = stage["memory"]
    held = sum(memory["held"].values())
    yield f"Memory of a device in stage {stage['name']}, GiB"
    for name, size in memory["held"].items():
        yield f"  {name:26}{size / _GIB:9.3f}"
    yield f"  {'held all the time':26}{held / _GIB:9.3f}"
    for name, parts in memory["phases"].items():
        worth = {part: size for part, size in parts.items() if size >= _GIB / 1000}
        words = ", ".join(f"{part} {size / _GIB:.3f}" for part, size in worth.items())
        line = f"  + {name:24}{sum(parts.values()) / _GIB:9.3f}"
        yield f"{line}  {words}" if len(worth) > 1 else line
    yield f"  {'peak':26}{memory['peak'] / _GIB:9.3f}"


def show_verdict(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields whether it fits, and else what would make it."""
    peak, whole = found["peak_bytes"], found["device_bytes"]
    share = f"{peak / _GIB:.1f} of {whole / _GIB:.0f} GiB, {peak / whole:.0%}"
    if found["fits"]:
        yield f"Fits: {share}."
    else:
        usable = found["usable_bytes"]
        yield f"Does not fit: {share}; {usable / _GIB:.1f} GiB may be filled. Change:"
        for remedy in found["remedies"]:
            verdict = "fits" if remedy["fits"] else "not enough alone"
            yield (
                f"  {remedy['change']:32}{remedy['peak_bytes'] / _GIB:8.1f} GiB  "
                f"{verdict}"
            )
    is_gpu = not found["device"].startswith("v")
    if is_gpu and found["fits"] and peak > _GPU_SHARE * whole:
        yield (
            f"JAX takes {_GPU_SHARE:.0%} of a GPU's memory unless told otherwise: set "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95."
        )


def show_step(stage: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines of the work of a step of a stage, and of all its steps."""
    yield (
        f"A step of stage {stage['name']} on a device, {stage['step_seconds']:.3g} s"
    )
    yield f"  {'':20}{'TFLOP':>10}{'GB':>10}{'GB sent':>10}{'ms':>10}{'share':>8}"
    for name, part in stage["step"].items():
        share = part["seconds"] / stage["step_seconds"]
        yield (
            f"  {name:20}{part['flops'] / 1e12:10.3f}{part['memory_bytes'] / 1e9:10.3f}"
            f"{part['link_bytes'] / 1e9:10.3f}{part['seconds'] * 1e3:10.3f}{share:8.0%}"
        )
    yield (
        f"  {stage['steps']:,} steps and {stage['refreshes']} refreshes: "
        f"{stage['hours']:.3g} hours, {stage['refresh_share']:.0%} of them refreshing."
    )


def _no_number(device: str) -> str:
    return (
        f"no number of {device} fits this run and divides its batches, up to "
        f"{plan.MOST_DEVICES}: change BATCH_SIZE, STREAM_TOKENS, NUM_MICROBATCHES or "
        "the models."
    )
