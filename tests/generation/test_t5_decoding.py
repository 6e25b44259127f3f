import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from art_jax import partitioning
from art_jax.checkpoints import huggingface, t5x, tensors
from art_jax.generation import t5_decoding
from art_jax.generation.beam import BeamRules, transformers_rules
from art_jax.models import layers, t5

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "hf" / "t5_generation.json").read_text())["cases"]


@functools.cache
def load(form, name):
    if form == "t5x":
        folder = GOLDEN / "t5x" / f"{name}_f32" / "checkpoint_1234"
        config, params = t5x.open_t5(folder, dtype="float32")
    else:
        config, params = huggingface.open_t5(GOLDEN / "hf" / name, dtype="float32")
    return config, tensors.to_host(params)


@functools.cache
def encoded(form, name):
    config, params = load(form, name)
    key = "encoder_input_tokens" if form == "t5x" else "input_ids"
    stem = f"{name}_batch" if form == "t5x" else name
    tokens = np.load(GOLDEN / form / f"{stem}.npz")[key].astype(np.int32)
    return jax.jit(t5.encode, static_argnums=1)(params, config, tokens), tokens > 0


def generate(form, name, **arguments):
    config, params = load(form, name)
    return t5_decoding.generate(params, config, *encoded(form, name), **arguments)


def test_beams_and_greedy_choice_are_those_of_t5x():
    golden = np.load(GOLDEN / "t5x" / "v1_1_batch.npz")
    greedy = generate("t5x", "v1_1", max_tokens=8)
    np.testing.assert_array_equal(greedy.tokens, golden["greedy_decodes"])
    # T5X's greedy search gives no score; its beam search of one is the same here.
    np.testing.assert_allclose(greedy.scores, golden["beam1_scores"][:, 0], atol=1e-4)
    found = generate("t5x", "v1_1", max_tokens=8, rules=BeamRules(4))
    # T5X puts the best last, and none of these has an end: no penalty for length.
    want = golden["beam4_decodes"][:, ::-1]
    np.testing.assert_array_equal(found.tokens, want)
    np.testing.assert_allclose(
        found.log_likelihoods, golden["beam4_scores"][:, ::-1], atol=1e-4
    )


@pytest.mark.parametrize("place", range(len(CASES)))
def test_sequences_and_scores_are_those_of_transformers(place):
    case = CASES[place]
    rules = None
    if case["beams"] > 1:
        rules = transformers_rules(
            case["beams"], case["length_penalty"], case["early_stopping"]
        )
    found = generate(
        "hf",
        case["model"],
        max_tokens=case["max_tokens"],
        rules=rules,
        eos_id=case["eos_id"],
    )
    want = np.array(case["tokens"])
    want = np.pad(want, ((0, 0), (0, 0), (0, case["max_tokens"] - want.shape[-1])))
    tokens = found.tokens if rules else found.tokens[:, None]
    np.testing.assert_array_equal(tokens, want)
    if rules:
        np.testing.assert_allclose(found.scores, case["scores"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("devices", "model"), [(2, 1), (8, 1), (4, 2)])
def test_any_number_of_devices_decodes_the_same(devices, model):
    mesh = partitioning.make_mesh(devices, model_parallelism=model)
    config, params = load("hf", "t5_v1_1")
    config = dataclasses.replace(config, num_decoder_layers=1)
    memory, mask = encoded("hf", "t5_v1_1")
    # Eight questions, whose results differ.
    memory, mask = np.tile(memory, (2, 1, 1)), np.tile(mask, (2, 1))
    mask[4:, 1] = False
    arguments = {"max_tokens": 4, "rules": BeamRules(4), "eos_id": 83}
    want = t5_decoding.generate(params, config, memory, mask, **arguments)
    shardings = jax.tree.map(
        lambda axes: partitioning.logical_sharding(axes, mesh),
        layers.param_axes(params),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )
    placed = jax.device_put(params, shardings)
    batch = jax.device_put((memory, mask), partitioning.batch_sharding(mesh))
    found = t5_decoding.generate(placed, config, *batch, **arguments)
    np.testing.assert_array_equal(found.tokens, want.tokens)
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-5)
    shard = found.tokens.addressable_shards[0].data.shape
    assert shard == (8 * model // devices, 4, 4)


def test_one_program_serves_every_batch_of_a_shape():
    config, params = load("hf", "t5_v1_1")
    memory, mask = encoded("hf", "t5_v1_1")
    sizes = []
    for eos_id in (4, 5, 6):
        other = jnp.asarray(np.asarray(memory) * eos_id)
        t5_decoding.generate(params, config, other, mask, max_tokens=3, eos_id=eos_id)
        sizes.append(t5_decoding.generate._cache_size())
    assert sizes[1:] == sizes[:1] * 2
