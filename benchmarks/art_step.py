"""Where the time of one ART step goes: each part alone, and the compiled whole.

    python benchmarks/art_step.py                     # a tiny retriever and teacher
    python benchmarks/art_step.py --encoder base --teacher xl --evidence 21015324 \
        --batch-size 64 --num-passages 32 --query-tokens 64 --passage-tokens 256 \
        --teacher-tokens 256 --question-tokens 32 --num-chunks 8 --remat --json

Weights, tokens and table are random and made on the device; every token row is full, so
no part saves by padding. Each part stands beside its floor: its matrix products at the
measured rate, or the bytes it must move at the measured bandwidth, whichever is longer.
The peer of the compiled step is the sum of its parts run one by one; that of the
retriever's gradient is the same in PyTorch, where it and transformers are installed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

from art_jax import partitioning
from art_jax.index.refresh import Refresher, refresh
from art_jax.index.rows import DeviceRows
from art_jax.index.search_options import METHODS, SearchOptions
from art_jax.index.topk import build_search
from art_jax.methods.art import Art
from art_jax.methods.workspace import Workspace, passage_side
from art_jax.models import bert, flops, t5
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.training import update
from art_jax.training.optimizers import AdamW

ENCODERS = {
    "tiny": bert.tiny,
    "base": bert.megatron_base,
    "large": bert.megatron_large,
}
TEACHERS = ("words", "mini", "small", "base", "large", "xl", "xxl")
MINI = {"emb_dim": 128, "num_heads": 2, "mlp_dim": 256}
MINI |= {"num_encoder_layers": 2, "num_decoder_layers": 2}


def parse():
    """Returns the flags."""
    is_cpu = jax.default_backend() == "cpu"
    flags = measure.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add("--encoder", choices=ENCODERS, default="tiny", help="of both towers")
    add("--teacher", choices=TEACHERS, default="mini", help="words, or a T5's size")
    add("--evidence", type=int, default=20_000, help="N, passages in the table")
    add("--batch-size", type=int, default=16, help="B, questions a step")
    add("--num-passages", type=int, default=8, help="K, passages a question")
    add("--query-tokens", type=int, default=16, help="Q")
    add("--passage-tokens", type=int, default=64, help="L")
    add("--teacher-tokens", type=int, default=64, help="of a passage, for the teacher")
    add("--question-tokens", type=int, default=16, help="T")
    add("--num-chunks", type=int, default=1, help="parts the gradient is made in")
    add("--teacher-chunk", type=int, default=64, help="pairs the teacher takes at once")
    add("--remat", action="store_true", help="recompute activations")
    add("--dtype", default="float32" if is_cpu else "bfloat16")
    add("--search-method", choices=METHODS, default="auto")
    add("--refresh-every", type=int, default=500, help="steps between two refreshes")
    add("--refresh-rows", type=int, default=4096, help="embedded, to know its speed")
    return flags.parse_args()


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the device was measured to do.

    flops: matrix products, a second.
    read_bytes: read, a second.
    copy_bytes: read and written, a second.
    """

    flops: float
    read_bytes: float
    copy_bytes: float

    def floor(self, num_flops: float, read: float = 0, copied: float = 0) -> float:
        """Returns the seconds that a part takes at least."""
        moving = read / self.read_bytes + copied / self.copy_bytes
        return max(num_flops / self.flops, moving)


