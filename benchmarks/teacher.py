"""How fast a T5 scores passages, against its matrix products and transformers.

    python benchmarks/teacher.py --json
    python benchmarks/teacher.py --json --size xl --questions 64 --passages 32 \
        --chunk-size 64

Weights are random and made on the devices. Passages are of made-up token ids, as long
as 100 words of Wikipedia are in ART's prompt (160 tokens, give or take 20) in rows of
512; questions are of 16, give or take 4, in rows of 128. MFU counts the operations of
these tokens alone, so that padding lowers it.
"""

import argparse
import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import measure
import numpy as np

from art_jax import hardware, partitioning
from art_jax.models import flops, layers, t5
from art_jax.models.t5 import T5Config
from art_jax.teacher import scoring_loop, t5_scoring
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.teacher.worklist import static_lengths

EOS = 1


def read_flags() -> argparse.Namespace:
    """Returns the flags of the command line."""
    flags = measure.parser(__doc__.splitlines()[0])
    flags.add_argument("--size", default="small", help="of T5 v1.1: small to xxl")
    flags.add_argument("--questions", type=int, default=4)
    flags.add_argument("--passages", type=int, default=8, help="K, of each question")
    flags.add_argument("--dtype", help="default: bfloat16, on a CPU float32")
    flags.add_argument("--chunk-size", type=int, default=8, help="passages at a time")
    flags.add_argument("--passage-tokens", type=int, default=512)
    flags.add_argument("--question-tokens", type=int, default=128)
    flags.add_argument("--mean-tokens", type=float, default=160.0, help="of a passage")
    flags.add_argument("--model-parallelism", type=int, default=1)
    flags.add_argument(
        "--duplicates",
        type=float,
        default=0.25,
        help="share of slots whose passage lies in another slot too; the headline "
        "figure reads each slot nevertheless",
    )
    flags.add_argument("--no-variants", action="store_true", help="the headline alone")
    flags.add_argument("--no-peer", action="store_true", help="no torch")
    return flags.parse_args()


def main():
    """Prints the figures."""
    flags = read_flags()
    on_cpu = jax.default_backend() == "cpu"
    dtype = flags.dtype or ("float32" if on_cpu else "bfloat16")
    config = t5.v1_1(flags.size, dtype=dtype, param_dtype=dtype)
    teacher = T5Teacher(
        config,
        chunk_size=flags.chunk_size,
        max_passage_tokens=flags.passage_tokens,
        max_question_tokens=flags.question_tokens,
    )
    mesh = partitioning.make_mesh(model_parallelism=flags.model_parallelism)
    params = make_params(config, mesh)
    targets, passages, rows = make_batch(flags, config.vocab_size)
    apart = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
    arrays = partitioning.put_tree(
        (targets, passages, apart, rows), partitioning.batch_sharding(mesh)
    )
    result = {
        "size": flags.size,
        "dtype": dtype,
        "questions": flags.questions,
        "passages": flags.passages,
        "chunk_size": flags.chunk_size,
        "model_parallelism": flags.model_parallelism,
        "mean_passage_tokens": float(lengths_of(passages).mean()),
        "mean_question_tokens": float(lengths_of(targets).mean()),
        **headline(teacher, mesh, params, *arrays[:3], flags.repeats),
    }
    if not flags.no_variants:
        repeats = min(2, flags.repeats)
        result |= variants(teacher, params, *arrays, result["seconds"], repeats)
    if not flags.no_peer:
        seconds = time_transformers(config, targets, passages, flags.chunk_size)
        result["transformers_seconds"] = seconds
        result["speedup_over_transformers"] = seconds and seconds / result["seconds"]
    measure.show(result, as_json=flags.json)


def make_params(config: T5Config, mesh: jax.sharding.Mesh):
    """Returns random weights in `config.param_dtype`, made where they are held."""
    axes = layers.param_axes(t5.param_shapes(config))
    shardings = jax.tree.map(
        lambda names: partitioning.logical_sharding(names, mesh),
        axes,
        is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec),
    )
    init = functools.partial(t5.init_params, config)
    # Compiles faster than the default generator's.
    key = jax.random.key(0, impl="unsafe_rbg")
    return jax.jit(init, out_shardings=shardings)(key)


def make_batch(flags: argparse.Namespace, vocab_size: int):
    """Returns targets [B, T], passages [B, K, L] and their rows [B, K], int32."""
    rng = np.random.default_rng(0)
    num_slots = flags.questions * flags.passages

    def token_rows(num_rows: int, longest: int, mean: float, spread: float):
        tokens = rng.integers(EOS + 1, vocab_size, (num_rows, longest))
        ends = rng.normal(mean, spread, num_rows).astype(int).clip(4, longest) - 1
        places = np.arange(longest)[None]
        ends = ends[:, None]
        tokens = np.where(places == ends, EOS, np.where(places > ends, 0, tokens))
        return tokens.astype(np.int32)

    mean = min(flags.mean_tokens, flags.passage_tokens)
    passages = token_rows(num_slots, flags.passage_tokens, mean, mean / 8)
    targets = token_rows(flags.questions, flags.question_tokens, 16, 4)
    rows = np.arange(num_slots, dtype=np.int32)
    num_copies = int(num_slots * flags.duplicates)
    copies = rng.permutation(num_slots)
    copies, originals = copies[:num_copies], copies[num_copies:]
    if num_copies:
        rows[copies] = rng.choice(originals, num_copies)
    shape = flags.questions, flags.passages
    return targets, passages[rows].reshape(*shape, -1), rows.reshape(shape)


