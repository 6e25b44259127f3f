"""`art-jax train`: passages and questions in, a searchable retriever out."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from art_jax import atomic, partitioning
from art_jax.checkpoints import formats, pretrained
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.checkpoints.retriever import SavedRetriever, save_retriever
from art_jax.cli import gin_flags, train_t5
from art_jax.cli.dev_questions import evaluate_questions, evaluate_tasks
from art_jax.cli.run_folder import (
    Clock,
    check_model_dir,
    check_stage,
    report,
    write_facts,
)
from art_jax.data import statistics, tokenizers
from art_jax.data.evidence import EvidenceStore, build_or_load_evidence, load_evidence
from art_jax.data.layouts import layout_lengths
from art_jax.data.passages import read_passages
from art_jax.data.query_forms import (
    QueryForm,
    find_special_ids,
    with_unused_pieces,
)
from art_jax.data.question_table import (
    QuestionTable,
    has_split,
    query_layout,
    read_question_table,
)
from art_jax.errors import ConfigError
from art_jax.index.refresh import Refresher, refresh
from art_jax.index.retriever import Retriever
from art_jax.index.rows import place_rows, stream_rows
from art_jax.index.search_options import SearchOptions
from art_jax.index.table import save_table
from art_jax.methods.workspace import RETRIEVER, TEACHER, Workspace, passage_side
from art_jax.models.dual_encoder import DualEncoder, with_token_importance
from art_jax.training import hooks, preemption
from art_jax.training.stage import Stage, run_stage
from art_jax.types import Params

_DEFAULT_SEARCH = SearchOptions()


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train` leaves in memory, beside the files in its folder.

    retriever: the trained one, with its table.
    initial: the retriever before training, without a table.
    refresher: embeds the evidence again.
    seconds: wall time by part of the run.
    """

    retriever: Retriever
    initial: SavedRetriever
    refresher: Refresher
    seconds: Mapping[str, float]


def run(options) -> None:
    """Runs the verb `train`: a retriever's, or a T5's where the gin files say so."""
    if options.multiprocess or options.coordinator_address:
        jax.distributed.initialize(
            options.coordinator_address, options.process_count, options.process_index
        )
    if not options.gin_file:
        raise ConfigError(
            "art-jax train needs a run file, such as "
            "--gin_file=gin/runs/own_documents.gin (see gin/runs)."
        )
    gin_flags.parse_gin(
        options.gin_file, options.gin_bindings, options.gin_search_paths
    )
    gin_flags.call(gin_flags.configured_one((train, train_t5.train)))


