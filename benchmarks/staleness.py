"""How stale the table gets between refreshes, and what keeping it fresh costs.

    python benchmarks/staleness.py
    python benchmarks/staleness.py --dropout 0.1 --json

ART trains a one-layer retriever on this machine's Python documentation, as the
quickstart does, from the same start with the same batches, four times over: with a
whole refresh every R steps, with the embeddings of each step's passages written back
into the table, with a slice of the evidence refreshed each step, and with both. Now and
then the evidence is embedded by the weights of that moment, and the top K of questions
in the table in use are compared with those in this fresh one.

The overlap is the share of a question's K fresh passages that the table in use finds:
for the questions of the next batch, which training depends on, and for held-out ones.
Seconds a step hold the refreshes and leave out these comparisons, and the first R
steps, which compile. Other than the benchmarks of speed this one needs art_jax's own
dependencies, for tokenisers.
"""

import pathlib
import tempfile
import time

import jax
import measure
import numpy as np

from art_jax import partitioning
from art_jax.cli import train
from art_jax.data import documentation, evidence, tokenizers
from art_jax.data.question_table import QuestionTable, question_table
from art_jax.evaluation.measures import evaluate_questions
from art_jax.index.refresh import refresh
from art_jax.index.retriever import build_encode_query, encode_tokens, search_queries
from art_jax.methods.art import Art
from art_jax.methods.workspace import RETRIEVER, TEACHER, Workspace, passage_side
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.training import hooks, loop, update
from art_jax.training.optimizers import AdamW

# name -> (write_back, rolling_refresh)
VARIANTS = {
    "refresh": (False, False),
    "write-back": (True, False),
    "rolling": (False, True),
    "both": (True, True),
}
TEMPERATURE = 0.0667  # The quickstart's.


def parse():
    """Returns the flags."""
    flags = measure.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--passages", type=int, default=2_000, help="N, of the documentation, at most")
    add("--width", type=int, default=128, help="D")
    add("--refresh-every", type=int, default=40, help="R, steps")
    add("--cycles", type=int, default=3, help="times R steps that are trained")
    add("--probes", type=int, default=4, help="comparisons in R steps")
    add("--batch-size", type=int, default=16, help="B")
    add("--num-passages", type=int, default=8, help="K")
    add("--learning-rate", type=float, default=4e-4)
    add("--dropout", type=float, default=0.0, help="of the retriever while it trains")
    return flags.parse_args()


