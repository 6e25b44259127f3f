import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from art_jax import partitioning
from art_jax.checkpoints import t5x, tensors
from art_jax.errors import ConfigError
from art_jax.models import layers, t5
from art_jax.teacher import t5_scoring
from art_jax.teacher.t5_scoring import T5Teacher, score

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "t5x"


@functools.cache
def load(version="v1_1", params_dtype="f32"):
    folder = GOLDEN / f"{version}_{params_dtype}" / "checkpoint_1234"
    config, params = t5x.open_t5(folder, dtype="float32")
    return config, tensors.to_host(params)


@functools.cache
def one_layer():
    """A model that compiles fast, for what does not depend on the number of layers."""
    config, params = load()
    return dataclasses.replace(
        config, num_encoder_layers=1, num_decoder_layers=1
    ), params


def random_rows(seed, *shape):
    """Rows of random tokens, each with an EOS at a random place and padding after."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 272, shape)
    ends = rng.integers(1, shape[-1], shape[:-1])[..., None]
    places = np.arange(shape[-1])
    tokens = np.where(places == ends, 1, np.where(places > ends, 0, tokens))
    return tokens.astype(np.int32)


PASSAGES = random_rows(0, 5, 3, 7)
TARGETS = random_rows(1, 5, 4)


@functools.cache
def all_at_once():
    config, params = one_layer()
    return np.asarray(score(params, config, PASSAGES, TARGETS, chunk_size=15))


@pytest.mark.parametrize(
    ("version", "params_dtype", "batch"),
    [
        ("v1_1", "f32", "batch"),
        ("v1_0", "f32", "batch"),
        ("v1_1", "bf16", "batch_bf16params"),
        ("v1_1", "f32", "long"),
        ("v1_1_scan", "f32", "batch"),
        ("v1_1_scan", "bf16", "batch_bf16params"),
    ],
)
def test_mean_times_length_is_the_sum_that_t5x_returns(version, params_dtype, batch):
    config, params = load(version, params_dtype)
    golden = np.load(GOLDEN / f"{version}_{batch}.npz")
    targets = golden["decoder_target_tokens"]
    passages = golden["encoder_input_tokens"][:, None]
    means = score(params, config, passages, targets, chunk_size=8)
    lengths = (targets > 0).sum(axis=1)
    # t5x and transformers differ by 2e-6 in the score of a batch, by 1.2e-4 in that
    # of 180 tokens, on the same weights: 1e-6 a token.
    np.testing.assert_allclose(
        np.asarray(means)[:, 0], golden["scores"] / lengths, atol=1e-6
    )


@pytest.mark.parametrize("chunk_size", [1, 4, 14, 1000])
def test_the_chunk_size_changes_nothing(chunk_size, monkeypatch):
    config, params = one_layer()
    want = all_at_once()
    encoded_rows = []
    encode = t5_scoring.t5.encode

    def counting(params, config, tokens):
        encoded_rows.append(tokens.shape[0])
        return encode(params, config, tokens)

    monkeypatch.setattr(t5_scoring.t5, "encode", counting)
    got = score(params, config, PASSAGES, TARGETS, chunk_size=chunk_size)
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)
    (rows,) = encoded_rows  # one loop body, in which a passage is encoded once
    assert rows <= chunk_size


def test_one_call_equals_a_call_for_each_passage():
    config, params = one_layer()
    for query in range(2):
        for passage in range(3):
            alone = score(
                params,
                config,
                PASSAGES[query : query + 1, passage : passage + 1],
                TARGETS[query : query + 1],
                chunk_size=1,
            )
            want = all_at_once()[query, passage]
            np.testing.assert_allclose(np.asarray(alone), [[want]], atol=1e-6, rtol=0)


def test_padding_changes_nothing():
    config, params = one_layer()
    passages = np.pad(PASSAGES, ((0, 0), (0, 0), (0, 3)))
    targets = np.pad(TARGETS, ((0, 0), (0, 2)))
    padded = score(params, config, passages, targets, chunk_size=15)
    np.testing.assert_allclose(padded, all_at_once(), atol=1e-6, rtol=0)


def test_each_question_is_scored_with_its_own_passages():
    config, params = one_layer()
    order = np.array([3, 1, 4, 0, 2])
    got = score(params, config, PASSAGES[order], TARGETS[order], chunk_size=15)
    np.testing.assert_allclose(got, all_at_once()[order], atol=1e-6, rtol=0)
    assert np.ptp(all_at_once(), axis=1).min() > 0.01
    assert np.ptp(all_at_once(), axis=0).min() > 0.01


def test_slots_without_passage_and_questions_without_tokens_are_finite():
    config, params = one_layer()
    passages, targets = PASSAGES.copy(), TARGETS.copy()
    passages[0, 2] = 0
    targets[1] = 0
    got = np.asarray(score(params, config, passages, targets, chunk_size=15))
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[1], 0.0)
    np.testing.assert_allclose(got[0, :2], all_at_once()[0, :2], atol=1e-6, rtol=0)


def test_no_gradient_flows_into_the_teacher():
    config, params = one_layer()

    def loss(params):
        return jnp.sum(t5_scoring.score(params, config, PASSAGES, TARGETS, 15))

    grads = jax.jit(jax.grad(loss))(params)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_smaller_chunks_take_less_memory():
    config, params = one_layer()

    def temporary_bytes(chunk_size):
        compiled = score.lower(params, config, PASSAGES, TARGETS, chunk_size).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1) < temporary_bytes(15) / 4


def test_queries_spread_over_devices_are_scored_where_they_are():
    config, params = one_layer()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    rows = PASSAGES[:4], TARGETS[:4]
    spread_params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    spread_rows = jax.device_put(rows, spread)

    def compiled(params, rows):
        return score.lower(params, config, *rows, chunk_size=4).compile()

    one, four = compiled(params, rows), compiled(spread_params, spread_rows)
    got = four(spread_params, *spread_rows)
    np.testing.assert_allclose(got, all_at_once()[:4], atol=1e-6, rtol=0)
    share = four.cost_analysis()["flops"] / one.cost_analysis()["flops"]
    assert 0.25 <= share < 0.3


def test_the_teacher_scores_questions_given_passages():
    config, params = one_layer()
    teacher = T5Teacher(config, chunk_size=15)
    got = teacher.score(params, TARGETS, PASSAGES)
    np.testing.assert_allclose(got, all_at_once(), atol=1e-6, rtol=0)
    shapes = jax.eval_shape(teacher.init, jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(
        {
            **params,
            **{side: first_layer(params[side]) for side in ("encoder", "decoder")},
        }
    )


def first_layer(stack):
    return {name: leaf for name, leaf in stack.items() if name != "layers_1"}


@pytest.mark.parametrize("name", ["max_passage_tokens", "max_question_tokens"])
def test_rows_longer_than_the_teacher_reads_are_an_error(name):
    config, params = one_layer()
    teacher = T5Teacher(config, **{name: 3})
    with pytest.raises(ConfigError, match=f"T5Teacher.{name} is 3"):
        teacher.score(params, TARGETS, PASSAGES)


def test_a_chunk_of_nothing_is_an_error():
    with pytest.raises(ConfigError, match="at least 1"):
        T5Teacher(one_layer()[0], chunk_size=0)


@pytest.mark.parametrize("name", ["length_buckets", "question_buckets"])
def test_a_static_length_of_nothing_is_an_error(name):
    with pytest.raises(ConfigError, match=rf"T5Teacher.{name} is \(0, 8\)"):
        T5Teacher(one_layer()[0], **{name: [0, 8]})


# Which of five passages lies in each slot, and in the first three the same ones.
ROWS = np.array([[0, 1, 2], [0, 1, 2], [2, 1, 0], [3, 4, -1], [4, 0, 3]], np.int32)


def in_buckets(config, **changes):
    sizes = {"chunk_size": 4, "length_buckets": (4,), "question_buckets": (2,)}
    return T5Teacher(config, **{**sizes, **changes})


def in_one_bucket(config, **changes):
    return in_buckets(config, length_buckets=(), question_buckets=(), **changes)


def test_passages_read_once_in_buckets_score_as_the_plain_way():
    config, params = one_layer()
    # Waves of one chunk: four passages, then one.
    teacher = in_buckets(config, encoded_bytes=1)
    passages = PASSAGES.reshape(15, -1)[ROWS]
    got, done = teacher.score_counted(params, TARGETS, passages, ROWS)
    want = score(params, config, passages, TARGETS, chunk_size=15)
    want = np.where(ROWS >= 0, want, 0.0)
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)
    assert done.encoded.tolist() == [1, 1]  # five passages, not fourteen
    assert done.scored.shape == (2, 2)
    order = np.array([3, 1, 4, 0, 2])
    moved = teacher.score(params, TARGETS[order], passages[order], ROWS[order])
    np.testing.assert_allclose(moved, np.asarray(got)[order], atol=1e-6, rtol=0)


def test_scores_in_buckets_are_those_that_t5x_returns():
    config, params = load()
    golden = np.load(GOLDEN / "v1_1_batch.npz")
    targets = golden["decoder_target_tokens"]
    passages = golden["encoder_input_tokens"][:, None]
    teacher = in_buckets(config, question_buckets=())
    got = teacher.score(params, targets, passages)
    lengths = (targets > 0).sum(axis=1)
    np.testing.assert_allclose(
        np.asarray(got)[:, 0], golden["scores"] / lengths, atol=1e-6
    )


@pytest.mark.parametrize("version", ["v1_1", "v1_0"])
@pytest.mark.parametrize("positions", [1, 3, 9])
def test_likelihoods_of_some_positions_at_a_time_are_those_of_all(version, positions):
    config, params = load(version)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 4, 16)).astype(np.float32)
    targets = random_rows(2, 3, 4)
    targets[1] = 0
    got = t5_scoring.mean_log_likelihoods(
        params, config, hidden, targets, positions=positions
    )
    logits = np.asarray(t5.logits(params, config, hidden), np.float64)
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    logs = chosen - np.log(np.exp(logits).sum(axis=-1))
    where = targets > 0
    want = np.sum(logs * where, axis=1) / np.maximum(where.sum(axis=1), 1)
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)
    assert got[1] == 0.0


def test_logits_are_never_made_whole():
    config, params = one_layer()

    def floats_of_largest_array(logits_bytes):
        teacher = in_one_bucket(config, chunk_size=15, logits_bytes=logits_bytes)
        rows = np.arange(15, dtype=np.int32).reshape(5, 3)
        arguments = teacher, params, TARGETS, PASSAGES, rows
        program = t5_scoring._score_counted.lower(*arguments).compile().as_text()
        shapes = re.findall(r"f32\[([\d,]+)\]", program)
        return max(np.prod([int(size) for size in s.split(",")]) for s in shapes)

    position = 15 * config.vocab_size
    assert floats_of_largest_array(1 << 27) == 4 * position
    assert floats_of_largest_array(2 * 4 * position) == 2 * position


def test_no_gradient_flows_into_a_teacher_in_buckets():
    config, params = one_layer()
    teacher = in_one_bucket(config)
    embedding = params["token_embedder"]["embedding"]

    def loss(embedding):
        changed = {**params, "token_embedder": {"embedding": embedding}}
        return jnp.sum(teacher.score(changed, TARGETS, PASSAGES))

    assert not np.asarray(jax.grad(loss)(embedding)).any()


@pytest.mark.parametrize("num_devices", [4, 8])
def test_four_devices_hold_a_quarter_of_the_model_each_and_score_as_one(num_devices):
    config, params = one_layer()
    mesh = partitioning.make_mesh(num_devices, model_parallelism=4)
    shardings = jax.tree.map(
        lambda _, axes: partitioning.logical_sharding(axes, mesh),
        params,
        layers.param_axes(params),
    )
    spread_params = jax.tree.map(partitioning.put_global, params, shardings)
    batch = partitioning.put_tree(
        (TARGETS[:4], PASSAGES[:4], np.arange(12, dtype=np.int32).reshape(4, 3)),
        partitioning.batch_sharding(mesh),
    )
    compiled = t5_scoring._score_counted.lower(
        in_one_bucket(config), spread_params, *batch
    ).compile()
    got, _ = compiled(spread_params, *batch)
    np.testing.assert_allclose(got, all_at_once()[:4], atol=1e-6, rtol=0)
    # All but the scales of norms is split, and nothing is put together again.
    held = sum(
        leaf.addressable_shards[0].data.nbytes
        for leaf in jax.tree.leaves(spread_params)
    )
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert held < 0.26 * whole
    assert " all-gather(" not in compiled.as_text()
