"""The gradient of a loss of the whole batch, chunk by chunk, dropout replayed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.losses import contrastive
from art_jax.training import chunks, grad_cache, update

WIDTH, FEATURES = 6, 5


def embed(params, batch, resources, key):
    """Two towers of one layer each; half of what they give is dropped."""

    def tower(name, inputs):
        return jnp.tanh(jnp.einsum("...i,ij->...j", inputs, params[name]))

    queries, passages = tower("query", batch["x"]), tower("passage", batch["y"])
    kept = jax.random.bernoulli(key, 0.5, (len(queries), 4, WIDTH)).astype("float32")
    return 2 * queries * kept[:, 0], 2 * passages * kept[:, 1:]


def batch_loss(embeddings, batch, resources):
    queries, passages = embeddings
    scores = contrastive.similarity_scores(queries, passages.reshape(-1, WIDTH))
    losses = contrastive.nll(scores * resources)
    return losses.mean(), {"accuracy": contrastive.is_best(scores).mean()}


@pytest.fixture
def quick(tiny):
    with tiny.quick_compilation():
        yield


def draw_inputs(seed):
    rng = np.random.default_rng(seed)
    batch = {
        "x": rng.normal(size=(16, FEATURES)).astype(np.float32),
        "y": rng.normal(size=(16, 3, FEATURES)).astype(np.float32),
    }
    params = {
        name: rng.normal(size=(FEATURES, WIDTH)).astype(np.float32)
        for name in ("query", "passage")
    }
    return params, batch


@pytest.fixture
def inputs(mesh):
    params, batch = draw_inputs(0)
    return (
        partitioning.put_tree(params, partitioning.replicated(mesh)),
        partitioning.put_tree(batch, partitioning.batch_sharding(mesh)),
    )


def plain_loss(params, batch, key, num_chunks):
    """The loss written out, each chunk of the batch with its own dropout."""
    embeddings = chunks.map_chunks(
        lambda chunk, key: embed(params, chunk, None, key),
        batch,
        key,
        num_chunks=num_chunks,
    )
    return batch_loss(embeddings, batch, 3.0)


@pytest.mark.usefixtures("quick")
def test_equals_the_plain_gradient_on_any_mesh(inputs):
    params, batch = inputs
    num_chunks = 2
    key = jax.random.key(5)
    prepare, loss = grad_cache.build_loss(embed, batch_loss, num_chunks=num_chunks)
    optimizer = optax.sgd(1.0)
    step = update.make_update(loss, optimizer, prepare=prepare, num_chunks=num_chunks)
    before = jax.device_get(params)
    state, metrics = step(update.init_state(params, optimizer), batch, 3.0, key)

    plain = jax.jit(
        jax.value_and_grad(
            functools.partial(plain_loss, num_chunks=num_chunks), has_aux=True
        )
    )
    step_key = jax.random.fold_in(key, 0)
    (want_loss, want), grads = plain(before, batch, step_key)
    np.testing.assert_allclose(metrics["loss"], want_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], want["accuracy"], rtol=1e-6)
    for name, grad in grads.items():
        assert np.abs(grad).max() > 0.1
        # Differences of parameters up to 2, and sums of 64 terms.
        got = before[name] - np.asarray(state.params[name])
        np.testing.assert_allclose(got, grad, atol=3e-6)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_chunks", [1, 4])
def test_equals_the_plain_gradient_in_any_number_of_chunks(num_chunks):
    params, batch = draw_inputs(1)
    key = jax.random.key(2)
    prepare, loss = grad_cache.build_loss(embed, batch_loss, num_chunks=num_chunks)

    @jax.jit
    def chunked(params):
        prepared = batch if prepare is None else prepare(params, batch, 3.0, key)
        grad_fn = jax.value_and_grad(loss, has_aux=True)
        return chunks.accumulate(
            grad_fn, params, prepared, 3.0, key, num_chunks=num_chunks
        )

    plain = jax.value_and_grad(
        functools.partial(plain_loss, num_chunks=num_chunks), has_aux=True
    )
    (got_loss, _), got = chunked(params)
    (want_loss, _), want = jax.jit(plain)(params, batch, key)
    np.testing.assert_allclose(got_loss, want_loss, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=3e-6), got, want)


def test_a_frozen_side_is_not_embedded_again():
    def embed_frozen(params, batch, resources, key):
        queries = jnp.einsum("bi,ij->bj", batch["x"], params["query"])
        passages = jnp.einsum("bpi,ij->bpj", batch["y"], params["passage"])
        return queries, jax.lax.stop_gradient(passages)

    prepare, loss = grad_cache.build_loss(embed_frozen, batch_loss, num_chunks=2)
    params, batch = draw_inputs(1)
    prepared = jax.jit(prepare)(params, batch, 3.0, jax.random.key(0))
    chunk = jax.tree.map(lambda leaf: leaf[::2], prepared)
    gradient = jax.jit(jax.grad(lambda p, c: loss(p, c, 3.0, jax.random.key(0))[0]))
    grads = gradient(params, chunk)
    assert np.abs(grads["query"]).max() > 0
    assert not np.asarray(grads["passage"]).any()
    compiled = gradient.lower(params, chunk).compile().as_text()
    assert compiled.count(" dot(") <= 1  # of the queries, backward


def test_a_batch_of_1024_takes_the_memory_of_32():
    width, hidden = 16, 256

    def deep(params, batch, resources, key):
        states = jnp.einsum("bi,ij->bj", batch["x"], params["in"])
        for _ in range(8):
            states = jnp.tanh(jnp.einsum("bj,jk->bk", states, params["hidden"]))
        return jnp.einsum("bj,jk->bk", states, params["out"])

    def pairs_loss(vectors, batch, resources):
        return contrastive.in_batch_nll(vectors, vectors[::-1]).mean(), {}

    shapes = {
        "in": (width, hidden),
        "hidden": (hidden, hidden),
        "out": (hidden, width),
    }
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()
    }
    optimizer = optax.sgd(1.0)
    state = jax.eval_shape(lambda p: update.init_state(p, optimizer), params)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def temporary_bytes(batch_size, num_chunks):
        batch = {"x": jax.ShapeDtypeStruct((batch_size, width), jnp.float32)}
        prepare, loss = grad_cache.build_loss(deep, pairs_loss, num_chunks=num_chunks)
        step = update.make_update(
            loss, optimizer, prepare=prepare, num_chunks=num_chunks
        )
        compiled = step.lower(state, batch, None, key).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 1024 * 1024 * 4
    small = temporary_bytes(32, 1)
    # The whole batch keeps nine layers of 1,024 rows of 256 numbers; chunks do not.
    # What the batch adds is its scores, their gradient and its embeddings.
    assert temporary_bytes(1024, 32) < small + 4 * scores
    assert temporary_bytes(1024, 1) > small + 8 * 1024 * hidden * 4