def train(
    *,
    model_dir: str,
    passages: str,
    encoder: DualEncoder,
    stages: Sequence[Stage],
    task_feature_lengths: Mapping[str, int],
    mixture_or_task_name: str | None = None,
    vocabulary: str | None = None,
    vocab_size: int = 16_000,
    initial_checkpoint_path: str | None = None,
    weigh_rare_tokens: bool = False,
    model_parallelism: int = 1,
    stream_tokens: bool = False,
    table_dtype: str = "bfloat16",
    search_method: str = "auto",
    embed_chunk_tokens: int | None = None,
    dev_split: str = "dev",
    dev_tasks: Sequence[str] = (),
    query_token: str | None = None,
) -> TrainedRun:
    """Trains a retriever through its stages and writes it with its index.

    Run again after any stop, the same call goes on where it was. The folder then
    holds `retriever/`, `index/` and `evidence/`, which `Retriever.load` reads.

    Args:
        model_dir: where everything is written.
        passages: a file of passages, see `data.passages.read_passages`.
        encoder: the retriever; its vocabulary grows to the tokeniser's where that is
            trained here.
        stages: trained one after the other, each from the last one's result.
        task_feature_lengths: {"query": Q, "passage": L} tokens.
        mixture_or_task_name: the SeqIO task or mixture of the training questions and
            the held-out ones; None, or without one of these splits, for methods that
            bring their own examples and stages that search for no questions.
        vocabulary: a WordPiece vocab.txt, lower-cased; None: that of
            `initial_checkpoint_path`, or one trained on the passages.
        vocab_size: of the vocabulary trained here.
        initial_checkpoint_path: a retriever or BERT to start from, in any format of
            `checkpoints.formats`; None: from scratch. Its sizes must be `encoder`'s;
            pooling, projection and normalisation are its own where it says any.
        weigh_rare_tokens: from scratch, let the weighted mean count each token by its
            inverse passage frequency at first.
        model_parallelism: devices the teacher's weights are split over.
        stream_tokens: read token rows from disk each step instead of holding them in
            device memory.
        table_dtype: of the embedding table.
        search_method: of `index.search_options.SearchOptions`; "int8" and
            "int8_triton" hold the table in eight bits too.
        embed_chunk_tokens: tokens a device embeds at a time; None: what devices of
            this kind do best with.
        dev_split: held-out questions to choose the best step by, if the task has it.
        dev_tasks: SeqIO tasks or mixtures whose held-out questions choose the step in
            its place: each is read as the retriever reads its task, and measured alone
            and in the mean, see `dev_questions`.
        query_token: a text that is one piece in questions; the vector of one that has
            it is read off there, and not at [CLS].
    """
    folder = pathlib.Path(model_dir)
    check_model_dir(folder)
    clock = Clock()
    mesh = partitioning.make_mesh(model_parallelism=model_parallelism)
    with preemption.watch_signals():
        report(f"{len(jax.devices())} x {jax.devices()[0].device_kind}")
        start = None
        if initial_checkpoint_path is not None:
            start = formats.open_retriever(initial_checkpoint_path)
            report(f"starting from {initial_checkpoint_path}: {start.format}")
            encoder = pretrained.fit_encoder(start, encoder, initial_checkpoint_path)
        forms = query_forms(stages, start)
        make_retriever_tokenizer = retriever_tokenizer(
            vocabulary, vocab_size, start, initial_checkpoint_path, forms.values()
        )
        made = make_tokenizers(folder, passages, stages, make_retriever_tokenizer)
        is_trained = vocabulary is None and start is None
        special_ids = find_special_ids(forms.values(), made[RETRIEVER])
        if query_token is not None:
            encoder = read_off_at(encoder, query_token, special_ids)
        evidence = make_evidence(folder, passages, made)
        clock.lap("evidence")
        workspace = make_workspace(
            mesh=mesh,
            encoder=fit_vocabulary(encoder, made[RETRIEVER], is_trained=is_trained),
            evidence=evidence,
            made=made,
            lengths=task_feature_lengths,
            queries=read_queries(
                made, mixture_or_task_name, "train", task_feature_lengths
            ),
            stream_tokens=stream_tokens,
            search=SearchOptions(search_method),
        )
        refresher = make_refresher(workspace, table_dtype, embed_chunk_tokens)
        params = initial_params(
            workspace, stages[0].seed, start, initial_checkpoint_path
        )
        if weigh_rare_tokens and start is None:
            params = weighted_by_rarity(workspace, params)
        initial = saved_retriever(
            workspace, params, task_feature_lengths, {}, forms, special_ids
        )
        if dev_tasks:
            evaluate = evaluate_tasks(workspace, initial, dev_tasks, dev_split)
        else:
            dev = read_queries(
                made, mixture_or_task_name, dev_split, task_feature_lengths
            )
            evaluate = None if dev is None else evaluate_questions(workspace, dev)
        if jax.process_index() == 0:
            write_facts(folder, params)
        clock.lap("setup")
        for stage in stages:
            # All of them first: the first may take hours to get to the second.
            check_stage(stage, workspace)
            if hasattr(stage.method, "teacher"):
                report(f"teacher of {stage.name}: {stage.method.teacher.describe()}")
            if hasattr(stage.method, "describe"):
                report(f"{stage.name}: {stage.method.describe(workspace)}")
        for stage in stages:
            params = run_stage(
                stage,
                workspace,
                params,
                refresher=refresher,
                passage_side=passage_side,
                directory=folder / stage.name,
                evaluate=evaluate,
                report=report,
            )
            clock.lap(stage.name)
        training = {
            "stages": [stage.name for stage in stages],
            "mixture_or_task_name": mixture_or_task_name,
            "passages": evidence.num_passages,
            "initial_checkpoint": None if start is None else start.format,
        }
        final = dataclasses.replace(initial, params=params, training=training)
        retriever = write_retriever(folder, final, refresher, evidence, stages[-1])
        clock.lap("index")
    report(f'done. Search it: art-jax search {model_dir} "your question"')
    return TrainedRun(retriever, initial, refresher, clock.seconds)


def make_tokenizers(
    folder: pathlib.Path,
    passages: str,
    stages: Sequence[Stage],
    make_retriever_tokenizer: Callable[[Iterable[str]], Any],
) -> dict[str, Any]:
    """Returns the tokenisers by the name of their token table, trained once a run."""
    makers = {RETRIEVER: make_retriever_tokenizer}
    teachers = [
        stage.method.teacher for stage in stages if hasattr(stage.method, "teacher")
    ]
    if teachers:
        makers[TEACHER] = teachers[0].make_tokenizer
    made = {}
    for name, make in makers.items():
        directory = folder / "tokenizers" / name
        if jax.process_index() == 0 and not directory.exists():
            report(f"making the {name}'s tokeniser")
            texts = (f"{p.title} {p.text}" for p in read_passages(passages))
            tokenizers.save_tokenizer(make(texts), atomic.new_directory(directory))
            atomic.finish_directory(directory)
        partitioning.barrier(f"tokenizer_{name}")
        made[name] = tokenizers.load_tokenizer(directory)
    return made