def main() -> None:
    """Prints the figures."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        space, held_out = make_workspace(args, pathlib.Path(folder))
        results = {
            name: run_variant(args, space, held_out, *VARIANTS[name])
            for name in args.variants
        }
    if not args.json:
        show_table(results)
        results = {}
    figures = {"results": results} if results else {}
    facts = {
        "num_passages_of_evidence": space.evidence.num_passages,
        "num_questions": space.queries.num_questions,
        "num_held_out": held_out.num_questions,
    }
    flags = {name: value for name, value in vars(args).items() if name != "json"}
    measure.show(figures | facts | flags, as_json=args.json)


def make_workspace(args, folder: pathlib.Path) -> tuple[Workspace, QuestionTable]:
    """Returns what ART is bound to, and the held-out questions."""
    corpus = documentation.build_corpus()
    passages = corpus.passages[:: -(-len(corpus.passages) // args.passages)]
    ids = {passage.passage_id for passage in passages}
    texts = [f"{passage.title} {passage.text}" for passage in passages]
    made = {
        RETRIEVER: tokenizers.train_wordpiece(texts, 8_000),
        TEACHER: QueryLikelihoodTeacher().make_tokenizer(texts),
    }
    evidence.build_evidence(passages, folder / "evidence", made)
    store = evidence.load_evidence(folder / "evidence", made)
    config = BertConfig(
        vocab_size=made[RETRIEVER].vocab_size,
        hidden_size=args.width,
        num_layers=1,
        num_heads=1,
        head_dim=32,
        intermediate_size=32,
        type_vocab_size=0,
        dropout_rate=args.dropout,
        attention_dropout_rate=args.dropout,
        pre_layer_norm=True,
        embedding_layer_norm=False,
        residual_init_scale=0.025,
        use_positions=False,
    )
    encoder = DualEncoder(config, pooling="weighted_mean", shared=True, normalize=True)
    lengths = {"query": 32, "passage": 128}
    held_out = [question for question in corpus.test if question.source_id in ids]
    space = train.make_workspace(
        mesh=partitioning.make_mesh(),
        encoder=encoder,
        evidence=store,
        made=made,
        lengths=lengths,
        queries=question_table(corpus.train, made[RETRIEVER], lengths["query"]),
        stream_tokens=False,
    )
    return space, question_table(held_out, made[RETRIEVER], lengths["query"])


def run_variant(args, space, held_out, write_back: bool, rolling: bool) -> dict:
    """Returns the figures of one way to keep the table fresh."""
    refresher = train.make_refresher(space, "float32", None)
    replicated = partitioning.replicated(space.mesh)
    params = jax.jit(space.encoder.init, out_shardings=replicated)(jax.random.key(0))
    params = train.weighted_by_rarity(space, params)
    art = Art(
        QueryLikelihoodTeacher(mu=300.0),
        num_passages=args.num_passages,
        temperature=TEMPERATURE,
        teacher_scale=8.0,
        dropout=args.dropout > 0,
        write_back=write_back,
    )
    problem = art.bind(space, batch_size=args.batch_size, seed=0)
    train_steps = args.cycles * args.refresh_every
    optimizer = AdamW(
        args.learning_rate, warmup_share=0.05, weight_decay=0.0, beta2=0.98
    ).build(train_steps)
    state = jax.jit(
        lambda params: update.init_state(params, optimizer), out_shardings=replicated
    )(params)
    step = update.make_update(
        problem.loss, optimizer, prepare=problem.prepare, state_sharding=replicated
    )
    every = {"every_steps": args.refresh_every}
    refresh_hook = hooks.refresh_hook(
        refresher,
        passage_side,
        **every,
        last_step=train_steps + 1,
        report=lambda line: None,
    )
    if rolling:
        refresh_hook = hooks.rolling_hook(
            refresher, passage_side, **every, refresh_all=refresh_hook
        )
    probe = Probe(args, space, refresher, problem, held_out)
    run = loop.run_steps(
        loop.RunState(state),
        problem,
        step,
        train_steps=train_steps,
        key=jax.random.key(1),
        # Before the refresh: the table as the last step of an interval searched it.
        hooks=[probe, refresh_hook, probe.start_clock],
        observers=[lambda step, metrics: metrics["loss"].block_until_ready()],
    )
    return probe.figures() | {"held_out_accuracy": probe.accuracy(run)}


class Probe:
    """A hook that compares the table in use with a fresh one, off the clock."""

    def __init__(self, args, space, refresher, problem, held_out):
        self.args, self.space, self.refresher = args, space, refresher
        self.problem, self.held_out = problem, held_out
        self.encode = build_encode_query(space.encoder)
        self.overlaps: dict[int, list] = {}
        self.seconds = 0.0
        self.clock = None

    def __call__(self, run: loop.RunState, step: int) -> loop.RunState:
        """Stops the clock of the step before, and compares where it is time to."""
        if run.table is None:
            return run
        every = self.args.refresh_every
        jax.block_until_ready(run.table.embeddings)
        now = time.perf_counter()
        if step > every:
            self.seconds += now - self.clock
        if step % (every // self.args.probes) == 0:
            age = (step - 1) % every + 1
            batch = np.asarray(self.problem.make_batch(step)["questions"])
            trained = self.overlap(run, self.space.queries.tokens[batch])
            held_out = self.overlap(run, self.held_out.tokens)
            self.overlaps.setdefault(age, []).append((trained, held_out))
        self.clock = time.perf_counter()
        return run

    def start_clock(self, run: loop.RunState, step: int) -> loop.RunState:
        """The last hook of a boundary; the clock runs since `__call__`."""
        self.clock = self.clock or time.perf_counter()
        return run

    def overlap(self, run: loop.RunState, tokens: np.ndarray) -> float:
        """Returns the mean share of fresh top-K rows that the table finds."""
        k = self.args.num_passages
        queries = encode_tokens(self.encode, run.train.params, tokens, self.space.mesh)
        fresh = search_queries(self.fresh_table(run), queries, k=k).rows
        found = search_queries(run.table, queries, k=k).rows
        is_found = (fresh[:, :, None] == found[:, None, :]).any(axis=-1)
        return float(is_found.mean())

    def fresh_table(self, run: loop.RunState):
        """Returns the evidence as today's weights embed it, made once a step."""
        step = int(run.train.step)
        if getattr(self, "fresh", None) is None or self.fresh.table_step != step:
            side = passage_side(run.train.params)
            self.fresh = refresh(self.refresher, side, step=step, generation=0)
        return self.fresh

    def accuracy(self, run: loop.RunState) -> float:
        """Returns top-20 accuracy on the held-out questions with a fresh table."""
        queries = encode_tokens(
            self.encode, run.train.params, self.held_out.tokens, self.space.mesh
        )
        rows = search_queries(self.fresh_table(run), queries, k=20).rows
        passage = self.space.evidence.passage
        return evaluate_questions(self.held_out, rows, passage, (20,))[
            "top_20_accuracy"
        ]

    def figures(self) -> dict:
        """Returns seconds a step, and the mean overlaps by steps since a refresh."""
        num_steps = (self.args.cycles - 1) * self.args.refresh_every
        means = {
            age: np.mean(pairs, axis=0) for age, pairs in sorted(self.overlaps.items())
        }
        return {
            "seconds_a_step": self.seconds / num_steps,
            "overlap_of_batch": {age: float(mean[0]) for age, mean in means.items()},
            "overlap_held_out": {age: float(mean[1]) for age, mean in means.items()},
        }


def show_table(results: dict) -> None:
    """Prints a row a variant: overlaps by steps since the refresh, and seconds."""
    ages = list(next(iter(results.values()))["overlap_of_batch"])
    for name, title in (
        ("overlap_of_batch", "overlap, next batch"),
        ("overlap_held_out", "overlap, held out"),
    ):
        print(f"{title:22}" + "".join(f"{age:>9}" for age in ages))
        for variant, figures in results.items():
            row = "".join(f"{figures[name][age]:9.3f}" for age in ages)
            print(f"  {variant:20}{row}")
    print(f"{'':22}{'seconds/step':>14}{'top-20':>9}")
    for variant, figures in results.items():
        seconds, accuracy = figures["seconds_a_step"], figures["held_out_accuracy"]
        print(f"  {variant:20}{seconds:14.4f}{accuracy:9.3f}")


if __name__ == "__main__":
    main()
