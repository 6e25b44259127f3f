"""How many operations a forward pass takes: matrix products alone, 2 m n k each.

These are the counts that MFU is stated by: achieved = these / seconds, padding counted
as work only where a caller says so. A backward pass takes twice the forward's.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from art_jax.models.bert import BertConfig
from art_jax.models.t5 import T5Config


def bert_flops(config: BertConfig, num_rows: int, length: int) -> int:
    """Returns the operations of a BERT's forward pass.

    Args:
        config: its sizes.
        num_rows: B.
        length: L, tokens a row.
    """
    joined = config.num_heads * config.width_of_head
    kernels = 4 * config.hidden_size * joined
    kernels += 2 * config.hidden_size * config.intermediate_size
    attention = 2 * length * joined  # query by key, weights by value
    return 2 * num_rows * length * config.num_layers * (kernels + attention)


def t5_encoder_flops(config: T5Config, num_rows: int, length: int) -> int:
    """Returns the operations of encoding.

    Args:
        config: its sizes.
        num_rows: passages.
        length: tokens of each.
    """
    joined = config.num_heads * config.head_dim
    kernels = 4 * config.emb_dim * joined + _mlp_kernels(config)
    attention = 2 * length * joined
    return 2 * num_rows * length * config.num_encoder_layers * (kernels + attention)


def t5_decoder_flops(
    config: T5Config, num_rows: int, length: int, encoded_length: int
) -> int:
    """Returns the operations of decoding with all targets given, logits included.

    Args:
        config: its sizes.
        num_rows: pairs of a passage and a question.
        length: T, target tokens of each.
        encoded_length: tokens of the passage; its keys and values are made here.
    """
    joined = config.num_heads * config.head_dim
    kernels = 6 * config.emb_dim * joined + _mlp_kernels(config)
    attention = 2 * (length + encoded_length) * joined
    keys_and_values = 2 * encoded_length * config.emb_dim * joined
    layer = length * (kernels + attention) + keys_and_values
    logits = length * config.emb_dim * config.vocab_size
    return 2 * num_rows * (config.num_decoder_layers * layer + logits)


def _mlp_kernels(config: T5Config) -> int:
    return (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim


def traced_flops(function: Callable, *arguments) -> int:
    """Returns the operations of all matrix products of a program, by tracing it.

    Programs inside it count too: a scan's times its length, of branches the largest,
    of a while loop one turn.

    Args:
        function: of arrays, or of the shapes that `jax.eval_shape` gives.
        *arguments: what it takes.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(program: Any) -> int:
    total = 0
    for equation in program.eqns:
        inner = [_count(one) for one in _inner_programs(equation.params)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * depth
        elif equation.primitive.name == "scan":
            total += equation.params["length"] * sum(inner)
        elif equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner)
    return total


def _inner_programs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            program = getattr(item, "jaxpr", item)
            if hasattr(program, "eqns"):
                yield program