def main() -> None:
    """Prints the figures."""
    args = parse()
    mesh = partitioning.make_mesh()
    table_dtype = args.dtype
    encoder = DualEncoder(
        ENCODERS[args.encoder](dtype=args.dtype, remat=args.remat), pooling="cls"
    )
    teacher, teacher_params = make_teacher(args, mesh)
    art = Art(teacher, num_passages=args.num_passages)
    make = functools.partial(random_rows, args.evidence, mesh)
    token_rows = {
        "passage_tokens": make(args.passage_tokens, encoder.config.vocab_size),
        "teacher_tokens": make(args.teacher_tokens, 30_000),
    }
    space = Workspace(
        mesh=mesh,
        encoder=encoder,
        evidence=None,
        tokenizers={},
        passage_layout=None,
        query_layout=None,
        passages=token_rows["passage_tokens"],
        search=SearchOptions(args.search_method),
    )
    refresher = make_refresher(args, space, table_dtype)
    batch = make_batch(args, encoder, space)
    replicated = partitioning.replicated(mesh)
    params = jax.jit(encoder.init, out_shardings=replicated)(jax.random.key(0))
    num_padded = partitioning.padded_rows(args.evidence, mesh)
    embeddings = random_table((num_padded, encoder.width), table_dtype, mesh)
    resources = {
        "embeddings": embeddings,
        "int8_rows": None,
        "num_rows": np.int32(args.evidence),
        "teacher_params": teacher_params,
        **{name: rows.tokens for name, rows in token_rows.items()},
    }
    rates = Rates(
        measure.matmul_flops_per_second(args.dtype),
        measure.read_bytes_per_second(),
        measure.memory_bytes_per_second(),
    )
    parts = dict(
        time_parts(args, art, space, token_rows, params, batch, resources, rates)
    )
    parts["refresh, a step's share"] = time_refresh(args, refresher, params, rates)
    step_seconds, temporary = time_step(
        args, art, space, token_rows, params, batch, resources
    )
    refresh_seconds = parts["refresh, a step's share"][0]
    alone = sum(seconds for seconds, _ in parts.values()) - refresh_seconds
    result = {
        "parts": {
            name: {
                "seconds": seconds,
                "floor_seconds": floor,
                "ratio_to_floor": seconds / floor,
            }
            for name, (seconds, floor) in parts.items()
        },
        "step_seconds": step_seconds,
        "sum_of_parts_seconds": alone,
        "step_and_refresh_seconds": step_seconds + refresh_seconds,
        "step_floor_seconds": sum(floor for _, floor in parts.values())
        - parts["refresh, a step's share"][1],
        "step_temporary_bytes": temporary,
        "torch_gradient_seconds": time_torch(args, encoder),
        "matmul_flops_per_second": rates.flops,
        "read_bytes_per_second": rates.read_bytes,
        **{name: value for name, value in vars(args).items() if name != "json"},
    }
    if not args.json:
        show_parts(result.pop("parts"), step_seconds + refresh_seconds)
    measure.show(result, as_json=args.json)


def make_teacher(args, mesh):
    """Returns the teacher and random parameters, made on the device."""
    replicated = partitioning.replicated(mesh)
    if args.teacher == "words":
        log_collection = jnp.full(30_000, -np.log(30_000.0), jnp.float32)
        params = {"log_collection": jax.device_put(log_collection, replicated)}
        return QueryLikelihoodTeacher(), params
    config = t5.v1_1("small", **MINI) if args.teacher == "mini" else None
    config = config or t5.v1_1(args.teacher)
    config = dataclasses.replace(config, dtype=args.dtype, param_dtype=args.dtype)
    teacher = T5Teacher(config, chunk_size=args.teacher_chunk, param_dtype=args.dtype)
    init = jax.jit(functools.partial(t5.init_params, config), out_shardings=replicated)
    return teacher, init(jax.random.key(1))


def random_rows(num_rows, mesh, length, vocab_size) -> DeviceRows:
    """Returns full token rows, drawn on the devices."""
    shape = (partitioning.padded_rows(num_rows, mesh), length)

    @functools.partial(jax.jit, out_shardings=partitioning.row_sharding(mesh))
    def draw(key):
        return jax.random.randint(key, shape, 5, vocab_size, jnp.uint16)

    return DeviceRows(draw(jax.random.key(length)), mesh)


def random_table(shape, dtype, mesh):
    """Returns embeddings, drawn on the devices."""

    @functools.partial(jax.jit, out_shardings=partitioning.row_sharding(mesh))
    def draw(key):
        return jax.random.normal(key, shape, dtype)

    return draw(jax.random.key(2))


