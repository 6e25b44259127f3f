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


def matmul_flops(function, *arguments):
    """Operations of every dot_general of the traced program, inner ones included."""
    total = 0

    def walk(jaxpr):
        nonlocal total
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (contract, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                depth = 1
                for axis in contract:
                    depth *= shape[axis]
                total += 2 * equation.outvars[0].aval.size * depth
            for inner in jax.core.jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(function)(*arguments).jaxpr)
    return total


def ints(*shape):
    return jnp.ones(shape, jnp.int32)


@pytest.mark.parametrize(("rows", "length"), [(3, 16), (1, 40)])
def test_bert(rows, length):
    params = bert.param_shapes(BERT)
    got = matmul_flops(
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
    encoded = matmul_flops(
        lambda params, tokens: t5.encode(params, config, tokens), params, ints(3, 20)
    )
    decoded = matmul_flops(
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
