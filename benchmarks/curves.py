"""How cost grows: search over rows, K and queries; embedding over length; devices.

    python benchmarks/curves.py                       # measures, writes docs/curves
    python benchmarks/curves.py --draw docs/curves/points.json   # draws again

Times are of this machine. Over devices no time is measured: fake CPU devices show what
a compiled program sends (see `art_jax.models.collectives`), which does not depend on
whether they are real. matplotlib draws; without it the points are written all the same.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

from art_jax import partitioning
from art_jax.index import search_options, topk
from art_jax.methods.art import Art
from art_jax.models import bert, dual_encoder, flops
from art_jax.models.collectives import sent_bytes
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.training import update

DEVICES = (1, 2, 4, 8)
NUM_ROWS = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
NUM_RESULTS = (1, 10, 30, 100, 300, 1000)
NUM_QUERIES = (1, 4, 16, 64, 256)
LENGTHS = (16, 32, 64, 128, 256, 512)
# Where one axis varies, the others stay here.
ROWS, QUERIES, RESULTS = 100_000, 64, 100
# The evidence, batch and encoder of ART's published runs.
ART = {
    "num_rows": 21_015_324,
    "batch": 64,
    "num_results": 32,
    "query_tokens": 64,
    "passage_tokens": 256,
    "question_words": 64,
    "vocabulary": 30_522,
}


def main() -> None:
    """Measures, or only draws."""
    flags = measure.parser(__doc__)
    flags.add_argument("--output_dir", type=pathlib.Path, default="docs/curves")
    flags.add_argument(
        "--max-bytes", type=int, default=1_600_000_000, help="of the largest table"
    )
    flags.add_argument("-d", type=int, default=768, help="embedding width")
    flags.add_argument("--dtype", default="float32", help="of table and queries")
    flags.add_argument(
        "--draw", type=pathlib.Path, help="points to draw, measuring none"
    )
    flags.add_argument("--communication", type=int, help=argparse.SUPPRESS)
    flags.set_defaults(repeats=3)
    options = flags.parse_args()
    if options.communication:
        print(json.dumps(communication(options.communication)))
        return
    if options.draw:
        draw(json.loads(options.draw.read_text()), options.draw.parent)
        return
    points = {
        "sent": measure_communication(),
        **measure_search(options.d, options.dtype, options.max_bytes, options.repeats),
        "embedding": measure_embedding(options.repeats),
        "environment": measure.environment(),
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(points, indent=1) + "\n"
    (options.output_dir / "points.json").write_text(text)
    draw(points, options.output_dir)
    if options.json:
        print(json.dumps(points))


def measure_search(width: int, dtype: str, max_bytes: int, repeats: int) -> dict:
    """Returns the curves over rows, K and queries."""
    row_bytes = width * jnp.dtype(dtype).itemsize
    sizes = [num for num in NUM_ROWS if num * row_bytes <= max_bytes]
    mesh = partitioning.make_mesh(1)
    make = jax.jit(
        lambda key, num: jax.random.normal(key, (num, width), dtype), static_argnums=1
    )
    whole = make(jax.random.key(0), max(sizes, default=NUM_ROWS[0]))
    queries = make(jax.random.key(1), max(NUM_QUERIES))
    bytes_per_second = measure.read_bytes_per_second()

    def point(num_rows: int, num_queries: int, k: int) -> dict:
        note(f"search of {num_rows:,} rows, {num_queries} queries, K {k}")
        rows = jax.device_put(
            whole[:num_rows], partitioning.row_sharding(mesh)
        ).block_until_ready()
        return {
            "rows": num_rows,
            "queries": num_queries,
            "k": k,
            "bytes_floor": num_rows * row_bytes / bytes_per_second,
            **time_searches(queries[:num_queries], rows, k, mesh, repeats),
        }

    middle = min(ROWS, max(sizes))
    return {
        "table": {"width": width, "dtype": dtype},
        "search_over_rows": [point(num, QUERIES, RESULTS) for num in sizes],
        "search_over_k": [point(middle, QUERIES, k) for k in NUM_RESULTS],
        "search_over_queries": [point(middle, num, RESULTS) for num in NUM_QUERIES],
    }


def time_searches(queries, rows, k: int, mesh, repeats: int) -> dict[str, float]:
    """Returns seconds of each method, of the bare product, and of FAISS if it is there.

    The bare product makes all scores and looks at none.
    """
    seconds = {}
    for method in ("plain", "groups"):
        options = search_options.SearchOptions(method=method)
        search = topk.build_search(mesh, k=k, options=options)
        seconds[method] = measure.seconds(
            lambda search=search: search(queries, rows, len(rows)).rows, repeats
        )
    seconds["matmul"] = measure.seconds(lambda: scores_of(queries, rows), repeats)
    faiss = measure.find_peer("faiss") if rows.dtype == jnp.float32 else None
    if faiss is not None:
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(np.asarray(rows))
        asked = np.asarray(queries)
        # The slowest by far, and the steadiest.
        seconds["faiss"] = measure.seconds(
            lambda: index.search(asked, k), min(repeats, 2)
        )
    return seconds


@jax.jit
def scores_of(queries, rows):
    """Returns every score, [B, N] float32."""
    return jax.lax.dot_general(
        queries,
        rows,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def measure_embedding(repeats: int, num_tokens: int = 2048) -> dict:
    """Returns seconds of embedding as many tokens, in ever longer rows."""
    config = bert.BertConfig(
        hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536
    )
    encoder = dual_encoder.DualEncoder(config, pooling="mean", shared=True)
    params = jax.jit(encoder.init)(jax.random.key(0))
    encode = jax.jit(encoder.encode_passage)
    rate = measure.matmul_flops_per_second(config.dtype)
    points = []
    for length in LENGTHS:
        note(f"embedding of rows of {length} tokens")
        num_rows = num_tokens // length
        tokens = jax.random.randint(
            jax.random.key(1), (num_rows, length), 1, config.vocab_size
        )
        points.append(
            {
                "length": length,
                "tokens": num_tokens,
                "seconds": measure.seconds(
                    lambda tokens=tokens: encode(params, tokens), repeats
                ),
                "matmul_floor": flops.bert_flops(config, num_rows, length) / rate,
            }
        )
    sizes = "6 layers, width 384, 12 heads"
    return {"encoder": sizes, "dtype": config.dtype, "points": points}


def measure_communication() -> dict:
    """Returns what devices send, from a process for each number of them."""

    def ask(num_devices: int) -> dict:
        note(f"programs of {num_devices} devices")
        here = [sys.executable, __file__, "--communication", str(num_devices)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            here, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return {"sizes": ART, "points": list(pool.map(ask, DEVICES))}


def communication(num_devices: int) -> dict:
    """Returns the bytes that one of some fake devices sends in each program."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    # Compiles sooner; what is sent is decided by other passes.
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = partitioning.make_mesh()
    programs = {
        "search": lower_search(mesh),
        "gather": lower_gather(mesh),
        "update": lower_art_update(mesh),
    }
    sent = {
        name: sent_bytes(lowered.compile().as_text())
        for name, lowered in programs.items()
    }
    return {"devices": num_devices, **sent}


