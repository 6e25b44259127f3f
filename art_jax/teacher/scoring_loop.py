"""Scoring pairs of passage and question so that the device does no idle work.

What is idle: encoding a passage once more for a second question of the batch, reading
the padding of short rows, and slots that hold no passage. So passages are sorted by
length, cut into chunks, and each chunk is computed at one of a few static lengths,
chosen while the program runs; the number of chunks follows from how many passages are
distinct. One program does this for every batch.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from art_jax.partitioning import DATA_AXIS
from art_jax.teacher.worklist import (
    Worklist,
    make_worklist,
    row_lengths,
    static_lengths,
)

# [m, L] int32 -> [m, L, D], float: of tokens cut or padded to any static length.
EncodeFn = Callable[[jax.Array], jax.Array]
# (encoded [m, L, D], its tokens [m, L], targets [m, T]) -> [m] float32.
ScorePairsFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class LoopSizes:
    """What the loop's shapes are made of.

    chunk_size: passages encoded, and pairs scored, at a time, on each group's devices.
    passage_lengths: tokens a chunk of passages may be cut to, beside all.
    question_lengths: target tokens a chunk of pairs may be cut to, beside all.
    encoded_bytes: the most device memory that encoded passages take, but at least a
        chunk of them is held.
    """

    chunk_size: int
    passage_lengths: tuple[int, ...]
    question_lengths: tuple[int, ...]
    encoded_bytes: int


@flax.struct.dataclass
class WorkDone:
    """How many chunks were computed, by the static lengths they were cut to.

    encoded: [passage lengths] int32.
    scored: [passage lengths, question lengths] int32.
    """

    encoded: jax.Array
    scored: jax.Array


def score_slots(
    encode: EncodeFn,
    score_pairs: ScorePairsFn,
    passage_tokens: jax.Array,
    question_targets: jax.Array,
    passage_rows: jax.Array,
    sizes: LoopSizes,
) -> tuple[jax.Array, WorkDone]:
    """Returns the score of each slot, and what it took. For use under jit.

    Where the arrays are on a mesh with a data axis, each of its places is a group of
    B / places questions, whose passages stay there; all groups take the same steps,
    at the length that the longest passage of them all needs, so that programs of many
    devices agree. Elsewhere there is one group.

    Args:
        encode: the model's encoder.
        score_pairs: the score of each pair, independent of its neighbours.
        passage_tokens: [B, K, L] int32; 0 is padding, at the end.
        question_targets: [B, T] int32; 0 is padding, at the end.
        passage_rows: [B, K] int32; slots of one group with equal rows hold equal
            tokens; -1 where there is no passage.
        sizes: chunks, static lengths and bounds.

    Returns:
        [B, K] float32, 0 where there is no passage; and the work done.
    """
    batch = _make_batch(
        encode, score_pairs, passage_tokens, question_targets, passage_rows, sizes
    )
    scores, done = _run(batch)
    return scores.reshape(passage_rows.shape), done


def num_groups(question_targets: jax.Array, *others: jax.Array) -> int:
    """Into how many groups `score_slots` parts the questions of these arrays."""
    mesh = _find_mesh(question_targets, *others)
    places = 1 if mesh is None else mesh.shape[DATA_AXIS]
    # A few questions, such as those of one user, stay together on every device.
    return places if len(question_targets) % places == 0 else 1


@dataclasses.dataclass(frozen=True)
class _Batch:
    """What the loop reads and never changes.

    encode, score_pairs: the model.
    mesh: that the arrays are on; None: none.
    tokens: [G, n, L] int32, of each slot's passage.
    targets: [G, q, T] int32, of each question.
    slots_each: K = n / q, slots of a question, which lie side by side.
    work: of these slots.
    chunk_size: c, passages or pairs at a time in each group.
    wave_size: w, passages held at a time in each group; a multiple of c.
    encoded: one encoded passage, [1, L, D], its shape and dtype.
    passage_lengths, question_lengths: the static ones.
    """

    encode: EncodeFn
    score_pairs: ScorePairsFn
    mesh: AbstractMesh | None
    tokens: jax.Array
    targets: jax.Array
    slots_each: int
    work: Worklist
    chunk_size: int
    wave_size: int
    encoded: jax.ShapeDtypeStruct
    passage_lengths: tuple[int, ...]
    question_lengths: tuple[int, ...]


def _make_batch(
    encode: EncodeFn,
    score_pairs: ScorePairsFn,
    passage_tokens: jax.Array,
    question_targets: jax.Array,
    passage_rows: jax.Array,
    sizes: LoopSizes,
) -> _Batch:
    """The arguments of `score_slots` by groups, and the work they make."""
    arrays = question_targets, passage_tokens, passage_rows
    mesh, groups = _find_mesh(*arrays), num_groups(*arrays)

    def group(array: jax.Array) -> jax.Array:
        return _spread(array.reshape(groups, -1, *array.shape[2:]), mesh)

    tokens, rows = group(passage_tokens), group(passage_rows)
    targets = group(question_targets[:, None])
    slots_each = passage_rows.shape[1]
    _, num_slots, max_tokens = tokens.shape
    chunk_size = min(sizes.chunk_size, num_slots)
    row = jax.ShapeDtypeStruct((1, max_tokens), jnp.int32)
    encoded = jax.eval_shape(encode, row)
    chunk_bytes = chunk_size * encoded.size * encoded.dtype.itemsize
    chunks = min(
        max(1, sizes.encoded_bytes // chunk_bytes), -(-num_slots // chunk_size)
    )
    question_lengths = static_lengths(targets.shape[-1], sizes.question_lengths)
    classes = _place_of(row_lengths(targets), question_lengths)
    return _Batch(
        encode=encode,
        score_pairs=score_pairs,
        mesh=mesh,
        tokens=tokens,
        targets=targets,
        slots_each=slots_each,
        work=make_worklist(
            rows,
            row_lengths(tokens),
            jnp.repeat(classes, slots_each, axis=1),
            wave_size=chunks * chunk_size,
        ),
        chunk_size=chunk_size,
        wave_size=chunks * chunk_size,
        encoded=encoded,
        passage_lengths=static_lengths(max_tokens, sizes.passage_lengths),
        question_lengths=question_lengths,
    )


def _run(batch: _Batch) -> tuple[jax.Array, WorkDone]:
    """Encodes each wave's chunks of passages, then scores its chunks of pairs."""
    groups, num_slots, _ = batch.tokens.shape
    lengths = len(batch.passage_lengths), len(batch.question_lengths)
    shape = (groups, batch.wave_size, *batch.encoded.shape[1:])
    held = _spread(jnp.zeros(shape, batch.encoded.dtype), batch.mesh)
    scores = _spread(jnp.zeros((groups, num_slots), jnp.float32), batch.mesh)
    done = WorkDone(jnp.zeros(lengths[:1], jnp.int32), jnp.zeros(lengths, jnp.int32))

    def num_chunks(counts: jax.Array) -> jax.Array:
        return -(-jnp.max(counts) // batch.chunk_size)

    def run_wave(wave: jax.Array, state):
        held, scores, done = state
        first = wave * batch.wave_size
        starts = jnp.take(batch.work.wave_starts, wave, axis=1)
        ends = jnp.take(batch.work.wave_starts, wave + 1, axis=1)
        num_passages = jnp.clip(batch.work.num_passages - first, 0, batch.wave_size)

        def encode(chunk: jax.Array, state):
            held, done = state
            start = chunk * batch.chunk_size
            encoded, length = _encode_chunk(batch, first + start)
            held = jax.lax.dynamic_update_slice_in_dim(held, encoded, start, axis=1)
            done = done.replace(encoded=done.encoded.at[length].add(1))
            return _spread(held, batch.mesh), done

        def score(chunk: jax.Array, state):
            scores, done = state
            places = starts + chunk * batch.chunk_size
            slots, values, lengths = _score_chunk(batch, held, first, places, ends)
            scores = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(
                scores, slots, values
            )
            done = done.replace(scored=done.scored.at[lengths].add(1))
            return _spread(scores, batch.mesh), done

        state = jax.lax.fori_loop(0, num_chunks(num_passages), encode, (held, done))
        held, done = state
        state = jax.lax.fori_loop(0, num_chunks(ends - starts), score, (scores, done))
        return held, *state

    num_waves = -(-jnp.max(batch.work.num_passages) // batch.wave_size)
    _, *results = jax.lax.fori_loop(0, num_waves, run_wave, (held, scores, done))
    return tuple(results)


def _encode_chunk(batch: _Batch, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Encodes the passages from place `start` on.

    Returns:
        [G, c, L, D], and which of the static lengths it was computed at; behind that
        length, zeros.
    """
    places = start + jnp.arange(batch.chunk_size, dtype=jnp.int32)
    is_passage = places[None] < batch.work.num_passages[:, None]
    slots = _take(batch.work.passages, jnp.broadcast_to(places, is_passage.shape))
    tokens = _tokens_of(batch, slots, is_passage)
    length = _place_of(jnp.max(row_lengths(tokens)), batch.passage_lengths)

    def encode_at(static_length: int):
        def encode(tokens: jax.Array) -> jax.Array:
            encoded = batch.encode(_flat(tokens[..., :static_length]))
            encoded = encoded.reshape(*tokens.shape[:2], *encoded.shape[1:])
            rest = tokens.shape[-1] - static_length
            return jnp.pad(encoded, ((0, 0), (0, 0), (0, rest), (0, 0)))

        return encode

    branches = [encode_at(static_length) for static_length in batch.passage_lengths]
    return jax.lax.switch(length, branches, tokens), length


def _score_chunk(
    batch: _Batch,
    held: jax.Array,
    first: jax.Array,
    starts: jax.Array,
    ends: jax.Array,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """Scores the pairs from the places `starts` on, up to `ends`, each [G].

    Args:
        batch: the loop's.
        held: [G, w, L, D], the encoded passages from place `first` on.
        first: [] int32.
        starts: of this chunk's pairs.
        ends: of this wave's pairs.

    Returns:
        The pairs' slots, [G, c], n where there is none; their scores, [G, c]; and
        which of the static lengths of passages and questions these were computed at.
    """
    places = starts[:, None] + jnp.arange(batch.chunk_size, dtype=jnp.int32)[None]
    is_pair = places < ends[:, None]
    slots = _take(batch.work.pairs, places)
    tokens = _tokens_of(batch, slots, is_pair)
    targets = _take(batch.targets, slots // batch.slots_each)
    targets = _spread(jnp.where(is_pair[..., None], targets, 0), batch.mesh)
    held_places = _take(batch.work.pair_passages, places) - first
    lengths = (
        _place_of(jnp.max(row_lengths(tokens)), batch.passage_lengths),
        _place_of(jnp.max(row_lengths(targets)), batch.question_lengths),
    )

    def score_at(passage_length: int, question_length: int):
        def score(held, held_places, tokens, targets) -> jax.Array:
            encoded = _take(held, held_places)[:, :, :passage_length]
            scores = batch.score_pairs(
                _flat(_spread(encoded, batch.mesh)),
                _flat(tokens[..., :passage_length]),
                _flat(targets[..., :question_length]),
            )
            return scores.reshape(held_places.shape)

        return score

    branches = [
        score_at(passage_length, question_length)
        for passage_length in batch.passage_lengths
        for question_length in batch.question_lengths
    ]
    branch = lengths[0] * len(batch.question_lengths) + lengths[1]
    scores = jax.lax.switch(branch, branches, held, held_places, tokens, targets)
    slots = jnp.where(is_pair, slots, batch.tokens.shape[1])
    return slots, scores, lengths


def _tokens_of(batch: _Batch, slots: jax.Array, where: jax.Array) -> jax.Array:
    """Tokens of some slots, [G, c, L]; padding alone where `where` is False."""
    tokens = _take(batch.tokens, slots)
    return _spread(jnp.where(where[..., None], tokens, 0), batch.mesh)


def _find_mesh(*arrays: jax.Array) -> AbstractMesh | None:
    """The mesh that arrays are on, also while they are traced; None: none."""
    for array in arrays:
        mesh = jax.typeof(array).sharding.mesh
        if DATA_AXIS in mesh.shape:
            return mesh
    return None


def _spread(array: jax.Array, mesh: AbstractMesh | None) -> jax.Array:
    """An array whose first axis is of groups, each where its questions are."""
    if mesh is None or array.shape[0] != mesh.shape[DATA_AXIS]:
        return array
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return jax.lax.with_sharding_constraint(array, sharding)


def _place_of(lengths: jax.Array, static_lengths: tuple[int, ...]) -> jax.Array:
    """The first of `static_lengths` that holds each length."""
    places = jnp.searchsorted(jnp.array(static_lengths, jnp.int32), lengths)
    return places.astype(jnp.int32)


def _take(table: jax.Array, places: jax.Array) -> jax.Array:
    """Of each group the rows at some places: [G, n, ...] and [G, m] to [G, m, ...].

    A place beyond the end gives the last row.
    """
    return jax.vmap(lambda table, at: table.at[at].get(mode="clip"))(table, places)


def _flat(array: jax.Array) -> jax.Array:
    """[G, m, ...] as [G * m, ...]."""
    return array.reshape(-1, *array.shape[2:])