def retriever_tokenizer(
    vocabulary: str | None,
    vocab_size: int,
    start: PretrainedRetriever | None,
    source: object,
    forms: Iterable[QueryForm] = (),
) -> Callable[[Iterable[str]], Any]:
    """Returns what makes the retriever's tokeniser from the passages' texts.

    It is that of the vocabulary given, or of the retriever to start from, or learnt.

    Args:
        vocabulary: a vocab.txt, or None.
        vocab_size: of one that is learnt.
        start: what training starts from, or None.
        source: where that is.
        forms: of questions; one that is learnt is given rows for their markers.

    Raises:
        ConfigError: there is no such file, or the retriever to start from has another
            vocabulary, or none and none is given.
    """
    if vocabulary and not pathlib.Path(vocabulary).is_file():
        raise ConfigError(
            f"VOCABULARY {vocabulary} is no file: give the vocab.txt of a BERT, or "
            "leave it out to learn one from the passages."
        )
    if start is not None:
        held = choose_tokenizer(start, source, vocabulary)
        return lambda texts: held
    if vocabulary:
        return lambda texts: tokenizers.load_wordpiece(vocabulary)
    return lambda texts: with_unused_pieces(
        tokenizers.train_wordpiece(texts, vocab_size), forms
    )


def choose_tokenizer(
    start: PretrainedRetriever,
    source: object,
    vocabulary: str | None,
    *,
    lowercase: bool = True,
) -> tokenizers.WordPieceTokenizer:
    """Returns the tokeniser of weights that were trained elsewhere.

    Args:
        start: what their files say.
        source: where they are, for errors.
        vocabulary: a vocab.txt, or None for the one beside the weights.
        lowercase: of `vocabulary`.

    Raises:
        ConfigError: neither the files nor the caller have one, or both differ.
    """
    if vocabulary is None:
        if start.tokenizer is None:
            raise ConfigError(
                f"{source} ({start.format}) holds no vocabulary: give the vocab.txt "
                "it was trained with, by VOCABULARY or --vocabulary. DPR's is that of "
                "bert-base-uncased; ART's, of bert-large-uncased, is the same."
            )
        return start.tokenizer
    given = tokenizers.load_wordpiece(vocabulary, lowercase=lowercase)
    if start.tokenizer is not None and given.digest != start.tokenizer.digest:
        raise ConfigError(
            f"{source} was trained with another vocabulary than {vocabulary}: leave "
            "VOCABULARY out, and its own is used."
        )
    return given


def make_evidence(
    folder: pathlib.Path, passages: str, made: Mapping[str, Any]
) -> EvidenceStore:
    """Returns the evidence store of the run, built by the first process."""
    directory = folder / "evidence"
    if jax.process_index() == 0:

        def progress(done: int) -> None:
            preemption.poll()
            if done % 100_000 < 2_048 and done > 2_048:
                report(f"tokenised {done:,} passages")

        store = build_or_load_evidence(passages, directory, made, progress=progress)
        report(f"evidence: {store.num_passages:,} passages")
    partitioning.barrier("evidence")
    return load_evidence(directory, made)


def fit_vocabulary(encoder: DualEncoder, tokenizer, *, is_trained: bool) -> DualEncoder:
    """Returns the encoder with room for the tokeniser's ids.

    Raises:
        ConfigError: its embedding is smaller than a vocabulary that was given.
    """
    config = encoder.config
    if is_trained:
        config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
        return dataclasses.replace(encoder, config=config)
    if config.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"VOCABULARY has {tokenizer.vocab_size} pieces, but BertConfig.vocab_size "
            f"is {config.vocab_size}: raise it."
        )
    return encoder


def read_queries(
    made: Mapping[str, Any], task: str | None, split: str, lengths: Mapping[str, int]
) -> QuestionTable | None:
    """Returns the questions of a task's split, tokenised for the retriever.

    None where there is no task, or it has no such split.
    """
    from art_jax.data import vocabularies

    if task is None or not has_split(task, split):
        return None
    vocabularies.use(made[RETRIEVER])
    table = read_question_table(task, split, lengths["query"])
    report(f"{split}: {table.num_questions:,} questions of {task}")
    return table


