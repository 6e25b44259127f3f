"""FiD: a T5 whose encoder reads passages apart and whose decoder reads all of them.

It has no parameters of its own: any T5's tree serves. `encode` gives what
`t5.make_memory` and `generation` take, `decode` what a loss does.

Source: Izacard & Grave, arXiv:2007.01282. Differs in: nothing.
"""

import jax
import jax.numpy as jnp

from art_jax.models import t5
from art_jax.models.t5 import T5, T5Config
from art_jax.types import Params


def encode(
    params: Params,
    config: T5Config,
    tokens: jax.Array,
    *,
    passages_at_once: int | None = None,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Each passage's encoding, one behind the other, and where there is a token.

    In the backward pass a chunk of passages is encoded again, so that memory grows
    with `passages_at_once` and not with K: only the outputs of all are held.

    Args:
        params: of the T5.
        config: of the T5.
        tokens: [B, K, L] int32, each with question and passage; 0 is padding. A slot
            without a passage is all padding, and nothing looks at it.
        passages_at_once: of each question, of which activations are held; None: K.
        dropout_key: consumed; None: no dropout.

    Returns:
        [B, K * L, D] `config.dtype`, and [B, K * L] bool.
    """
    num_questions, num_passages, length = tokens.shape
    size = min(passages_at_once or num_passages, num_passages)
    num_chunks = -(-num_passages // size)

    @jax.checkpoint
    def encode_chunk(tokens: jax.Array, key: jax.Array | None) -> jax.Array:
        encoded = _encode(params, config, tokens.reshape(-1, length), key)
        return encoded.reshape(num_questions, size, length, -1)

    mask = tokens.reshape(num_questions, -1) > 0
    if num_chunks == 1:
        encoded = encode_chunk(tokens, dropout_key)
        return encoded.reshape(num_questions, num_passages * length, -1), mask
    missing = num_chunks * size - num_passages
    chunks = jnp.pad(tokens, ((0, 0), (0, missing), (0, 0)))
    chunks = chunks.reshape(num_questions, num_chunks, size, length)
    chunks = jnp.swapaxes(chunks, 0, 1)
    keys = None
    if dropout_key is not None:
        keys = jax.random.split(dropout_key, num_chunks)
    encoded = jax.lax.map(lambda chunk: encode_chunk(*chunk), (chunks, keys))
    encoded = jnp.swapaxes(encoded, 0, 1)
    encoded = encoded.reshape(num_questions, num_chunks * size * length, -1)
    return encoded[:, : num_passages * length], mask


def decode(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    mask: jax.Array,
    decoder_input_tokens: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits of each next token, teacher-forced.

    Args:
        params: of the T5.
        config: of the T5.
        encoded: [B, K * L, D], from `encode`.
        mask: [B, K * L] bool, from `encode`.
        decoder_input_tokens: [B, T] int32, targets shifted right.
        dropout_key: consumed; None: no dropout.

    Returns:
        [B, T, V] float32.
    """
    return T5(config).apply(
        {"params": params},
        encoded,
        mask.astype(jnp.int32),
        decoder_input_tokens,
        deterministic=dropout_key is None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        method="decode",
    )


def passage_attention(
    params: Params,
    config: T5Config,
    encoded: jax.Array,
    mask: jax.Array,
    decoder_input_tokens: jax.Array,
    *,
    num_passages: int,
) -> jax.Array:
    """How much the decoder attends to each passage, for a retriever to learn from.

    Args:
        params: of the T5.
        config: of the T5.
        encoded: [B, K * L, D], from `encode`.
        mask: [B, K * L] bool, from `encode`.
        decoder_input_tokens: [B, T] int32; [B, 1] of zeros is the first step, which
            the paper takes.
        num_passages: K.

    Returns:
        [B, K] float32: attention logits before the softmax, averaged over layers,
        heads, decoder positions and the passage's tokens; 0 where there is none.

    Source: Izacard & Grave, arXiv:2012.04584, section 3.2.
    """
    _, state = T5(config).apply(
        {"params": params},
        encoded,
        mask.astype(jnp.int32),
        decoder_input_tokens,
        method="decode_hidden",
        mutable=["intermediates"],
    )
    layers = state["intermediates"]["decoder"].values()
    of_layers = [layer["encoder_decoder_attention"]["logits"][0] for layer in layers]
    # [layers, B, H, T, K * L] to the mean of a token, [B, K * L].
    of_tokens = jnp.mean(jnp.stack(of_layers).astype("float32"), axis=(0, 2, 3))
    shape = len(mask), num_passages, -1
    totals = jnp.where(mask, of_tokens, 0.0).reshape(shape).sum(axis=-1)
    num_tokens = mask.reshape(shape).sum(axis=-1).astype("float32")
    return totals / jnp.maximum(num_tokens, 1.0)


def _encode(
    params: Params, config: T5Config, tokens: jax.Array, key: jax.Array | None
) -> jax.Array:
    if key is None:
        return t5.encode(params, config, tokens)
    return T5(config).apply(
        {"params": params},
        tokens,
        deterministic=False,
        rngs={"dropout": key},
        method="encode",
    )
