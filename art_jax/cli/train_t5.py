"""Training of a T5, a reranker or a reader, as `art-jax train` runs it."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax

from art_jax import partitioning
from art_jax.checkpoints import formats, t5_folder, t5_params
from art_jax.checkpoints.formats import PretrainedT5
from art_jax.checkpoints.t5_folder import SavedT5, save_t5
from art_jax.cli.run_folder import (
    Clock,
    check_model_dir,
    check_stage,
    report,
    write_facts,
)
from art_jax.data import tokenizers
from art_jax.data.tokenizers import Tokenizer
from art_jax.errors import ConfigError
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.training import preemption
from art_jax.training.stage import Stage, run_stage
from art_jax.types import Params

FOLDER = "t5"


@dataclasses.dataclass(frozen=True)
class TrainedT5:
    """What `train` leaves in memory, beside the files in its folder.

    saved: the T5, its parameters on the mesh.
    workspace: what its methods were bound to.
    seconds: wall time by part of the run.
    """

    saved: SavedT5
    workspace: T5Workspace
    seconds: Mapping[str, float]


def train(
    *,
    model_dir: str,
    stages: Sequence[Stage],
    t5: T5Config | None = None,
    vocabulary: str | None = None,
    initial_checkpoint_path: str | None = None,
    model_parallelism: int = 1,
) -> TrainedT5:
    """Trains a T5 through its stages and writes it to `model_dir/t5`.

    Run again after any stop, the same call goes on where it was. Each stage is trained
    from the last one's result; what the last one's method needs to be used again is
    written beside the weights.

    Args:
        model_dir: where everything is written.
        stages: of methods that are bound to a T5; they have no table, so
            `refresh_every_steps` is None.
        t5: sizes and form; None: those of `initial_checkpoint_path`, without dropout
            where its files name no rate. Given, it must be of the same sizes.
        vocabulary: a SentencePiece .model, a BERT's vocab.txt, or a folder of a run
            with a tokeniser; None: the one beside `initial_checkpoint_path`.
        initial_checkpoint_path: a T5 of Hugging Face, of T5X or trained here (a
            MODEL_DIR); None: from scratch.
        model_parallelism: devices the weights are split over.

    Raises:
        ConfigError: a setting is missing or does not fit another.
        CorruptError: a file of the checkpoint is damaged.
        DataError: a file of examples breaks its format.
        PreemptedError: a signal came; the run was saved.
    """
    folder = pathlib.Path(model_dir)
    check_model_dir(folder)
    _check_stages(stages)
    clock = Clock()
    mesh = partitioning.make_mesh(model_parallelism=model_parallelism)
    with preemption.watch_signals():
        report(f"{len(jax.devices())} x {jax.devices()[0].device_kind}")
        start = None
        if initial_checkpoint_path is not None:
            start = formats.open_t5(initial_checkpoint_path)
            report(f"starting from {initial_checkpoint_path}: {start.format}")
        config = choose_config(t5, start, initial_checkpoint_path)
        tokenizer = choose_tokenizer(vocabulary, start, initial_checkpoint_path)
        _require_room(config, tokenizer)
        workspace = T5Workspace(mesh, config, tokenizer)
        params = initial_params(workspace, stages[0].seed, start)
        if jax.process_index() == 0:
            write_facts(folder, params)
        clock.lap("setup")
        for stage in stages:
            # All of them first: the first may take hours to get to the second.
            check_stage(stage, workspace)
            report(f"{stage.name}: {stage.method.describe(workspace)}")
        clock.lap("data")
        for stage in stages:
            params = run_stage(
                stage, workspace, params, directory=folder / stage.name, report=report
            )
            clock.lap(stage.name)
        saved = save(folder / FOLDER, stages, workspace, params, start)
        clock.lap("save")
    report(f"done: {folder / FOLDER} holds the T5 of {saved.method}")
    return TrainedT5(saved, workspace, clock.seconds)


def save(
    folder: pathlib.Path,
    stages: Sequence[Stage],
    workspace: T5Workspace,
    params: Params,
    start: PretrainedT5 | None,
) -> SavedT5:
    """Writes a trained T5 with what its last method needs, and returns the same.

    Args:
        folder: a new one, or that of the same run.
        stages: that it was trained through.
        workspace: with its config and tokeniser.
        params: its parameters.
        start: what it was trained from; None: from scratch.
    """
    method = stages[-1].method
    saved = SavedT5(
        config=workspace.config,
        params=params,
        tokenizer=workspace.tokenizer,
        method=type(method).__name__,
        settings=t5_folder.settings_of(method),
        training={
            "stages": [stage.name for stage in stages],
            "initial_checkpoint": None if start is None else start.format,
        },
    )
    save_t5(folder, saved)
    return saved


def choose_config(
    wanted: T5Config | None, start: PretrainedT5 | None, source: object
) -> T5Config:
    """Returns what is trained: what was asked for, or what the checkpoint is.

    Raises:
        ConfigError: neither is given, or both and they differ.
    """
    if start is None:
        if wanted is None:
            raise ConfigError(
                "there is nothing to train: give INITIAL_CHECKPOINT_PATH, a T5, or "
                "train_t5.train.t5, the sizes of one to train from scratch."
            )
        return wanted
    if wanted is None:
        return start.config
    t5_params.require_same_sizes(start.config, wanted, source, "train_t5.train.t5")
    return wanted


def choose_tokenizer(
    vocabulary: str | None, start: PretrainedT5 | None, source: object
) -> Tokenizer:
    """Returns the tokeniser that was given, or else the checkpoint's own.

    Raises:
        ConfigError: there is none.
    """
    if vocabulary is not None:
        return tokenizers.find_tokenizer(vocabulary)
    if start is not None and start.format == t5_folder.FORMAT:
        return t5_folder.load_tokenizer_of(source)
    if start is not None and start.vocabulary is not None:
        return tokenizers.find_tokenizer(start.vocabulary)
    where = "there is no checkpoint" if start is None else f"{source} holds none"
    raise ConfigError(
        f"a T5 needs a vocabulary, and {where}: give VOCABULARY, a SentencePiece "
        ".model (T5's is spiece.model), a vocab.txt, or a run's tokenizers/retriever."
    )


def initial_params(
    workspace: T5Workspace, seed: int, start: PretrainedT5 | None
) -> Params:
    """Returns float32 parameters to start from, laid out on the mesh.

    Args:
        workspace: with the T5's config.
        seed: of what is drawn.
        start: what to start from; None: from scratch.
    """
    config, mesh = workspace.config, workspace.mesh
    if start is not None:
        return t5_params.place_params(start.params, config, mesh, "float32")
    # On one device first, then laid out: the same numbers on any mesh.
    params = jax.device_get(t5.init_params(config, jax.random.key(seed)))
    return t5_params.place_params(params, config, mesh, "float32")


def _check_stages(stages: Sequence[Stage]) -> None:
    if not stages:
        raise ConfigError("there are no stages to train: give one at least.")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"stages are called {names}: give each a name of its own.")


def _require_room(config: T5Config, tokenizer: Tokenizer) -> None:
    if config.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"VOCABULARY has {tokenizer.vocab_size} pieces, but T5Config.vocab_size "
            f"is {config.vocab_size}: raise it, or give the T5's own."
        )