def lower_search(mesh):
    """Returns the top-K search of ART's batch in its table, by shapes alone."""
    encoder = dual_encoder.DualEncoder(bert.BertConfig())
    search = topk.build_search(mesh, k=ART["num_results"])
    return search.lower(
        batch_of(mesh, jnp.float32, encoder.width),
        rows_of(mesh, jnp.bfloat16, encoder.width),
        shape_of(mesh, (), jnp.int32),
    )


def lower_gather(mesh):
    """Returns the gathering of the found passages' tokens."""
    gather = jax.jit(lambda tokens, rows: topk.gather_rows(tokens, rows, mesh))
    return gather.lower(
        rows_of(mesh, jnp.uint16, ART["passage_tokens"]),
        batch_of(mesh, jnp.int32, ART["num_results"]),
    )


def lower_art_update(mesh):
    """Returns a step of ART: search, gather, teach, two towers of BERT-base, AdamW.

    The teacher counts words. A T5 that is whole on every device sends as little.
    """
    encoder = dual_encoder.DualEncoder(bert.BertConfig())
    art = Art(QueryLikelihoodTeacher(), num_passages=ART["num_results"])
    space = types.SimpleNamespace(
        mesh=mesh, encoder=encoder, search=search_options.SearchOptions()
    )
    token_names = ("passage_tokens", "teacher_tokens")

    def prepare(params, batch, resources, key):
        rows = art.retrieve(space, params, batch, resources, key)
        tokens = {
            name: topk.gather_rows(resources[name], rows, mesh) for name in token_names
        }
        return art.score(batch | tokens | {"rows": rows}, resources)

    def loss(params, batch, resources, key):
        del resources
        return art.loss(encoder, params, batch, key)

    optimizer = optax.adamw(1e-5)
    replicated = partitioning.replicated(mesh)
    step = update.make_update(
        loss, optimizer, prepare=prepare, state_sharding=replicated
    )
    state = jax.eval_shape(
        lambda key: update.init_state(encoder.init(key), optimizer), jax.random.key(0)
    )
    batch = {
        "query_tokens": batch_of(mesh, jnp.int32, ART["query_tokens"]),
        "teacher_questions": batch_of(mesh, jnp.int32, ART["question_words"]),
        "excluded_rows": batch_of(mesh, jnp.int32, 1),
    }
    resources = {
        "embeddings": rows_of(mesh, jnp.bfloat16, encoder.width),
        "int8_rows": None,
        "num_rows": shape_of(mesh, (), jnp.int32),
        "teacher_params": {
            "log_collection": shape_of(mesh, (ART["vocabulary"],), jnp.float32)
        },
        **{
            name: rows_of(mesh, jnp.uint16, ART["passage_tokens"])
            for name in token_names
        },
    }
    state = jax.tree.map(lambda leaf: shape_of(mesh, leaf.shape, leaf.dtype), state)
    return step.lower(state, batch, resources, jax.random.key(0))


