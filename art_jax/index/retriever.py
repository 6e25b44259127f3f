"""Questions in, passages out: a trained retriever with its table and its evidence.

A run's folder holds all three: `retriever/`, `index/`, `evidence/`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from art_jax import atomic, partitioning
from art_jax.checkpoints.retriever import SavedRetriever, load_retriever
from art_jax.data.evidence import EvidenceStore, load_evidence
from art_jax.data.query_forms import find_task
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.index import ann as approximate
from art_jax.index import embed
from art_jax.index.ann import AnnIndex
from art_jax.index.table import EmbeddingTable, load_table, search
from art_jax.models.dual_encoder import DualEncoder
from art_jax.types import Params, SearchResults

QUERY_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Retriever:
    """What answers a question with passages.

    model: encoder, weights and tokeniser.
    table: embeddings of the evidence, searched exactly, or ScaNN's index of them.
    evidence: the passages themselves.
    mesh: the devices that embed questions; None: those that hold the table.
    """

    model: SavedRetriever
    table: EmbeddingTable | AnnIndex
    evidence: EvidenceStore
    mesh: Mesh | None = None

    @classmethod
    def load(
        cls, run: str | pathlib.Path, mesh: Mesh | None = None, *, ann: bool = False
    ) -> "Retriever":
        """Returns the retriever of a finished run, laid out on all devices.

        Args:
            run: the MODEL_DIR of `art-jax train`.
            mesh: where to; None: all devices.
            ann: search with the index that `art-jax ann` made, on the host; the
                table is not read, and may be missing.

        Raises:
            ConfigError: the run holds no retriever or no index, or they do not fit.
            CorruptError: a file is damaged.
        """
        run = pathlib.Path(run)
        mesh = mesh or partitioning.make_mesh()
        model = load_retriever(run, mesh)
        table = _load_ann(run) if ann else _load_table(run, mesh)
        evidence = load_evidence(run / "evidence", verify=True)
        if table.evidence_digest != evidence.digest:
            again = f"`art-jax embed {run}`" + (f" and `art-jax ann {run}`" * ann)
            raise ConfigError(
                f"{run / ('ann' if ann else 'index')} was made from other passages "
                f"than {run / 'evidence'} holds: embed again with {again}."
            )
        return cls(model, table, evidence, mesh)

    def of_task(self, name: str) -> "Retriever":
        """Returns what answers the questions of one task, see `SavedRetriever`."""
        return dataclasses.replace(self, model=self.model.of_task(name))

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """Returns embeddings of questions, [n, D] float32.

        A retriever of one task, see `of_task`, reads them as that task's.
        """
        tokens = self.model.query_tokens([Question("", text) for text in questions])
        return self.encode_query_tokens(tokens)

    def encode_query_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Returns embeddings of questions' token rows [n, Q] int32, [n, D] float32."""
        encode = build_encode_query(self.model.encoder)
        mesh = self.mesh or self.table.mesh
        return encode_tokens(encode, self.model.params, tokens, mesh)

    def search(self, questions: Sequence[str], k: int = 5) -> SearchResults:
        """Returns the k best rows for each question, [n, k] NumPy arrays."""
        return search_queries(self.table, self.encode_queries(questions), k=k)


def retriever_of(
    retriever: Retriever, query_task: str | None, seqio_task: str = ""
) -> Retriever:
    """Returns the retriever as it reads the questions of a task.

    Args:
        retriever: of any number of tasks.
        query_task: one of them; None: that of the SeqIO task.
        seqio_task: where the questions are from, such as "kilt_nq", which is of task
            "nq"; of one that the retriever was not trained on they are read as they
            are. "": from nowhere, so they are of its only task, if it has but one.

    Raises:
        ConfigError: it has no such task; or it has several question towers and
            nothing says which one is to be taken.
    """
    model = retriever.model
    name = query_task or find_task(seqio_task, model.query_forms)
    if name is not None:
        return retriever.of_task(name)
    if model.encoder.query_towers:
        raise ConfigError(
            f"{f'{seqio_task!r} is none' if seqio_task else 'nothing says which'} of "
            f"the retriever's tasks, {', '.join(model.query_forms)}, and each is read "
            "by a question tower: choose one with --query_task."
        )
    if not seqio_task:
        return retriever
    plain = dataclasses.replace(model, query_forms={})
    return dataclasses.replace(retriever, model=plain)