def make_workspace(
    *,
    mesh: jax.sharding.Mesh,
    encoder: DualEncoder,
    evidence: EvidenceStore,
    made: Mapping[str, Any],
    lengths: Mapping[str, int],
    queries: QuestionTable | None,
    stream_tokens: bool,
    search: SearchOptions = _DEFAULT_SEARCH,
) -> Workspace:
    """Returns what the methods are bound to, with the evidence's tokens in place."""
    for name in ("query", "passage"):
        if lengths.get(name, 0) > encoder.config.max_positions:
            raise ConfigError(
                f"TASK_FEATURE_LENGTHS[{name!r}] is {lengths[name]}, but the encoder "
                f"has {encoder.config.max_positions} positions: shorten the rows."
            )
    layout = query_layout(made[RETRIEVER], lengths["passage"])
    place = stream_rows if stream_tokens else place_rows
    return Workspace(
        mesh=mesh,
        encoder=encoder,
        evidence=evidence,
        tokenizers=made,
        passage_layout=layout,
        query_layout=query_layout(made[RETRIEVER], lengths["query"]),
        passages=place(evidence.token_tables[RETRIEVER], layout, mesh),
        queries=queries,
        stream_tokens=stream_tokens,
        search=search,
    )


def make_refresher(
    workspace: Workspace, dtype: str, chunk_tokens: int | None
) -> Refresher:
    """Returns what embeds the workspace's evidence."""
    tokens = workspace.evidence.token_tables[RETRIEVER]
    return Refresher(
        encode=workspace.encoder.encode_passage,
        rows=workspace.passages,
        lengths=layout_lengths(
            workspace.passage_layout, tokens, np.arange(tokens.num_rows)
        ),
        width=workspace.encoder.width,
        mesh=workspace.mesh,
        evidence_digest=workspace.evidence.digest,
        dtype=dtype,
        chunk_tokens=chunk_tokens,
        int8=workspace.search.method.startswith("int8"),
        config=workspace.encoder.config,
    )


def initial_params(
    workspace: Workspace,
    seed: int,
    start: PretrainedRetriever | None,
    source: object,
) -> Params:
    """Returns the parameters to start from, whole on every device.

    Args:
        workspace: with the encoder, fit to `start`.
        seed: of what is drawn.
        start: what to start from; None: from scratch.
        source: where that is.
    """
    encoder, mesh, key = workspace.encoder, workspace.mesh, jax.random.key(seed)
    if start is not None:
        return pretrained.load_params(start, encoder, mesh, source, key=key)
    return jax.jit(encoder.init, out_shardings=partitioning.replicated(mesh))(key)


def weighted_by_rarity(workspace: Workspace, params: Params) -> Params:
    """Returns the parameters with token weights from the evidence's frequencies."""
    importance = statistics.inverse_passage_frequencies(
        workspace.evidence.token_tables[RETRIEVER], workspace.encoder.config.vocab_size
    )
    weighted = with_token_importance(params, importance)
    return partitioning.put_tree(weighted, partitioning.replicated(workspace.mesh))


def query_forms(
    stages: Sequence[Stage], start: PretrainedRetriever | None
) -> dict[str, QueryForm]:
    """Returns how questions of each task are read, as the stages say and `start` did.

    A stage's own tasks come before those that the retriever brings.
    """
    forms = {} if start is None else dict(start.query_forms)
    for stage in stages:
        forms |= getattr(stage.method, "query_forms", {})
    return forms


def read_off_at(
    encoder: DualEncoder, query_token: str, special_ids: Mapping[str, int]
) -> DualEncoder:
    """Returns the encoder that reads a question's vector off at a token.

    Raises:
        ConfigError: no task's questions have such a piece.
    """
    if query_token not in special_ids:
        raise ConfigError(
            f"query_token is {query_token!r}, which is a piece of no task's questions: "
            "name it in ExampleSet.special."
        )
    return dataclasses.replace(encoder, query_token_id=special_ids[query_token])


def saved_retriever(
    workspace: Workspace,
    params: Params,
    lengths: Mapping[str, int],
    training: dict,
    forms: Mapping[str, QueryForm],
    special_ids: Mapping[str, int],
) -> SavedRetriever:
    """Returns the workspace's encoder with these parameters, ready to be saved."""
    return SavedRetriever(
        encoder=workspace.encoder,
        params=params,
        tokenizer=workspace.tokenizers[RETRIEVER],
        max_query_tokens=lengths["query"],
        max_passage_tokens=lengths["passage"],
        training=training,
        query_forms=forms,
        special_ids=special_ids,
    )


def write_retriever(
    folder: pathlib.Path,
    model: SavedRetriever,
    refresher: Refresher,
    evidence: EvidenceStore,
    last_stage: Stage,
) -> Retriever:
    """Writes `retriever/` and `index/` and returns both with the evidence."""
    save_retriever(folder / "retriever", model)
    table = refresh(
        refresher,
        passage_side(model.params),
        step=last_stage.train_steps,
        generation=0,
        on_progress=hooks.watch_refresh(refresher, report),
    )
    save_table(table, folder / "index")
    return Retriever(model, table, evidence)
