"""How fast passages are embedded, against matrix products and sentence-transformers.

    python benchmarks/embed.py --json
    python benchmarks/embed.py --json --passages corpus.jsonl --vocabulary vocab.txt
    python benchmarks/embed.py --json --rows 200000 --chunk-tokens 65536

Weights are random. Without a file, passages are of made-up token ids, as long as those
of 23,546 Wikipedia passages in BERT's word pieces. MFU counts the operations on these
tokens alone, so that padding lowers it.
"""

import argparse
import dataclasses
import itertools
import pathlib
import tempfile
import time

import jax
import measure
import numpy as np

from art_jax import hardware, partitioning
from art_jax.data.layouts import Layout, TokenTable, layout_lengths, layout_rows
from art_jax.index import buckets, embed, rows
from art_jax.models import bert
from art_jax.models.dual_encoder import DualEncoder
from art_jax.models.flops import bert_flops

WIKIPEDIA_PASSAGES = 21_015_324
# Percentiles of the lengths, [CLS], [SEP]s and title included, before the cut.
PERCENTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
WIKI_LENGTHS = (12, 40, 61, 81, 114, 141, 181, 235, 275, 368, 857)
CLS, SEP, FIRST_WORD = 101, 102, 1000
PEER_BATCH = 32  # the default of SentenceTransformer.encode


def read_flags() -> argparse.Namespace:
    """Returns the flags of the command line."""
    flags = measure.parser(__doc__.splitlines()[0])
    flags.set_defaults(repeats=2)
    flags.add_argument(
        "--model", default="base", choices=["tiny", "base", "large", "megatron_base"]
    )
    flags.add_argument("--rows", type=int, help="passages (65,536; on a CPU 192)")
    flags.add_argument("--passages", help="a file of passages; needs --vocabulary")
    flags.add_argument("--vocabulary", help="a WordPiece vocab.txt, lower-cased")
    flags.add_argument("--max-tokens", type=int, default=256, help="of a passage")
    flags.add_argument("--dtype", help="of the encoder (bfloat16; on a CPU float32)")
    flags.add_argument("--chunk-tokens", type=int, help="embedded at a time")
    flags.add_argument("--no-peer", action="store_true", help="no torch")
    return flags.parse_args()


def main():
    """Prints the figures."""
    flags = read_flags()
    on_cpu = jax.default_backend() == "cpu"
    dtype = flags.dtype or ("float32" if on_cpu else "bfloat16")
    num_rows = flags.rows or (192 if on_cpu else 65_536)
    config = getattr(bert, flags.model)(dtype=dtype)
    mesh = partitioning.make_mesh()
    encoder = DualEncoder(config, shared=True)
    init = jax.jit(encoder.init, out_shardings=partitioning.replicated(mesh))
    # Compiles faster than the default generator's.
    params = init(jax.random.key(0, impl="unsafe_rbg"))
    layout = Layout((CLS,), (SEP,), (SEP,), flags.max_tokens)
    if flags.passages:
        tokens = read_tokens(flags.passages, flags.vocabulary, num_rows)
    else:
        tokens = make_tokens(num_rows, config.vocab_size)
    lengths = layout_lengths(layout, tokens, np.arange(tokens.num_rows))
    result = {
        "model": flags.model,
        "dtype": dtype,
        "rows": len(lengths),
        "mean_tokens": float(lengths.mean()),
        **time_placed_and_streamed(
            encoder, params, layout, tokens, lengths, mesh, flags
        ),
    }
    result |= rates(config, lengths, mesh, result["seconds"])
    if not flags.no_peer:
        peer_seconds = time_peer(config, layout, tokens, lengths, flags.repeats)
        result["peer_seconds"] = peer_seconds
        result["speedup_over_peer"] = peer_seconds and peer_seconds / result["seconds"]
    measure.show(result, as_json=flags.json)


def make_tokens(num_rows: int, vocab_size: int) -> TokenTable:
    """Returns passages of made-up words, as long as Wikipedia's."""
    random = np.random.default_rng(0)
    lengths = np.interp(random.uniform(0, 100, num_rows), PERCENTILES, WIKI_LENGTHS)
    offsets = np.concatenate([[0], np.cumsum(lengths.astype(int) - 2)])
    token_ids = random.integers(FIRST_WORD, vocab_size, offsets[-1], np.uint16)
    return TokenTable(token_ids, offsets, np.zeros(num_rows, np.int32))


def read_tokens(path: str, vocabulary: str | None, num_rows: int) -> TokenTable:
    """Returns the first passages of a file in word pieces of a vocabulary."""
    if vocabulary is None:
        raise SystemExit("--passages needs --vocabulary, a WordPiece vocab.txt.")
    # Not at the top: these need more than a bare accelerator machine has.
    from art_jax.data.layouts import make_token_table
    from art_jax.data.passages import read_passages
    from art_jax.data.tokenizers import load_wordpiece

    tokenizer = load_wordpiece(vocabulary)
    some = list(itertools.islice(read_passages(path), num_rows))
    return make_token_table(
        tokenizer.encode_batch([passage.title or "" for passage in some]),
        tokenizer.encode_batch([passage.text for passage in some]),
        np.uint16,
    )


