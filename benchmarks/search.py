"""Exact top-K beside its floors, FAISS's flat index and ScaNN, in one run.

    python benchmarks/search.py --json -n 500000 -d 768 --queries 64 -k 100

On one GPU of 80 GB, all of Wikipedia, few queries and many:

    python benchmarks/search.py --json -n 21015324 -d 768 --dtype bfloat16 \
        --queries 64 1024 -k 100

The floor on a CPU is the bare product of table and queries, written to memory and not
searched; on an accelerator it is the longer of reading the table once and of the
product's arithmetic, at rates measured in the same run. The methods and the product are
timed in turns, and the shortest time of each counts, so that other work on the machine
falls on all alike. Scores of every method are compared with the first one's.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import measure
import numpy as np

from art_jax import partitioning
from art_jax.index import ann, int8_rows, search_options, topk
from art_jax.index.search_options import SearchOptions, SearchShape
from art_jax.index.table import EmbeddingTable

METHODS = {
    "cpu": ["plain", "groups"],
    "gpu": ["plain", "groups", "triton", "int8", "int8_triton"],
    "tpu": ["plain", "groups", "int8"],
}
_PIECE_ROWS = 1 << 16
_MAX_PRODUCT_BYTES = 8 << 30
_MAX_PEER_BYTES = 4 << 30


def parse_flags():
    platform = jax.default_backend()
    flags = measure.parser("Exact top-K beside its floors and peers.")
    flags.add_argument("-n", type=int, default=500_000, help="rows of the table")
    flags.add_argument("-d", type=int, default=768, help="width of a row")
    flags.add_argument("-k", type=int, default=100, help="rows found a query")
    flags.add_argument(
        "--queries", type=int, nargs="+", default=[64], help="a batch; several: each"
    )
    flags.add_argument("--dtype", default="float32", help="of the rows")
    flags.add_argument(
        "--methods",
        type=lambda names: names.split(","),
        default=METHODS[platform],
        help=f"of {', '.join(search_options.METHODS)}, separated by commas",
    )
    flags.add_argument("--scratch-bytes", type=int, default=1 << 30)
    flags.add_argument(
        "--peers",
        type=lambda names: names.split(","),
        default=["faiss", "scann"] if platform == "cpu" else [],
        help="faiss, scann; none: ''",
    )
    return flags.parse_args()


def main():
    flags = parse_flags()
    rows = make_rows(flags.n, flags.d, flags.dtype)
    mesh = partitioning.make_mesh(1)
    quantized = None
    if any(method.startswith("int8") for method in flags.methods):
        quantized = int8_rows.build_quantize(mesh)(rows)
    rates = {
        "bytes_per_second": measure.read_bytes_per_second(),
        "matmul_flops_per_second": measure.matmul_flops_per_second(flags.dtype),
    }
    batches = []
    for batch in flags.queries:
        queries = jax.random.normal(jax.random.key(batch), (batch, flags.d))
        result, found = time_batch(flags, rows, quantized, queries, rates)
        batches.append(result | time_peers(flags, rows, queries, found, result))
    shape = {"n": flags.n, "d": flags.d, "k": flags.k, "dtype": flags.dtype}
    result = shape | batches[0] | rates
    if len(batches) > 1:
        result["batches"] = batches
    measure.show(result, as_json=flags.json)
    if any(share < 1 for batch in batches for share in batch["recall"].values()):
        sys.exit("a method missed rows that another found")


def make_rows(num_rows: int, width: int, dtype: str) -> jax.Array:
    """Returns normally distributed rows, [num_rows and some padding, width]."""
    if jax.default_backend() == "cpu":
        generator = np.random.default_rng(0)
        values = generator.standard_normal((num_rows, width), dtype=np.float32)
        return jnp.asarray(values).astype(dtype)
    num_pieces = -(-num_rows // _PIECE_ROWS)

    @jax.jit
    def make():
        # Piece by piece: random bits of a whole table would not fit beside it.
        def piece(number):
            key = jax.random.fold_in(jax.random.key(0), number)
            return jax.random.normal(key, (_PIECE_ROWS, width), jnp.float32)

        pieces = jax.lax.map(
            lambda number: piece(number).astype(dtype), jnp.arange(num_pieces)
        )
        return pieces.reshape(-1, width)

    return make()


def time_batch(flags, rows, quantized, queries, rates):
    """Returns the figures of one batch of queries and what the first method found."""
    batch, mesh = len(queries), partitioning.make_mesh(1)
    calls = {}
    for method in flags.methods:
        options = SearchOptions(method=method, scratch_bytes=flags.scratch_bytes)
        search = topk.build_search(mesh, k=flags.k, options=options)
        held = quantized if method.startswith("int8") else None
        calls[method] = functools.partial(search, queries, rows, flags.n, None, held)
    found = {method: jax.tree.map(np.asarray, call()) for method, call in calls.items()}
    if 4 * batch * len(rows) <= _MAX_PRODUCT_BYTES:
        product = jax.jit(lambda rows, queries: rows @ queries.astype(rows.dtype).T)
        calls["product"] = functools.partial(product, rows, queries)
    seconds = measure.seconds_in_turns(calls, flags.repeats)
    product_seconds = seconds.pop("product", None)
    fastest = min(seconds, key=seconds.get)
    bytes_seconds = flags.n * flags.d * rows.dtype.itemsize / rates["bytes_per_second"]
    flops_seconds = 2 * flags.n * flags.d * batch / rates["matmul_flops_per_second"]
    floor_seconds = max(bytes_seconds, flops_seconds)
    if jax.default_backend() == "cpu" and product_seconds is not None:
        floor_seconds = product_seconds
    first = found[flags.methods[0]]
    result = {
        "queries": batch,
        "method": fastest,
        "default_method": default_method(flags, rows, batch),
        "seconds": seconds[fastest],
        "floor_seconds": floor_seconds,
        "ratio_to_floor": seconds[fastest] / floor_seconds,
        "queries_per_second": batch / seconds[fastest],
        "product_seconds": product_seconds,
        "floor_bytes_seconds": bytes_seconds,
        "floor_flops_seconds": flops_seconds,
        "fraction_of_bandwidth": bytes_seconds / seconds[fastest],
        "fraction_of_matmul_rate": flops_seconds / seconds[fastest],
        "method_seconds": seconds,
        "recall": {
            method: recall(first.scores, other.scores)
            for method, other in found.items()
        },
    }
    return result, first


def default_method(flags, rows, batch: int) -> str:
    """Returns what "auto" stands for here."""
    shape = SearchShape(batch, len(rows), flags.d, rows.dtype.itemsize, flags.k, 0)
    platform = jax.default_backend()
    return search_options.choose_method(SearchOptions(), shape, platform)


def recall(want: np.ndarray, got: np.ndarray) -> float:
    """Returns the share of places whose score is as good, to a float32 sum's rounding.

    Two exact searches may sum in another order, and rows that score the same but for
    that may trade places.
    """
    return float((got >= want - 1e-5 * np.abs(want).max()).mean())


def time_peers(flags, rows, queries, exact, result) -> dict:
    """Returns how long the peers take, and ScaNN's recall; None where there is none."""
    figures = {
        "faiss_seconds": None,
        "speedup_over_faiss": None,
        "scann_seconds": None,
        "scann_recall": None,
    }
    if 4 * flags.n * flags.d > _MAX_PEER_BYTES:
        return figures
    if "faiss" in flags.peers and (faiss := measure.find_peer("faiss")):
        index = faiss.IndexFlatIP(flags.d)
        index.add(np.asarray(rows[: flags.n], np.float32))
        host_queries = np.asarray(queries)
        seconds = measure.seconds_in_turns(
            {"faiss": lambda: index.search(host_queries, flags.k)}, flags.repeats
        )["faiss"]
        figures["faiss_seconds"] = seconds
        figures["speedup_over_faiss"] = seconds / result["seconds"]
        del index
    if "scann" in flags.peers and measure.find_peer("scann"):
        mesh = partitioning.make_mesh(1)
        index = ann.build_ann(EmbeddingTable(rows, flags.n, 0, 0, "", mesh))
        search = functools.partial(ann.search, index, np.asarray(queries), k=flags.k)
        figures["scann_recall"] = ann.recall(search().rows, exact.rows)
        figures["scann_seconds"] = measure.seconds_in_turns(
            {"scann": search}, flags.repeats
        )["scann"]
    return figures


if __name__ == "__main__":
    main()
