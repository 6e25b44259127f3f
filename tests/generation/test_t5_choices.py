import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.generation import t5_choices
from art_jax.generation.tree import TreeRules
from art_jax.models import fid, t5

CONFIG = t5.T5Config(
    vocab_size=32,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype="float32",
)
QUESTIONS, CHOICES, K = 8, 5, 4


@functools.cache
def params():
    return jax.jit(t5.init_params, static_argnums=0)(CONFIG, jax.random.key(0))


def made_batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 20, (QUESTIONS, CHOICES, 4)).astype(np.int32)
    choices = 20 + np.stack([rng.permutation(12)[:CHOICES] for _ in range(QUESTIONS)])
    where = np.arange(CHOICES) < rng.integers(K - 1, CHOICES + 1, (QUESTIONS, 1))
    return tokens * where[..., None], choices.astype(np.int32), where


encode = jax.jit(fid.encode, static_argnums=1)


def pick(batch, rules):
    tokens, choices, where = batch
    encoded, mask = encode(params(), CONFIG, tokens)
    return t5_choices.pick(
        params(), CONFIG, encoded, mask, choices, where, k=K, rules=rules
    )


def pick_on(num_devices):
    mesh = partitioning.make_mesh(num_devices)
    split = partitioning.put_tree(made_batch(), partitioning.batch_sharding(mesh))
    return jax.device_get(pick(split, TreeRules(beta=0.5)))


picked_on_one = functools.cache(functools.partial(pick_on, 1))


@functools.partial(jax.jit, static_argnums=0)
def all_log_likelihoods(config, params, tokens, inputs, choices, where):
    """Without a cache: of each choice after each of the inputs, [B, T, C]."""
    encoded, mask = fid.encode(params, config, tokens)
    logits = fid.decode(params, config, encoded, mask, inputs)
    chosen = jnp.take_along_axis(logits, choices[:, None], axis=2)
    return jax.nn.log_softmax(jnp.where(where[:, None], chosen, -jnp.inf))


class Plain:
    """The recursive twin: a tree in plain Python over a decoder without a cache."""

    def __init__(self, batch, question):
        tokens, self.choices, self.where = (each[question, None] for each in batch)
        self.tokens, self.known = tokens, {}

    def after(self, path):
        if path not in self.known:
            inputs = np.zeros((1, K), np.int32)
            inputs[0, 1 : len(path) + 1] = self.choices[0, list(path)]
            values = all_log_likelihoods(
                CONFIG, params(), self.tokens, inputs, self.choices, self.where
            )[0, len(path)]
            self.known[path] = {
                choice: float(values[choice])
                for choice in np.flatnonzero(self.where).tolist()
                if choice not in path
            }
        return self.known[path]

    def tree(self, weigh):
        found, nodes, depth = [], {()}, 0
        while len(found) < min(K, self.where.sum()):
            _, child = max(
                (weigh(len(node) + 1) * value, (*node, choice))
                for node in nodes
                for choice, value in self.after(node).items()
                if (*node, choice) not in nodes
            )
            nodes.add(child)
            depth = max(depth, len(child))
            if child[-1] not in found:
                found.append(child[-1])
        return found, depth

    def sequence(self):
        path = ()
        for _ in range(min(K, self.where.sum())):
            values = self.after(path)
            path = (*path, max(values, key=values.get))
        return list(path), len(path)


def padded(found):
    return found + [-1] * (K - len(found))


@pytest.mark.parametrize("beta", [None, 2.0, -1.5])
def test_it_equals_a_plain_tree_without_a_cache(beta):
    batch = made_batch()
    # So many nodes that the bound is not met.
    rules = None if beta is None else TreeRules(beta=beta, max_nodes=60)
    found = pick(batch, rules)
    for question in range(QUESTIONS):
        plain = Plain(batch, question)
        if rules is None:
            want, depth = plain.sequence()
        else:
            want, depth = plain.tree(lambda y: ((5 + y) / 6) ** beta)
        assert found.choices[question].tolist() == padded(want)
        assert found.depth[question] == depth


@pytest.mark.parametrize("num_devices", [2, 8])
def test_any_number_of_devices_picks_the_same(num_devices):
    want, found = picked_on_one(), pick_on(num_devices)
    np.testing.assert_array_equal(found.choices, want.choices)
    np.testing.assert_array_equal(found.nodes, want.nodes)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5)
