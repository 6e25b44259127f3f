"""Operations and seconds by hand, and beside those of the real compiled update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.index.search_options import SearchOptions
from art_jax.methods.costs import work
from art_jax.methods.costs.work import Work
from art_jax.models import flops, t5
from art_jax.models.collectives import sent_bytes
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher

T5 = t5.T5Config(
    vocab_size=32,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype="float32",
)
TEACHER = T5Teacher(
    T5,
    chunk_size=8,
    max_passage_tokens=16,
    max_question_tokens=6,
    length_buckets=(4, 8),
    question_buckets=(3,),
)


def test_products_and_memory_overlap_and_links_do_not(cluster):
    # 100 flops, 10 bytes of memory and 1 byte over links a second.
    one = cluster()
    assert Work(flops=300).seconds(one) == 3
    assert Work(flops=300, dtype="float32").seconds(one) == 6
    assert Work(flops=300, memory_bytes=20).seconds(one) == 3
    assert Work(flops=300, memory_bytes=50, link_bytes=2).seconds(one) == 5 + 2


def test_shares_of_the_data_sheet_divide(cluster):
    half = dataclasses.replace(cluster(), matmul_share=0.5, bandwidth_share=0.25)
    assert Work(flops=300).seconds(half) == 6
    assert Work(memory_bytes=50).seconds(half) == 20
    assert Work(link_bytes=2).seconds(half) == 8


def test_a_ring_sends_all_but_its_own_part():
    assert work.scatter_bytes(1, 100) == work.all_reduce_bytes(1, 100) == 0
    assert work.scatter_bytes(4, 100) == 75
    assert work.all_reduce_bytes(4, 100) == 150


# A token of the encoder in conftest.py: four kernels of 4 x 4 and two of 4 x 8.
KERNELS = 4 * 4 * 4 + 2 * 4 * 8


def tower(length):
    return 2 * length * (KERNELS + 2 * length * 4)


def test_a_tower_by_hand(encoder):
    assert work.tower_flops(encoder, 2, 5) == 2 * tower(5)
    weighted = dataclasses.replace(encoder, pooling="weighted_mean", projection_dim=3)
    pooled = 2 * 2 * 5 * 4  # a weight of each state, and their sum
    assert work.tower_flops(weighted, 2, 5) == 2 * (tower(5) + pooled + 2 * 4 * 3)


def test_a_step_of_pairs_by_hand(run, stage, cluster):
    parts = work.step_work(run, stage, cluster(2))
    assert list(parts) == ["learn questions", "learn passages", "update"]
    # Four pairs a device; backward is twice forward; eight products a question.
    assert parts["learn questions"].flops == 3 * 4 * tower(3)
    assert parts["learn passages"].flops == 3 * (4 * tower(5) + 2 * 4 * 8 * 4)
    # Towers: embeddings 10 + 6 of 4, kernels and their biases, three LayerNorms.
    params = 2 * (16 * 4 + KERNELS + (4 * 4 + 8 + 4) + 3 * 2 * 4)
    assert parts["update"].memory_bytes == 8 * 4 * params
    assert parts["update"].link_bytes == 4 * params
    assert {part.dtype for name, part in parts.items() if name != "update"} == {
        "float32"
    }


def test_a_frozen_tower_only_reads(run, stage, cluster):
    frozen = dataclasses.replace(stage, frozen=("query",))
    parts = work.step_work(run, frozen, cluster(1))
    assert parts["learn questions"].flops == 8 * tower(3)


def test_a_loss_of_the_whole_batch_in_chunks_embeds_once_more(run, stage, cluster):
    whole = dataclasses.replace(stage, is_whole_batch=True)
    assert work.step_work(run, whole, cluster(1)) == work.step_work(
        run, stage, cluster(1)
    )
    parts = work.step_work(
        run, dataclasses.replace(whole, num_chunks=2, frozen=("query",)), cluster(1)
    )
    assert parts["learn questions"].flops == 8 * tower(3)  # not again
    assert parts["learn passages"].flops == 4 * 8 * tower(5) + 3 * 2 * 8 * 8 * 4


def test_every_row_as_a_negative_reads_the_table_twice(run, stage, cluster):
    full = dataclasses.replace(
        stage,
        num_passages=0,
        num_products=30,
        frozen=("passage",),
        is_whole_batch=True,
        scores_table=True,
    )
    parts = work.step_work(run, full, cluster(2))
    assert parts["learn passages"].flops == 3 * 2 * 4 * 30 * 4
    # 15 rows of 4 bfloat16 on each device.
    assert parts["learn passages"].memory_bytes == 2 * 15 * 4 * 2


def art_stage(stage, **changes):
    changes = {"num_passages": 4, "num_products": 4, "teacher": TEACHER, **changes}
    return dataclasses.replace(stage, **changes)


def test_search_and_gather_by_hand(run, stage, cluster):
    searched = art_stage(stage, search=SearchOptions("plain"))
    parts = work.step_work(run, searched, cluster(2))
    assert parts["embed questions"].flops == 4 * tower(3)
    # All eight questions by the 15 rows of a device; bfloat16 rows of 4; scores
    # written and read.
    assert parts["search"].flops == 2 * 8 * 15 * 4
    assert parts["search"].memory_bytes == 15 * 4 * 2 + 2 * 4 * 8 * 15
    # Half of the questions' vectors come from the other device, and half of the
    # candidates, four a question and device, of eight bytes.
    assert parts["search"].link_bytes == 8 * 4 * 4 / 2 + 8 * 4 * 2 * 8 / 2
    tokens = 4 * 8 * 4 * (5 + 16)
    assert parts["gather tokens"].link_bytes == tokens / 2
    streamed = dataclasses.replace(run, stream_tokens=True)
    assert work.step_work(streamed, searched, cluster(2))["gather tokens"] == Work()


def test_a_teacher_reads_rows_at_the_lengths_of_buckets(run, stage, cluster):
    lengths = np.array([3, 4, 5, 20])
    got, question = work.scored_lengths(TEACHER, lengths, 3)
    assert got.tolist() == [4, 4, 8, 16]
    assert question == 3
    assert work.scored_lengths(TEACHER, lengths, 4)[1] == 6

    evidence = dataclasses.replace(run.evidence, teacher_lengths=lengths)
    run = dataclasses.replace(run, evidence=evidence)
    scored = art_stage(stage, question_tokens=3)
    parts = work.step_work(run, scored, cluster(1))
    slots = 8 * 4
    encoded = [flops.t5_encoder_flops(T5, 1, length) for length in (4, 4, 8, 16)]
    assert parts["teacher encodes"].flops == slots * sum(encoded) / 4
    decoded = [flops.t5_decoder_flops(T5, 1, 3, length) for length in (4, 4, 8, 16)]
    assert parts["teacher scores"].flops == slots * sum(decoded) / 4
    # 32 slots in chunks of 8 read the weights four times.
    encoder = 4 * (4 * 8 * 8 + 3 * 8 * 16 + 3 * 8 + 2 * 32)
    assert parts["teacher encodes"].memory_bytes == 4 * encoder / 2  # bfloat16
    assert parts["teacher encodes"].link_bytes == 0


def test_a_split_teacher_does_its_share_and_talks(run, stage, cluster):
    scored = art_stage(stage)
    one = work.step_work(run, scored, cluster(1))["teacher encodes"]
    two = work.step_work(run, scored, cluster(2, 2))["teacher encodes"]
    assert two.flops == one.flops / 2
    # Attention's and MLP's output of every token, float32, to half of which a device
    # adds and half of which it sends.
    assert two.link_bytes == 2 * (8 * 4 * 4) * 8 * 4


def test_words_as_a_teacher_take_no_product(run, stage, cluster):
    parts = work.step_work(
        run, art_stage(stage, teacher=QueryLikelihoodTeacher()), cluster()
    )
    assert parts["teacher"].flops == 0


def test_a_refresh_by_hand(run, cluster):
    # Thirty rows of 4 tokens, 15 on each of two devices; rows of the table written.
    got = work.refresh_work(run, cluster(2))
    assert got.flops == 15 * tower(4)
    assert got.memory_bytes == 15 * 4 * 2


def test_a_rolling_refresh_is_a_part_of_every_step(run, stage, cluster):
    rolling = dataclasses.replace(stage, rolling_refresh=True)
    part = work.step_work(run, rolling, cluster(1))["refresh a slice"]
    assert part.flops == work.refresh_work(run, cluster(1)).flops / 5


@pytest.mark.parametrize(
    ("num_chunks", "changes"),
    [
        (1, {}),
        (2, {"remat": True, "num_layers": 2}),
        (1, {"remat": True, "pre_layer_norm": False, "embedding_layer_norm": True}),
    ],
    ids=["plain", "chunks-remat", "post-remat"],
)
def test_the_flops_of_the_real_update(real_run, cluster, num_chunks, changes):
    real = real_run(partitioning.make_mesh(1), num_chunks, **changes)
    traced = flops.traced_flops(real.update, *real.arguments)
    parts = work.step_work(real.sizes, real.sizes.stages[0], cluster(1))
    predicted = sum(part.flops for part in parts.values())
    assert predicted == pytest.approx(traced, rel=0.01)


def test_eight_devices_share_the_flops_of_the_real_update(real_run, cluster):
    real = real_run(partitioning.make_mesh(8))
    traced = flops.traced_flops(real.update, *real.arguments)
    parts = work.step_work(real.sizes, real.sizes.stages[0], cluster(8))
    # Traced is the whole batch, but the search of one device.
    others = sum(part.flops for name, part in parts.items() if name != "search")
    assert 8 * others + parts["search"].flops == pytest.approx(traced, rel=0.01)


def test_devices_send_what_the_real_update_sends(real_run, cluster):
    real = real_run(partitioning.make_mesh(4))
    program = real.update.lower(*real.arguments).compile().as_text()
    parts = work.step_work(real.sizes, real.sizes.stages[0], cluster(4))
    predicted = sum(part.link_bytes for part in parts.values())
    assert predicted == pytest.approx(sum(sent_bytes(program).values()), rel=0.05)


def test_a_teachers_flops_are_those_of_the_chunks_it_computes(run, stage, cluster):
    teacher = dataclasses.replace(TEACHER, length_buckets=(8,), question_buckets=())
    lengths = np.array([3, 9, 5, 12] * 8)
    tokens = np.where(np.arange(16) < lengths[:, None], 5, 0).reshape(8, 4, 16)
    shapes = t5.param_shapes(T5)
    _, done = teacher.score_counted(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes),
        jnp.full((8, 6), 7, jnp.int32),
        jnp.asarray(tokens, jnp.int32),
        jnp.arange(32, dtype=jnp.int32).reshape(8, 4),
    )
    real = sum(
        8 * int(chunks) * flops.t5_encoder_flops(T5, 1, length)
        for chunks, length in zip(done.encoded, (8, 16), strict=True)
    )
    evidence = dataclasses.replace(run.evidence, teacher_lengths=lengths)
    run = dataclasses.replace(run, evidence=evidence)
    scored = art_stage(stage, teacher=teacher, question_tokens=6)
    parts = work.step_work(run, scored, cluster())
    assert parts["teacher encodes"].flops == real
