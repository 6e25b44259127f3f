"""Bytes by hand, and beside what XLA allots a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from art_jax.models.memory import live_bytes


def floats(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_a_product_is_stored_and_what_is_made_of_it_alone_is_not():
    # [8, 16] float32 is written; tanh feeds the sum as it is made; the sum is a float.
    bytes_ = live_bytes(lambda x, w: jnp.tanh(x @ w).sum(), floats(8, 4), floats(4, 16))
    assert bytes_ == 4 * 8 * 16 + 4


def test_arguments_do_not_count():
    assert live_bytes(lambda x: x, floats(100)) == 0
    assert live_bytes(lambda x: (x * 2 + 1).sum(), floats(100)) == 4


def test_results_count_to_the_end():
    def two_results(x, w):
        first = x @ w
        return first, (first @ w).sum()

    # Both products and the sum: the first is a result and stays.
    assert live_bytes(two_results, floats(6, 6), floats(6, 6)) == 4 * (36 + 36 + 1)


def test_what_nobody_reads_again_is_freed():
    def chain(x, w):
        for _ in range(5):
            x = x @ w
        return x

    # One product and the next.
    assert live_bytes(chain, floats(6, 6), floats(6, 6)) == 4 * (36 + 36)


def test_an_elementwise_operation_writes_over_what_it_reads_last():
    def chain(x, w):
        x = jnp.exp(x @ w)
        return x @ w

    assert live_bytes(chain, floats(6, 6), floats(6, 6)) == 4 * (36 + 36)


def test_what_two_read_is_stored_unless_it_is_cheap():
    def read_twice(make):
        return lambda x: make(x).sum() + jnp.square(make(x)).sum()

    def stored(x):
        y = jnp.exp(x)
        return y.sum() + jnp.square(y).sum()

    assert live_bytes(stored, floats(50)) >= 4 * 50
    cheap = read_twice(lambda x: x.astype(jnp.float32))
    assert live_bytes(cheap, floats(50, dtype=jnp.bfloat16)) < 4 * 50


def test_a_view_costs_nothing():
    def view(x, w):
        return (x @ w).reshape(4, 9).T.reshape(36)

    assert live_bytes(view, floats(6, 6), floats(6, 6)) == 4 * 36


def test_a_cast_matrix_is_stored_for_a_product():
    def cast(x, w):
        return x @ w.astype(jnp.bfloat16)

    assert (
        live_bytes(cast, floats(2, 6, dtype=jnp.bfloat16), floats(6, 8))
        == 2 * 6 * 8 + 2 * 2 * 8
    )


def test_a_loop_holds_what_its_body_does_and_its_result():
    def loop(xs, w):
        return jax.lax.map(lambda x: ((x @ w) @ w).sum(), xs)

    # Two products and a sum inside; ten sums, the result, outside.
    body = 4 * (3 * 6 + 3 * 6)
    got = live_bytes(loop, floats(10, 3, 6), floats(6, 6))
    assert body + 4 * 10 <= got <= body + 4 * 10 + 4 * (3 * 6 + 1)


def test_the_largest_branch_counts():
    def branches(i, x, w):
        return jax.lax.cond(i > 0, lambda: x.sum(), lambda: ((x @ w) @ w).sum())

    got = live_bytes(branches, floats(dtype=jnp.int32), floats(6, 6), floats(6, 6))
    assert 4 * 72 <= got <= 4 * 72 + 16


def test_a_function_called_twice_is_walked_twice():
    double = jax.jit(lambda x, w: x @ w)
    got = live_bytes(lambda x, w: double(double(x, w), w), floats(6, 6), floats(6, 6))
    assert got == 4 * (36 + 36)


def test_rows_are_written_in_place():
    def write(x, w):
        return (x @ w).at[:2].set(0.0)

    got = live_bytes(write, floats(60, 6), floats(6, 6))
    assert 4 * 360 <= got < 4 * 2 * 360


def layers(x, ws, wrap=lambda layer: layer):
    layer = wrap(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w))
    for i in range(4):
        x = layer(x, ws[i])
    return x.sum()


def test_remat_keeps_less_for_the_backward_pass():
    x, ws = floats(64, 8), floats(4, 8, 8)
    plain = live_bytes(jax.grad(layers, 1), x, ws)
    remat = live_bytes(jax.grad(lambda *a: layers(*a, jax.checkpoint), 1), x, ws)
    # Without: two tanhs of each of four layers. With: each layer's input, and one's.
    assert plain >= 8 * 4 * 64 * 8
    assert remat <= plain - 2 * 4 * 64 * 8


def test_keys_have_no_bytes_and_random_bits_are_made_where_needed():
    def dropped(key, x, w):
        y = x @ w
        return jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y, 0.0) @ w

    key = jax.eval_shape(lambda: jax.random.key(0))
    assert live_bytes(dropped, key, floats(6, 6), floats(6, 6)) == 4 * (36 + 36)


def test_xla_allots_about_as_much():
    def loss(w, x):
        for _ in range(3):
            x = jnp.tanh(x @ w)
        return x.sum()

    function, arguments = jax.value_and_grad(loss), (floats(64, 64), floats(512, 64))
    found = jax.jit(function).lower(*arguments).compile().memory_analysis()
    allotted = found.temp_size_in_bytes + found.output_size_in_bytes
    assert live_bytes(function, *arguments) == pytest.approx(allotted, rel=0.35)