def lengths_of(tokens: np.ndarray) -> np.ndarray:
    """Returns the tokens in use of each row."""
    return np.count_nonzero(tokens, axis=-1)


def headline(teacher, mesh, params, targets, passages, rows, repeats) -> dict:
    """Returns the time of scoring a batch of which each slot is read, and the MFU."""
    score = jax.jit(lambda *arrays: teacher.score_counted(*arrays))
    started = time.perf_counter()
    _, done = jax.block_until_ready(score(params, targets, passages, rows))
    first_call_seconds = time.perf_counter() - started
    seconds = measure.seconds(lambda: score(params, targets, passages, rows), repeats)
    config = teacher.config
    lengths, question_lengths = lengths_of(passages), lengths_of(targets)[:, None]
    encode_flops = flops.t5_encoder_flops(config, 1, lengths).sum()
    decode_flops = flops.t5_decoder_flops(config, 1, question_lengths, lengths).sum()
    real_flops = float(encode_flops + decode_flops)
    # Devices of a CPU share its cores.
    num_devices = 1 if jax.default_backend() == "cpu" else mesh.size
    rate = num_devices * measure.matmul_flops_per_second(config.dtype)
    kind = hardware.find_device_kind(jax.devices()[0].device_kind)
    by_data_sheet = None
    if kind is not None and config.dtype == "bfloat16":
        by_data_sheet = real_flops / seconds / (num_devices * kind.matmul_flops)
    # On a mesh every group computes as many chunks as the one with most to do.
    groups = scoring_loop.num_groups(targets)
    return {
        "seconds": seconds,
        "pairs_per_second": rows.size / seconds,
        "first_call_seconds": first_call_seconds,
        "floor_seconds": real_flops / rate,
        "ratio_to_floor": seconds * rate / real_flops,
        "matmul_flops_per_second": rate,
        "mfu_of_matmul": real_flops / seconds / rate,
        "mfu_of_data_sheet": by_data_sheet,
        "encode_share_of_flops": float(encode_flops) / real_flops,
        "padding_share": 1 - real_flops / (groups * flops_of(teacher, groups, done)),
    }


def flops_of(teacher: T5Teacher, groups: int, done: scoring_loop.WorkDone) -> float:
    """Returns the operations of one group's chunks, padding included."""
    config, chunk = teacher.config, max(1, teacher.chunk_size // groups)
    lengths = np.array(
        static_lengths(teacher.max_passage_tokens, teacher.length_buckets)
    )
    question_lengths = np.array(
        static_lengths(teacher.max_question_tokens, teacher.question_buckets)
    )
    encoded = np.asarray(done.encoded) * flops.t5_encoder_flops(config, chunk, lengths)
    scored = np.asarray(done.scored) * flops.t5_decoder_flops(
        config, chunk, question_lengths[None], lengths[:, None]
    )
    return float(encoded.sum() + scored.sum())


def variants(
    teacher, params, targets, passages, apart, rows, seconds, repeats
) -> dict[str, float]:
    """Returns what the parts are worth: times of scoring the batch otherwise."""
    config = teacher.config
    whole = dataclasses.replace(teacher, length_buckets=(), question_buckets=())

    def timed(function, *arrays) -> float:
        compiled = jax.jit(function)
        return measure.seconds(lambda: compiled(params, *arrays), repeats)

    def encode_alone(params, targets, passages, rows):
        # The same loop, with scores that cost nothing.
        return scoring_loop.score_slots(
            lambda tokens: t5.encode(params, config, tokens),
            lambda encoded, tokens, targets: encoded[:, 0, 0].astype(jnp.float32),
            passages,
            targets,
            rows,
            scoring_loop.LoopSizes(
                max(1, teacher.chunk_size // scoring_loop.num_groups(targets)),
                teacher.length_buckets,
                (),
                teacher.encoded_bytes,
            ),
        )

    def plain(params, targets, passages):
        return t5_scoring.score(params, config, passages, targets, teacher.chunk_size)

    return {
        "encode_share_of_seconds": (
            timed(encode_alone, targets, passages, apart) / seconds
        ),
        "equal_passages_once_seconds": timed(teacher.score, targets, passages, rows),
        "without_buckets_seconds": timed(whole.score, targets, passages, apart),
        "plain_seconds": timed(plain, targets, passages),
    }


def time_transformers(
    config: T5Config, targets: np.ndarray, passages: np.ndarray, chunk_size: int
) -> float | None:
    """Returns the seconds of ART's official loop with transformers' T5, if installed.

    A question at a time, its passages in chunks that are padded to their longest row,
    on a GPU where torch has one.
    """
    torch, transformers = measure.find_peer("torch"), measure.find_peer("transformers")
    if torch is None or transformers is None:
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.T5ForConditionalGeneration._from_config(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        ),
        dtype=getattr(torch, config.dtype),
    )
    model = model.to(device).eval()

    def cut(tokens: np.ndarray):
        longest = -(-lengths_of(tokens).max() // 8) * 8
        return torch.tensor(tokens[:, :longest], device=device).long()

    @torch.no_grad()
    def score_chunk(chunk: np.ndarray, target: np.ndarray):
        tokens = cut(chunk)
        labels = cut(target[None]).repeat(len(chunk), 1)
        inputs = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
        logits = model(**inputs, labels=labels).logits.float()
        chosen = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        where = labels > 0
        return ((chosen * where).sum(1) / where.sum(1)).cpu()

    def score() -> None:
        for target, rows in zip(targets, passages, strict=True):
            for start in range(0, len(rows), chunk_size):
                score_chunk(rows[start : start + chunk_size], target)

    return measure.seconds(score, repeats=2)


if __name__ == "__main__":
    main()