def make_batch(args, encoder, space) -> dict:
    """Returns a batch of full rows."""
    rng = np.random.default_rng(0)
    size = args.batch_size
    draw = functools.partial(rng.integers, 5, dtype=np.int32)
    return space.put_batch(
        {
            "query_tokens": draw(
                encoder.config.vocab_size, size=(size, args.query_tokens)
            ),
            "teacher_questions": draw(30_000, size=(size, args.question_tokens)),
            "excluded_rows": np.full((size, 1), -1, np.int32),
        }
    )


def make_refresher(args, space, dtype) -> Refresher:
    """Returns what embeds the first rows of the evidence."""
    num_rows = min(args.refresh_rows, args.evidence)
    mesh = space.mesh
    return Refresher(
        encode=space.encoder.encode_passage,
        rows=random_rows(
            num_rows, mesh, args.passage_tokens, space.encoder.config.vocab_size
        ),
        lengths=np.full(num_rows, args.passage_tokens, np.int32),
        width=space.encoder.width,
        mesh=mesh,
        evidence_digest="random",
        dtype=dtype,
    )


def time_parts(args, art, space, token_rows, params, batch, resources, rates):
    """Yields (name, (seconds, floor)) of each part of the step, run alone."""
    encoder, config, key = space.encoder, space.encoder.config, jax.random.key(3)
    size, k = args.batch_size, args.num_passages
    seconds = functools.partial(measure.seconds, repeats=args.repeats)

    encode = jax.jit(lambda params, tokens: encoder.encode_query(params, tokens))
    queries = encode(params, batch["query_tokens"])
    query_flops = flops.bert_flops(config, size, args.query_tokens)
    yield (
        "query embedding",
        (
            seconds(lambda: encode(params, batch["query_tokens"])),
            rates.floor(query_flops),
        ),
    )

    search = build_search(space.mesh, k=k, options=space.search)
    embeddings, num_rows = resources["embeddings"], resources["num_rows"]
    excluded = batch["excluded_rows"]
    rows = search(queries, embeddings, num_rows, excluded).rows
    yield (
        "search",
        (
            seconds(lambda: search(queries, embeddings, num_rows, excluded)),
            rates.floor(2 * size * embeddings.size, read=embeddings.nbytes),
        ),
    )

    @jax.jit
    def gather(resources, rows):
        return {
            name: dataclasses.replace(held, tokens=resources[name]).gather(rows)
            for name, held in token_rows.items()
        }

    tokens = gather(resources, rows)
    num_read = size * k * 2 * (args.passage_tokens + args.teacher_tokens)
    yield (
        "gather",
        (
            seconds(lambda: gather(resources, rows)),
            # Rows are read as 2 bytes a token and written as 4.
            rates.floor(0, copied=3 * num_read),
        ),
    )

    score = jax.jit(art.score)
    found = batch | tokens | {"rows": rows}
    prepared = score(found, resources)
    yield (
        "teacher",
        (
            seconds(lambda: score(found, resources)["teacher_scores"]),
            rates.floor(*teacher_work(args, art.teacher, resources)),
        ),
    )

    problem_loss = make_loss(art, encoder)
    grad_fn = jax.jit(
        functools.partial(
            update.chunks.accumulate,
            jax.value_and_grad(problem_loss, has_aux=True),
            num_chunks=args.num_chunks,
        )
    )
    _, grads = grad_fn(params, prepared, resources, key)
    passes = 4 if args.remat else 3
    forward = query_flops + flops.bert_flops(config, size * k, args.passage_tokens)
    yield (
        "loss and gradient",
        (
            seconds(lambda: grad_fn(params, prepared, resources, key)),
            rates.floor(passes * forward),
        ),
    )

    optimizer = AdamW().build(10_000)
    opt_state = jax.jit(optimizer.init)(params)

    @jax.jit
    def apply(grads, opt_state, params):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    yield (
        "optimiser",
        (
            seconds(lambda: apply(grads, opt_state, params)),
            # Reads gradient, weights and two moments, writes the last three.
            rates.floor(0, copied=7 * num_bytes),
        ),
    )


