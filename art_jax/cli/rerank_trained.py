"""Rerankers that `art-jax train` made: JPR, IndepPR and monoT5."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.checkpoints import t5_folder
from art_jax.checkpoints.t5_folder import SavedT5
from art_jax.data.examples import RankedQuestion
from art_jax.data.layouts import TokenTable
from art_jax.errors import ConfigError
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr.joint import IndepPr, Jpr, scores_of_picks
from art_jax.methods.jpr.pointwise import Pointwise
from art_jax.methods.ranked_table import RankedTable, build_ranked_table
from art_jax.methods.t5_workspace import T5Workspace

# What --method calls the classes that may have trained a model for it.
TRAINED_AS = {
    "jpr": (Jpr,),
    "indeppr": (IndepPr, Jpr),
    "monot5": (Pointwise,),
}
# Questions that are given indexes together: results depend on it, and on no batch size.
_GROUP = 64


@dataclasses.dataclass(frozen=True)
class TrainedT5:
    """A T5 of a run, with the method that trained it.

    saved: the T5; its parameters are on the mesh.
    method: as it was trained, without examples.
    workspace: what it works in.
    """

    saved: SavedT5
    method: Any
    workspace: T5Workspace


@functools.lru_cache(maxsize=1)
def load_trained(path: str, name: str, mesh: Mesh, dtype: str | None) -> TrainedT5:
    """Returns what `art-jax train` left in a MODEL_DIR, kept for whoever asks again.

    Args:
        path: the MODEL_DIR.
        name: of the method, a key of `TRAINED_AS`.
        mesh: where the parameters go.
        dtype: to compute in; None: as it was trained.

    Raises:
        ConfigError: there is no T5, or one that another method trained.
        CorruptError: a file is damaged.
    """
    saved = t5_folder.load_t5(path, mesh, dtype=dtype)
    kinds = {kind.__name__: kind for kind in TRAINED_AS[name]}
    if saved.method not in kinds:
        others = [
            one
            for one, kinds in TRAINED_AS.items()
            if saved.method in (kind.__name__ for kind in kinds)
        ]
        raise ConfigError(
            f"{path} was trained by {saved.method}, which --method {name} cannot use"
            + (f": say --method {others[0]}." if others else ".")
        )
    method = t5_folder.make_method(kinds[saved.method], saved.settings)
    return TrainedT5(saved, method, T5Workspace(mesh, saved.config, saved.tokenizer))


def joint_sizes(path: str) -> tuple[int, int]:
    """Returns how many passages a JPR or IndepPR of a MODEL_DIR picks, and tells apart.

    Raises:
        ConfigError: there is none.
        CorruptError: its settings cannot be read.
    """
    rules = t5_folder.read_facts(path)["settings"].get("rules")
    if rules is None:
        raise ConfigError(f"{path} holds no JPR or IndepPR: give the MODEL_DIR of one.")
    return rules["k"], rules["num_indexes"]


@dataclasses.dataclass(eq=False)
class JointReranker:
    """JPR or IndepPR over rankings.

    model: the MODEL_DIR.
    name: "jpr", or "indeppr" for the first step's likelihoods alone.
    k: picks a question, which come first; None: as trained. IndepPR needs none.
    rules: of TreeDecode; None: SeqDecode.
    batch_size: questions at once, at least; a multiple of the devices is made of it.
    dtype: to compute in; None: as trained.
    depths: of each question's tree, once it is reranked.
    """

    model: str
    name: str
    k: int | None = None
    rules: TreeRules | None = None
    batch_size: int = 8
    dtype: str | None = None
    depths: list[int] = dataclasses.field(default_factory=list)

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh
    ) -> Iterator[np.ndarray]:
        """Yields the scores of each question's candidates, [K] float32.

        IndepPR's are log-likelihoods, in nats. JPR's say the order alone: K for the
        first pick, K - 1 for the second, and those that are not picked stay as they
        were behind.

        Raises:
            ConfigError: the model is of another method, or has fewer indexes than a
                ranking has passages.
        """
        trained = load_trained(self.model, self.name, mesh, self.dtype)
        method, arguments = trained.method, (trained.saved.params, trained.workspace)
        size = _batch_size(self.batch_size, mesh)
        table = build_ranked_table(ranked, trained.workspace.tokenizer)
        for start in range(0, len(ranked), _GROUP):
            group = ranked[start : start + _GROUP]
            part = take_questions(table, start, start + _GROUP)
            how = {"batch_size": size, "seed": start}
            if self.name == "indeppr":
                scores = method.first_log_likelihoods(*arguments, part, **how)
            else:
                picks = method.pick(*arguments, part, k=self.k, rules=self.rules, **how)
                self.depths.extend(picks.depth.tolist())
                depth = part.rows.shape[1]
                scores = [scores_of_picks(one, depth) for one in picks.choices]
            for one, row in zip(group, scores, strict=True):
                yield row[: len(one.candidates)]

    def note(self) -> str | None:
        """What is known of the trees, for people; None where there were none."""
        if not self.depths or self.rules is None:
            return None
        return f"depth of the trees: {np.mean(self.depths):.2f} on average"


@dataclasses.dataclass(eq=False)
class PointwiseReranker:
    """monoT5 as `Pointwise` trained it, over rankings.

    model: the MODEL_DIR.
    batch_size: questions at once, at least; a multiple of the devices is made of it.
    passages_a_call: of each of these questions.
    dtype: to compute in; None: as trained.
    """

    model: str
    batch_size: int = 8
    passages_a_call: int = 32
    dtype: str | None = None

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh
    ) -> Iterator[np.ndarray]:
        """Yields log p(relevant) of each question's candidates, [K] float32, in nats.

        Raises:
            ConfigError: the model is of another method.
        """
        trained = load_trained(self.model, "monot5", mesh, self.dtype)
        size = _batch_size(self.batch_size, mesh)
        table = build_ranked_table(ranked, trained.workspace.tokenizer)
        for start in range(0, len(ranked), size):
            part = take_questions(table, start, start + size)
            scores = [
                trained.method.log_likelihoods(
                    trained.saved.params, trained.workspace, columns, batch_size=size
                )
                for columns in split_passages(part, self.passages_a_call)
            ]
            joined = np.concatenate(scores, axis=1)
            for one, row in zip(ranked[start : start + size], joined, strict=True):
                yield row[: len(one.candidates)]


def take_questions(table: RankedTable, start: int, stop: int) -> RankedTable:
    """Returns the rankings of some questions, from `start` to before `stop`."""
    offsets = table.questions.offsets[start : stop + 1]
    questions = TokenTable(
        table.questions.token_ids[offsets[0] : offsets[-1]],
        offsets - offsets[0],
        table.questions.title_lengths[start:stop],
    )
    return dataclasses.replace(
        table,
        questions=questions,
        rows=table.rows[start:stop],
        priors=table.priors[start:stop],
        held=table.held[start:stop],
    )


def split_passages(table: RankedTable, size: int) -> Iterator[RankedTable]:
    """Yields the rankings in parts of `size` passages, the last filled up with none.

    A ranking that has no more than `size` stays as it is.
    """
    depth = table.rows.shape[1]
    missing = -depth % size if depth > size else 0
    rows = np.pad(table.rows, ((0, 0), (0, missing)), constant_values=-1)
    for start in range(0, rows.shape[1], size):
        yield dataclasses.replace(table, rows=rows[:, start : start + size])


def _batch_size(at_least: int, mesh: Mesh) -> int:
    data_size = mesh.shape[partitioning.DATA_AXIS]
    return -(-at_least // data_size) * data_size