def time_placed_and_streamed(
    encoder, params, layout, tokens, lengths, mesh, flags
) -> dict:
    """Returns the time of a refresh with tokens in device memory and from a file."""
    placed = rows.place_rows(tokens, layout, mesh)
    chunk_tokens = flags.chunk_tokens or embed.default_chunk_tokens()
    planned = buckets.plan_buckets(
        lengths,
        num_shards=partitioning.num_row_shards(mesh),
        rows_per_shard=placed.rows_per_shard,
        max_tokens=layout.max_tokens,
        chunk_tokens=chunk_tokens,
    )
    calls = embed.place_calls(planned, mesh)

    def timed(held) -> float:
        def refresh(some_calls):
            arrays = embed.empty_arrays(
                len(placed.tokens), encoder.width, "bfloat16", mesh
            )
            arrays = embed.embed_calls(
                encoder.encode_passage, params, held, some_calls, arrays, mesh=mesh
            )
            jax.block_until_ready(arrays)

        refresh([call for call in calls if call.index == 0])  # compiles
        return min_seconds(lambda: refresh(calls), flags.repeats)

    with tempfile.TemporaryDirectory() as folder:
        mapped = map_tokens(tokens, pathlib.Path(folder))
        return {
            "chunk_tokens": chunk_tokens,
            "lengths": [bucket.length for bucket in planned],
            "calls": len(calls),
            "padding_share": buckets.padding_share(planned, lengths),
            "seconds": timed(placed),
            "streamed_seconds": timed(rows.stream_rows(mapped, layout, mesh)),
        }


def map_tokens(tokens: TokenTable, folder: pathlib.Path) -> TokenTable:
    """Returns the same passages, their ids in a memory map of a new file."""
    np.save(folder / "token_ids.npy", tokens.token_ids)
    mapped = np.load(folder / "token_ids.npy", mmap_mode="r")
    return dataclasses.replace(tokens, token_ids=mapped)


def min_seconds(function, repeats: int) -> float:
    """Returns the least wall time of some calls: others on the machine only add."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def rates(config: bert.BertConfig, lengths, mesh, seconds: float) -> dict:
    """Returns passages and tokens a second, and both kinds of MFU."""
    num_flops = sum(bert_flops(config, 1, int(length)) for length in lengths)
    rate = mesh.size * measure.matmul_flops_per_second(config.dtype)
    kind = hardware.find_device_kind(jax.devices()[0].device_kind)
    by_data_sheet = None
    if kind is not None and config.dtype == "bfloat16":
        by_data_sheet = num_flops / seconds / (mesh.size * kind.matmul_flops)
    return {
        "passages_per_second": len(lengths) / seconds,
        "tokens_per_second": float(lengths.sum()) / seconds,
        "seconds_for_21m_passages": WIKIPEDIA_PASSAGES * seconds / len(lengths),
        "flops_per_second": num_flops / seconds,
        "matmul_flops_per_second": rate,
        "floor_seconds": num_flops / rate,
        "ratio_to_floor": seconds * rate / num_flops,
        "mfu_of_matmul": num_flops / seconds / rate,
        "mfu_of_data_sheet": by_data_sheet,
    }


def time_peer(
    config: bert.BertConfig, layout: Layout, tokens, lengths, repeats: int
) -> float | None:
    """Returns the time of SentenceTransformer.encode in float32 on the same ids.

    Its model has the same sizes and random weights, its batches the default size. Its
    vocabulary is made of words that stand for one id each, so that it reads the same
    ids; splitting the texts into them is in the time, and next to nothing.
    """
    if measure.find_peer("sentence_transformers") is None:
        return None
    import sentence_transformers
    import transformers

    words = [f"w{i}" for i in range(config.vocab_size)]
    words[0], words[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    placed = layout_rows(layout, tokens, np.arange(tokens.num_rows))
    texts = [
        " ".join(words[i] for i in row[1 : length - 1])
        for row, length in zip(placed, lengths, strict=True)
    ]
    sizes = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(sizes).save_pretrained(folder)
        vocabulary = {word: i for i, word in enumerate(words)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
        model = sentence_transformers.SentenceTransformer(folder)
    model.max_seq_length = layout.max_tokens
    read = model.tokenizer(texts)["input_ids"]
    if [len(ids) for ids in read] != lengths.tolist():
        raise RuntimeError("the peer reads other lengths than we do")

    def encode():
        model.encode(texts, batch_size=PEER_BATCH, show_progress_bar=False)

    model.encode(texts[:PEER_BATCH], show_progress_bar=False)
    return min_seconds(encode, repeats)


if __name__ == "__main__":
    main()
