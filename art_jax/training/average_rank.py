"""Average-rank validation: how many passages of a pool stand above the right one.

It needs no table of the evidence, so it is far cheaper than retrieval. The pool is the
right passage of every held-out question and some of its wrong ones, each once.

Source: DPR (arXiv:2004.04906) and its official code. Differs in: there each process
    ranks within its own share of the pool, so that the number depends on how many there
    are; here it is the whole pool's, whatever the devices. There a passage that several
    questions have is in the pool several times.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from art_jax import partitioning
from art_jax.data.example_table import ExampleTable, RaggedRows, take_rows
from art_jax.data.layouts import Layout, layout_lengths, layout_rows
from art_jax.index import score_blocks
from art_jax.index.refresh import Refresher, refresh
from art_jax.index.retriever import encode_by_tower
from art_jax.index.rows import place_rows, stream_rows
from art_jax.losses.contrastive import dot_product_vectors
from art_jax.models.dual_encoder import DualEncoder
from art_jax.partitioning import ROW_AXES
from art_jax.types import Params

BLOCK_ROWS = 8192
_QUERIES_A_CALL = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Questions, and passages to rank for all of them.

    examples: [n] int64, of the table.
    passages: [P] int64, rows of the table's passages, ascending, none twice.
    places: [n] int64, where in `passages` each question's right one is.
    """

    examples: np.ndarray
    passages: np.ndarray
    places: np.ndarray


def choose_pool(
    table: ExampleTable,
    *,
    num_hard_negatives: int = 30,
    num_other_negatives: int = 30,
    max_questions: int = 10_000,
) -> Pool:
    """Returns the first questions with their first passages; nothing is drawn.

    Of several sets each has its share of the questions.

    Args:
        table: of held-out examples.
        num_hard_negatives: of each question; where it has none, other wrong passages.
        num_other_negatives: of each question.
        max_questions: of all.
    """
    examples = _first_of_each_set(table.set_offsets, max_questions)
    # Where no wrong passage looks right, others take their place, as in training.
    most = max(num_hard_negatives, num_other_negatives)
    has_hard = table.hard_negatives.counts(examples) > 0
    right = _first(table.positives, examples, np.ones_like(examples))
    every = np.concatenate(
        [
            right,
            _first(
                table.hard_negatives,
                examples,
                np.full_like(examples, num_hard_negatives),
            ),
            _first(
                table.negatives, examples, np.where(has_hard, num_other_negatives, most)
            ),
        ],
        axis=1,
    )
    passages = np.unique(every[every >= 0]).astype(np.int64)
    return Pool(examples, passages, np.searchsorted(passages, right[:, 0]))


def _first_of_each_set(set_offsets: np.ndarray, max_questions: int) -> np.ndarray:
    """Returns the first examples of each set, so many that all are at most so many."""
    sizes = np.diff(set_offsets)
    share = min(1.0, max_questions / sizes.sum())
    kept = np.floor(sizes * share + 1e-9).astype(np.int64)
    return np.concatenate(
        [
            np.arange(first, first + count)
            for first, count in zip(set_offsets, kept, strict=False)
        ]
    )