def shape_of(mesh, shape, dtype):
    """Returns the shape of an array that every device holds whole."""
    sharding = partitioning.replicated(mesh)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def batch_of(mesh, dtype, width: int):
    """Returns the shape of ART's batch of rows of some width."""
    sharding = partitioning.batch_sharding(mesh)
    return jax.ShapeDtypeStruct((ART["batch"], width), dtype, sharding=sharding)


def rows_of(mesh, dtype, width: int):
    """Returns the shape of ART's evidence, a row of some width each."""
    shape = (partitioning.padded_rows(ART["num_rows"], mesh), width)
    sharding = partitioning.row_sharding(mesh)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def note(text: str) -> None:
    """Says on stderr what is being measured."""
    sys.stderr.write(f"{text}\n")


LINES = {
    "faiss": ("FAISS flat", "o-", "#9467bd"),
    "plain": ("plain", "s-", "#1f77b4"),
    "groups": ("groups", "D-", "#2ca02c"),
    "matmul": ("floor: all scores,\nnone looked at", "--", "#7f7f7f"),
    "bytes_floor": ("floor: reading the table", ":", "#ff7f0e"),
}


def draw(points: dict, folder: pathlib.Path) -> None:
    """Writes the figures, the same bytes for the same points."""
    if measure.find_peer("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "art_jax", "font.size": 9}
    )
    device = points["environment"]["device"]
    table = points["table"]
    for name, axis, label in (
        ("search_over_rows", "rows", "rows of the table, N"),
        ("search_over_k", "k", "passages kept a query, K"),
        ("search_over_queries", "queries", "queries searched together, B"),
    ):
        curve = points[name]
        fixed = {
            "rows": f"{curve[0]['rows']:,} rows",
            "queries": f"{curve[0]['queries']} queries",
            "k": f"K {curve[0]['k']}",
        }
        title = ", ".join(text for key, text in fixed.items() if key != axis)
        draw_lines(
            folder / f"{name}.svg",
            [point[axis] for point in curve],
            {
                key: [point.get(key) for point in curve]
                for key in LINES
                if key in curve[0]
            },
            title=f"{title}, width {table['width']}, {table['dtype']}; {device}",
            x_label=label,
            y_label="time of a search",
        )
    draw_embedding(points["embedding"], folder / "embedding_over_length.svg", device)
    draw_sent(points["sent"], folder / "sent_over_devices.svg")