def search_queries(
    table: EmbeddingTable | AnnIndex,
    queries: np.ndarray,
    *,
    k: int,
    batch_size: int = QUERY_BATCH,
) -> SearchResults:
    """Returns the k best rows of any number of queries, a batch at a time.

    Args:
        table: where to search; ScaNN takes all queries at once.
        queries: [n, D] float32 on the host.
        k: rows kept a query.
        batch_size: queries a search; the last batch is filled up, so that one
            compiled search serves all.
    """
    if isinstance(table, AnnIndex):
        return approximate.search(table, queries, k=k)
    scores, rows = [], []
    batch_size = min(batch_size, max(len(queries), 1))
    for start in range(0, len(queries), batch_size):
        part = queries[start : start + batch_size]
        filled = np.zeros((batch_size, queries.shape[1]), np.float32)
        filled[: len(part)] = part
        found = search(table, filled, k=k)
        scores.append(found.scores[: len(part)])
        rows.append(found.rows[: len(part)])
    if not scores:
        return SearchResults(np.zeros((0, k), np.float32), np.zeros((0, k), np.int32))
    return SearchResults(np.concatenate(scores), np.concatenate(rows))


def encode_tokens(
    encode: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    tokens: np.ndarray,
    mesh: Mesh,
    batch_size: int = QUERY_BATCH,
) -> np.ndarray:
    """Returns embeddings of token rows, [n, D] float32 on the host.

    Args:
        encode: from `build_encode_query`.
        params: the encoder's.
        tokens: [n, Q] int32.
        mesh: batches are split over its data axis.
        batch_size: rows at a time.
    """
    batches = embed.embed_batches(
        functools.partial(encode, params), tokens, batch_size=batch_size, mesh=mesh
    )
    parts = [partitioning.to_host(batch)[:used] for used, batch in batches]
    width = jax.eval_shape(encode, params, tokens[:1]).shape[1] if not parts else 0
    return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def encode_by_tower(
    encoder: DualEncoder,
    params: Params,
    tokens: np.ndarray,
    towers: np.ndarray | None,
    mesh: Mesh,
) -> np.ndarray:
    """Returns embeddings of token rows that go through towers of their own, [n, D].

    Args:
        encoder: the retriever.
        params: its parameters.
        tokens: [n, Q] int32.
        towers: [n] int, of `encoder.query_towers`; None where there is one for all.
        mesh: as for `encode_tokens`.
    """
    if towers is None:
        return encode_tokens(build_encode_query(encoder), params, tokens, mesh)
    embeddings = np.zeros((len(tokens), encoder.width), np.float32)
    for tower in np.unique(towers):
        single, own = encoder.with_tower(params, encoder.query_towers[tower])
        rows = towers == tower
        encode = build_encode_query(single)
        embeddings[rows] = encode_tokens(encode, own, tokens[rows], mesh)
    return embeddings


@functools.lru_cache(maxsize=16)
def build_encode_query(encoder: DualEncoder):
    """Returns `encode(params, tokens) -> [B, D]`, jitted once an encoder."""
    return jax.jit(encoder.encode_query)


def _load_table(run: pathlib.Path, mesh: Mesh) -> EmbeddingTable:
    atomic.recover_directory(run / "index")
    if not (run / "index").exists():
        raise ConfigError(f"{run} holds no index: make one with `art-jax embed {run}`.")
    return load_table(run / "index", mesh)


def _load_ann(run: pathlib.Path) -> AnnIndex:
    for name in ("index", "ann"):
        atomic.recover_directory(run / name)
    if not (run / "ann").exists():
        raise ConfigError(
            f"{run} holds no index of ScaNN: build one with `art-jax ann {run}`, or "
            "search exactly, without --ann."
        )
    if (run / "index").exists():
        approximate.check_source(run / "ann", run / "index")
    return approximate.load_ann(run / "ann")