def _first(lists: RaggedRows, examples: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns the first rows of some lists, at most so many of each; -1 for no more."""
    counts = np.minimum(lists.counts(examples), limits)[:, None]
    places = np.arange(limits.max(initial=0))[None, :]
    return lists.pick(examples, np.where(places < counts, places, -1))


def ranks(
    queries: jax.Array,
    embeddings: jax.Array,
    places: jax.Array,
    *,
    num_rows: int,
    mesh: Mesh,
    block_rows: int = BLOCK_ROWS,
) -> np.ndarray:
    """Returns how many rows stand above each query's own, [n] int32 on the host.

    Equal scores go to the lower row. The scores [n, P] never exist whole.

    Args:
        queries: [n, D] float.
        embeddings: [P padded, D], rows split over `mesh`.
        places: [n] int, each query's own row.
        num_rows: P.
        mesh: that the rows are laid out on.
        block_rows: rows scored at a time on each device.
    """
    count = _build_count(mesh, block_rows)
    found = []
    for start in range(0, len(queries), _QUERIES_A_CALL):
        part = np.asarray(queries[start : start + _QUERIES_A_CALL], np.float32)
        missing = min(_QUERIES_A_CALL, len(queries)) - len(part)
        own = np.asarray(places[start : start + _QUERIES_A_CALL], np.int32)
        counted = count(
            np.pad(part, ((0, missing), (0, 0))),
            embeddings,
            np.pad(own, (0, missing)),
            np.int32(num_rows),
        )
        found.append(partitioning.to_host(counted)[: len(part)])
    return np.concatenate(found)


@functools.lru_cache(maxsize=16)
def _build_count(mesh: Mesh, block_rows: int):
    """Returns (queries, rows, own rows, number of rows) -> ranks [B], jitted once."""
    split, whole = PartitionSpec(ROW_AXES), PartitionSpec()

    @jax.jit
    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(whole, split, whole, whole),
        out_specs=whole,
        check_vma=False,  # Equal on every shard once summed, which only the sum shows.
    )
    def count(queries_BD, embeddings_SD, own_B, num_rows):
        own_BD = score_blocks.vectors_of(embeddings_SD, own_B)
        own_scores_B = jnp.sum(queries_BD * own_BD, axis=1)[:, None]

        def add_block(total_B, block):
            is_above = block.scores > own_scores_B
            is_tie = block.scores == own_scores_B
            rows_R, own_B1 = block.rows[None, :], own_B[:, None]
            is_above = is_above | (is_tie & (rows_R < own_B1))
            # The own score is summed in another order, so it may beat itself.
            is_above &= (rows_R != own_B1) & block.is_row[None, :]
            return total_B + is_above.sum(axis=1, dtype=jnp.int32)

        total_B = score_blocks.over_blocks(
            add_block,
            jnp.zeros(own_B.shape, jnp.int32),
            queries_BD,
            embeddings_SD,
            num_rows,
            block_rows=block_rows,
        )
        return jax.lax.psum(total_B, ROW_AXES)

    return count


def build_average_rank(
    table: ExampleTable,
    pool: Pool,
    encoder: DualEncoder,
    *,
    query_layout: Layout,
    passage_layout: Layout,
    mesh: Mesh,
    similarity: str = "dot",
    stream_tokens: bool = False,
    set_towers: Sequence[int | None] = (),
) -> Callable[[Params], float]:
    """Returns a function from parameters to the mean rank; 0 is best.

    Args:
        table: of held-out examples.
        pool: of it.
        encoder: embeds both sides.
        query_layout: of questions.
        passage_layout: of passages.
        mesh: of all devices.
        similarity: that the pool is ranked by, see `losses.contrastive`.
        stream_tokens: leave the pool's tokens on the host.
        set_towers: of each set of the table, the question tower; where there is one
            for all, nothing.
    """
    tokens = take_rows(table.passages, pool.passages)
    place = stream_rows if stream_tokens else place_rows
    refresher = Refresher(
        encode=encoder.encode_passage,
        rows=place(tokens, passage_layout, mesh),
        lengths=layout_lengths(passage_layout, tokens, np.arange(tokens.num_rows)),
        width=encoder.width,
        mesh=mesh,
        evidence_digest="",
        dtype="float32",
    )
    query_tokens = layout_rows(query_layout, table.questions, pool.examples)
    towers = None
    if encoder.query_towers:
        towers = np.repeat(set_towers, np.diff(table.set_offsets))[pool.examples]

    def average_rank(params: Params) -> float:
        embedded = refresh(refresher, params, step=0, generation=0)
        queries = encode_by_tower(encoder, params, query_tokens, towers, mesh)
        queries, passages = dot_product_vectors(
            queries, embedded.embeddings, similarity=similarity
        )
        found = ranks(
            np.asarray(queries),
            passages,
            pool.places,
            num_rows=tokens.num_rows,
            mesh=mesh,
        )
        return float(found.mean(dtype=np.float64))

    return average_rank
