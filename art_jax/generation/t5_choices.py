"""Sets of choices out of a T5, each choice a token, such as a passage's index."""

import functools

import jax
import jax.numpy as jnp

from art_jax.generation import tree
from art_jax.generation.t5_decoding import START_ID
from art_jax.generation.tree import Picks, TreeRules
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.types import Params


@functools.partial(jax.jit, static_argnames=("config", "k", "rules", "over_vocabulary"))
def pick(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    mask: jax.Array,
    choices: jax.Array,
    where: jax.Array,
    *,
    k: int,
    rules: TreeRules | None = None,
    over_vocabulary: bool = False,
) -> Picks:
    """Returns what a T5 picks of choices, having read what its encoder, or FiD's, has.

    Compiled once for each shape; arrays that are split over a mesh stay split. The
    decoder reads each pick once: its keys and values are kept node by node.

    Args:
        params: of the T5.
        config: of the T5.
        encoded: [B, L, D], from `t5.encode` or `fid.encode`.
        mask: [B, L] bool, where there is a token.
        choices: [B, C] int32, the token of each choice.
        where: [B, C] bool, False where there is no choice.
        k: picks a question.
        rules: of the tree; None: `tree.pick_sequence`.
        over_vocabulary: a likelihood is a share of all tokens'; else of the choices'.
    """
    memory = t5.make_memory(params, config, encoded, mask)
    # A node that the decoder reads lies behind k - 1 picks at most, and the start.
    cache = t5.init_cache(config, len(mask), k)
    start_tokens = jnp.full(len(mask), START_ID, jnp.int32)

    def step(cache: t5.Cache, tokens: jax.Array) -> tuple[jax.Array, t5.Cache]:
        return t5.decode_step(params, config, memory, cache, tokens)

    if rules is None:
        return tree.pick_sequence(step, cache, start_tokens, choices, where, k=k)
    return tree.pick_tree(
        step,
        cache,
        start_tokens,
        choices,
        where,
        rules,
        k=k,
        over_vocabulary=over_vocabulary,
    )