def teacher_work(args, teacher, resources) -> tuple[float, float]:
    """Returns the teacher's operations and the bytes it must read."""
    num_pairs = args.batch_size * args.num_passages
    if isinstance(teacher, QueryLikelihoodTeacher):
        return 0, 4 * num_pairs * args.teacher_tokens
    config = teacher.config
    work = flops.t5_encoder_flops(config, num_pairs, args.teacher_tokens)
    work += flops.t5_decoder_flops(
        config, num_pairs, args.question_tokens, args.teacher_tokens
    )
    weights = jax.tree.leaves(resources["teacher_params"])
    return work, sum(leaf.nbytes for leaf in weights)


def make_loss(art, encoder):
    """Returns ART's loss with the signature that the update has for it."""

    def loss(params, batch, resources, key):
        return art.loss(encoder, params, batch, key)

    return loss


def time_refresh(args, refresher, params, rates) -> tuple[float, float]:
    """Returns a step's share of a refresh, in seconds, and its floor."""
    side = passage_side(params)
    run = functools.partial(refresh, refresher, side, step=0, generation=0)
    num_rows = len(refresher.lengths)
    seconds = measure.seconds(lambda: run().embeddings, repeats=2)
    share = args.evidence / num_rows / args.refresh_every
    config = bert_config(refresher)
    work = flops.bert_flops(config, num_rows, args.passage_tokens)
    return seconds * share, rates.floor(work) * share


def bert_config(refresher):
    """Returns the sizes of the encoder that a refresher calls."""
    return refresher.encode.__self__.config


def time_step(args, art, space, token_rows, params, batch, resources):
    """Returns the seconds of the compiled step and the temporary bytes it takes."""
    optimizer = AdamW().build(10_000)
    replicated = partitioning.replicated(space.mesh)
    init = functools.partial(update.init_state, optimizer=optimizer)
    state = jax.jit(init, out_shardings=replicated)(params)
    step = update.make_update(
        make_loss(art, space.encoder),
        optimizer,
        prepare=functools.partial(
            art.prepare, space, token_rows, num_chunks=args.num_chunks
        ),
        num_chunks=args.num_chunks,
        state_sharding=replicated,
    )
    key = jax.random.key(4)
    compiled = step.lower(state, batch, resources, key).compile()

    def run():
        nonlocal state
        state, metrics = compiled(state, batch, resources, key)
        return metrics["loss"]

    seconds = measure.seconds(run, repeats=args.repeats)
    return seconds, compiled.memory_analysis().temp_size_in_bytes


def time_torch(args, encoder) -> float | None:
    """Returns the seconds of the retriever's gradient in PyTorch; None without it."""
    torch = measure.find_peer("torch")
    transformers = torch and measure.find_peer("transformers")
    if not transformers or jax.default_backend() != "cpu":
        return None
    config = encoder.config
    towers = [
        transformers.BertModel(
            transformers.BertConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_size,
            ),
            add_pooling_layer=False,
        ).train()
        for _ in range(2)
    ]
    size, k = args.batch_size, args.num_passages
    draw = functools.partial(torch.randint, 5, config.vocab_size)
    queries = draw((size, args.query_tokens))
    passages = draw((size * k, args.passage_tokens))
    teacher = torch.randn(size, k).softmax(-1)

    def gradient():
        query = towers[0](queries).last_hidden_state[:, 0]
        passage = towers[1](passages).last_hidden_state[:, 0].reshape(size, k, -1)
        scores = torch.einsum("bd,bkd->bk", query, passage) / config.hidden_size**0.5
        loss = -(teacher * scores.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        return loss.item()

    return measure.seconds(gradient, repeats=args.repeats)


def show_parts(parts: dict, total: float) -> None:
    """Prints a row a part."""
    print(f"{'part':26} {'seconds':>10} {'floor':>10} {'x floor':>8} {'share':>6}")
    for name, part in parts.items():
        seconds, floor = part["seconds"], part["floor_seconds"]
        print(
            f"{name:26} {seconds:10.4g} {floor:10.4g} "
            f"{part['ratio_to_floor']:8.1f} {seconds / total:6.1%}"
        )


if __name__ == "__main__":
    main()