def draw_lines(path, places, curves, *, title, x_label, y_label) -> None:
    """Writes one figure of curves over logarithmic axes."""
    figure, axes = new_figure(title, x_label, y_label)
    for name, values in curves.items():
        label, style, color = LINES[name]
        axes.plot(places, values, style, color=color, label=label, markersize=3.5)
    axes.set_xscale("log")
    count_in(axes.xaxis, "{:,.0f}")
    whole_decades(axes, "s")
    finish(figure, axes, path)


def draw_embedding(embedding, path, device) -> None:
    """Writes the figure of embedding over the length of rows."""
    curve = embedding["points"]
    places = [point["length"] for point in curve]
    figure, axes = new_figure(
        f"{embedding['encoder']}, {embedding['dtype']}; {device}",
        "tokens a row",
        "microseconds a token",
    )
    for name, label, style in (
        ("seconds", "encoder", "o-"),
        ("matmul_floor", "floor: operations", ":"),
    ):
        values = [1e6 * point[name] / point["tokens"] for point in curve]
        color = "#d62728" if name == "matmul_floor" else "#1f77b4"
        axes.plot(places, values, style, color=color, label=label, markersize=3.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_ylim(bottom=0)
    finish(figure, axes, path)


def draw_sent(sent, path) -> None:
    """Writes the figure of bytes sent over devices."""
    curve = [point for point in sent["points"] if point["devices"] > 1]
    places = [point["devices"] for point in curve]
    sizes = sent["sizes"]
    figure, axes = new_figure(
        f"{sizes['num_rows']:,} rows, batch {sizes['batch']}, "
        f"K {sizes['num_results']}, two towers of BERT-base; counted, not timed",
        "devices (data axis)",
        "sent by a device, a step",
    )
    for name, label, style, color in (
        ("update", "ART update: gradients,\nsearch, two gathers", "o-", "#1f77b4"),
        ("gather", "gather of passages' tokens", "s-", "#2ca02c"),
        ("search", "top-K search", "D-", "#9467bd"),
    ):
        values = [sum(point[name].values()) for point in curve]
        axes.plot(places, values, style, color=color, label=label, markersize=3.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places])
    whole_decades(axes, "B")
    finish(figure, axes, path)


def count_in(axis, form: str) -> None:
    """Labels the decades of an axis, and nothing between them."""
    from matplotlib import ticker

    axis.set_major_formatter(lambda value, place: form.format(value))
    axis.set_minor_formatter(ticker.NullFormatter())


def whole_decades(axes, unit: str) -> None:
    """Makes the upright axis logarithmic, from a power of ten to another."""
    from matplotlib import ticker

    axes.set_yscale("log")
    low, high = (np.log10(limit) for limit in axes.dataLim.intervaly)
    axes.set_ylim(10.0 ** np.floor(low), 10.0 ** np.ceil(high))
    axes.yaxis.set_major_formatter(ticker.EngFormatter(unit))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def new_figure(title: str, x_label: str, y_label: str):
    """Returns an empty figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    return figure, axes


def finish(figure, axes, path: pathlib.Path) -> None:
    """Writes a figure; without its date, so that equal points give equal files."""
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
