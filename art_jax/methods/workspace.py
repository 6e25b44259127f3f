"""What every method is bound to: evidence, questions, encoder and mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.evidence import EvidenceStore
from art_jax.data.layouts import Layout
from art_jax.data.question_table import QuestionTable
from art_jax.errors import ConfigError
from art_jax.index.rows import DeviceRows, HostRows, place_rows, stream_rows
from art_jax.index.search_options import SearchOptions
from art_jax.models.dual_encoder import DualEncoder
from art_jax.types import Params

RETRIEVER = "retriever"
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """What has devices that share each batch.

    mesh: of all devices; batches are split over its data axis.
    """

    mesh: Mesh

    def check_batch_size(self, batch_size: int, num_chunks: int = 1) -> None:
        """Raises ConfigError unless the data axis divides each chunk of a batch."""
        data_size = self.mesh.shape[partitioning.DATA_AXIS]
        if batch_size < 1 or batch_size % data_size:
            raise ConfigError(
                f"BATCH_SIZE is {batch_size}, but the {data_size} devices of mesh axis "
                "'data' each take an equal part: choose a multiple."
            )
        if num_chunks < 1 or batch_size % (data_size * num_chunks):
            raise ConfigError(
                f"NUM_MICROBATCHES is {num_chunks}, but a BATCH_SIZE of {batch_size} "
                f"on {data_size} devices of mesh axis 'data' can be split into 1 to "
                f"{batch_size // data_size} equal parts only: choose a divisor of that."
            )

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Returns host arrays as a batch split over the data axis."""
        return partitioning.put_tree(
            dict(batch), partitioning.batch_sharding(self.mesh)
        )


@dataclasses.dataclass(frozen=True)
class Workspace(OnMesh):
    """The parts a run is made of.

    encoder: the retriever.
    evidence: the passages, with token tables named RETRIEVER and, for ART, TEACHER.
    tokenizers: those the token tables were made with, by the same names.
    passage_layout: how the retriever reads a passage.
    query_layout: how it reads a question.
    passages: the evidence as the retriever reads it.
    queries: the training questions; None for methods that need none.
    stream_tokens: read token rows from the store each step instead of holding them
        in device memory.
    search: how the table is searched; changes no result.
    """

    encoder: DualEncoder
    evidence: EvidenceStore
    tokenizers: Mapping[str, Any]
    passage_layout: Layout
    query_layout: Layout
    passages: DeviceRows | HostRows
    queries: QuestionTable | None = None
    stream_tokens: bool = False
    search: SearchOptions = SearchOptions()

    def rows_of(self, name: str, layout: Layout) -> DeviceRows | HostRows:
        """Returns the evidence laid out from one of its token tables."""
        tokens = self.evidence.token_tables[name]
        place = stream_rows if self.stream_tokens else place_rows
        return place(tokens, layout, self.mesh)


def passage_side(params: Params) -> Params:
    """Returns the part of a retriever's parameters that passage embeddings need.

    It is a tree of its own that `DualEncoder.encode_passage` takes.
    """
    name = "shared" if "shared" in params else "passage"
    return {name: params[name]}
