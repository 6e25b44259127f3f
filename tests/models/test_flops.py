"""Counted operations equal those of every matrix product in the traced program."""

import jax
import jax.numpy as jnp
import pytest

from art_jax.models import bert, flops, t5

BERT = bert.BertConfig(
    vocab_size=50,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    head_dim=24,
    intermediate_size=128,
    max_positions=64,
)
T5 = t5.T5Config(
    vocab_size=96,
    emb_dim=64,
    num_heads=2,
    head_dim=24,
    mlp_dim=128,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dtype="float32",
)


def ints(*shape):
    return jnp.ones(shape, jnp.int32)


@pytest.mark.parametrize(("rows", "length"), [(3, 16), (1, 40)])
def test_bert(rows, length):
    params = bert.param_shapes(BERT)
    got = flops.traced_flops(
        lambda params, tokens: bert.BertEncoder(BERT).apply(
            {"params": params}, tokens, tokens > 0
        ),
        params,
        ints(rows, length),
    )
    assert flops.bert_flops(BERT, rows, length) == got


@pytest.mark.parametrize("activations", [("relu",), ("gelu", "linear")])
def test_t5(activations):
    config = t5.T5Config(**{**T5.__dict__, "mlp_activations": activations})
    params = t5.param_shapes(config)
    encoded = flops.traced_flops(
        lambda params, tokens: t5.encode(params, config, tokens), params, ints(3, 20)
    )
    decoded = flops.traced_flops(
        lambda params, encoded, tokens, targets: t5.decode(
            params, config, encoded, tokens, targets
        ),
        params,
        jnp.ones((3, 20, config.emb_dim)),
        ints(3, 20),
        ints(3, 7),
    )
    assert flops.t5_encoder_flops(config, 3, 20) == encoded
    assert flops.t5_decoder_flops(config, 3, 7, 20) == decoded


def test_inner_programs_are_counted():
    square = jnp.ones((4, 4))
    one = 2 * 4 * 4 * 4

    def body(carry, flag):
        branch = jax.lax.cond(flag, lambda x: (x @ x) @ x, lambda x: x @ x, carry)
        return branch, None

    scanned = lambda x: jax.lax.scan(body, x, jnp.ones(5, bool))[0]  # noqa: E731
    assert flops.traced_flops(jax.jit(scanned), square) == 5 * 2 * one
