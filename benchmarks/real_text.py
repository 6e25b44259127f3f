"""The methods side by side on real text: one encoder, the same questions and steps.

    python benchmarks/real_text.py --corpus wiki-pool --train squad-train \
      --train_id_prefix st: --output_dir runs/real_text

CORPUS and TRAIN are folders of BEIR: the first has the passages and, for each file of
`qrels/`, a set of test questions; the second has training questions and their right
passages, which are in CORPUS under `train_id_prefix` + id, and `answers.jsonl`, which
keeps passages with an answer from being mined as negatives. A question is answered
where a passage judged right is found. Some training questions are held out as `dev`.

Each method is what a user would type, `art-jax mine`, `train` and `evaluate`, with the
gin runs `own_documents.gin` and `own_examples.gin`. A method that is done is not done
again, and one that was killed goes on where it was. OUTPUT_DIR gets a folder a method,
`results.json` and `table.md`, both written anew after each method. Seconds are wall
time of a method's own commands, `cpu` what they took of the processor.
"""

import argparse
import csv
import functools
import gzip
import json
import os
import pathlib
import platform
import random
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import measure
import numpy as np
from scipy.stats import binomtest

from art_jax import atomic
from art_jax.evaluation.runs import read_run

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEPTHS = (1, 5, 20, 100)
# DPR's weight, 1.1, is of dot products that its softmax takes as they are. That of the
# gin runs divides them by the TEMPERATURE of gin/models/tiny.gin, 1 / 15.
SCALED_WEIGHT = "16.5"
# (method, the one it is compared with), for tests of significance.
PAIRS = (
    ("ict", "untrained"),
    ("dpr_bm25", "dpr"),
    ("dpr_mined", "dpr_bm25"),
    ("art", "dpr"),
    ("art", "dpr_bm25"),
    ("ict_dpr_bm25", "dpr_bm25"),
    ("ict_art", "art"),
    ("ict_art", "ict_dpr_bm25"),
    ("hybrid", "bm25"),
    ("hybrid_scaled", "hybrid"),
    ("hybrid_art", "hybrid_scaled"),
)
Command = list[str]


def main() -> None:
    """Measures the methods asked for that are not measured yet."""
    options = parse()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    data = options.output_dir / "data"
    if not data.exists():
        partial = atomic.new_directory(data)
        write_questions(options, partial)
        atomic.finish_directory(data)
    path = options.output_dir / "results.json"
    results = {"settings": settings_of(options), "methods": {}, "p_values": {}}
    if path.exists():
        results = json.loads(path.read_text())
    tests = [*sorted(file.stem for file in data.glob("test*.jsonl")), "dev"]
    for name in options.methods:
        if name not in results["methods"]:
            results["methods"][name] = measure_method(name, options, tests)
            write_results(options, results, tests)
    tested = [test for test in tests if test != "dev"]
    for name, other in PAIRS:
        pair = f"{name} - {other}"
        is_done = {name, other} <= results["methods"].keys()
        if is_done and pair not in results["p_values"]:
            results["p_values"][pair] = compare(name, other, options, tested)
            write_results(options, results, tests)
    write_results(options, results, tests)
    print(json.dumps(results) if options.json else make_table(results, tests))


def parse() -> argparse.Namespace:
    """Returns the flags."""
    flags = measure.parser(__doc__.splitlines()[0])
    add = flags.add_argument
    add("--corpus", type=pathlib.Path, required=True, help="folder of BEIR")
    add("--train", type=pathlib.Path, required=True, help="folder of BEIR")
    add("--train_id_prefix", default="", help="of TRAIN's passages in CORPUS")
    add("--output_dir", type=pathlib.Path, required=True)
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    add("--questions", type=int, default=38_400, help="to train on, drawn (38,400)")
    add("--dev_questions", type=int, default=1_000, help="held out (1,000)")
    add("--steps", type=int, default=600, help="of each method (600)")
    add("--batch_size", type=int, default=64, help="questions a step (64)")
    add("--ict_batch_size", type=int, default=256, help="passages a step (256)")
    add("--passages_per_query", type=int, default=8, help="ART's K (8)")
    add("--refresh_period", type=int, default=100, help="ART's, steps (100)")
    add("--learning_rate", type=float, default=2e-3, help="of all (2e-3)")
    add("--hard_negatives", type=int, default=8, help="mined a question (8)")
    add("--layers", type=int, default=0, help="of the encoder (0)")
    add("--width", type=int, default=512, help="of the encoder (512)")
    return flags.parse_args()


def settings_of(options: argparse.Namespace) -> dict:
    """Returns what every figure depends on."""
    given = {name: str(value) for name, value in vars(options).items()}
    given["cores"] = len(os.sched_getaffinity(0))
    return measure.environment() | given | {"system": platform.platform()}


# The questions, in files of our own.


def write_questions(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Writes train, questions (train without labels), dev and the tests, as lines."""
    folder.mkdir(parents=True, exist_ok=True)
    right = read_judgments(beir_file(options.train / "qrels" / "train.tsv"))
    answers = {
        row["_id"]: row["answers"]
        for row in read_lines(beir_file(options.train / "answers.jsonl"))
    }
    prefix = options.train_id_prefix
    questions = [
        {"_id": row["_id"], "text": row["text"], "answers": answers[row["_id"]]}
        | {"relevant_ids": [prefix + name for name in right[row["_id"]]]}
        for row in read_lines(beir_file(options.train / "queries.jsonl"))
        if row["_id"] in right
    ]
    random.Random(0).shuffle(questions)
    dev, train = questions[: options.dev_questions], questions[options.dev_questions :]
    train = train[: options.questions]
    write_lines(folder / "dev.jsonl", dev)
    write_lines(folder / "train.jsonl", train)
    unlabelled = [{"_id": one["_id"], "text": one["text"]} for one in train]
    write_lines(folder / "questions.jsonl", unlabelled)
    texts = {
        row["_id"]: row["text"]
        for row in read_lines(beir_file(options.corpus / "queries.jsonl"))
    }
    for path in sorted((options.corpus / "qrels").iterdir()):
        right = read_judgments(path)
        rows = [
            {"_id": name, "text": texts[name], "relevant_ids": ids}
            for name, ids in right.items()
        ]
        name = path.name.split(".")[0]
        name = name if name.startswith("test") else f"test_{name}"
        write_lines(folder / f"{name}.jsonl", rows)


def beir_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the file or, where it is not there, its gzipped form."""
    return path if path.exists() else path.with_name(f"{path.name}.gz")


def open_text(path: pathlib.Path):
    """Returns an open text file, plain or gzipped."""
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")


def read_lines(path: pathlib.Path) -> Iterator[dict]:
    """Yields the objects of a file of JSON lines."""
    with open_text(path) as file:
        yield from map(json.loads, file)


def read_judgments(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the ids of each question's right passages."""
    right: dict[str, list[str]] = {}
    with open_text(path) as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        for query_id, passage_id, grade in rows:
            if int(grade) > 0:
                right.setdefault(query_id, []).append(passage_id)
    return right


def write_lines(path: pathlib.Path, rows: Sequence[Mapping]) -> None:
    """Writes objects as JSON lines."""
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


# The methods, as commands.


def macro(name: str, value) -> str:
    """Returns a flag that binds a macro; a path or a name becomes gin's string."""
    is_text = isinstance(value, str | pathlib.Path)
    return f"--gin.{name}={json.dumps(str(value)) if is_text else value}"


def train(
    options: argparse.Namespace,
    method: str,
    run: str,
    stage: str,
    macros: Mapping[str, object],
    bindings: Sequence[str] = (),
    start: str | None = None,
) -> Command:
    """Returns a command that trains one stage of a gin run.

    Args:
        options: the flags.
        method: whose folder it fills.
        run: the gin run's name.
        stage: of it, alone.
        macros: beside those of all methods.
        bindings: beside those of all methods.
        start: a method whose retriever it starts from; None: from scratch.
    """
    macros = {
        "MODEL_DIR": options.output_dir / method,
        "PASSAGES": beir_file(options.corpus / "corpus.jsonl"),
        "TASK_FEATURE_LENGTHS": {"query": 32, "passage": 128},
    } | dict(macros)
    bindings = [
        f"train.train.stages = (@{stage}/stage.Stage(),)",
        f"bert.BertConfig.num_layers = {options.layers}",
        f"bert.BertConfig.hidden_size = {options.width}",
        *bindings,
    ]
    if start is not None:
        path = json.dumps(str(options.output_dir / start))
        bindings.append(f"train.train.initial_checkpoint_path = {path}")
    return [
        "train",
        f"--gin_file={ROOT / 'gin' / 'runs' / run}.gin",
        *(macro(name, value) for name, value in macros.items()),
        *(f"--gin_bindings={one}" for one in bindings),
    ]


def train_ict(
    options: argparse.Namespace, method: str, steps: int, rate: float
) -> Command:
    """Returns a command that trains ICT from scratch; a rate of 0 trains nothing."""
    macros = {
        "QUERIES": options.output_dir / "data" / "questions.jsonl",
        "WARM_UP_STEPS": steps,
        "WARM_UP_BATCH_SIZE": options.ict_batch_size,
    }
    bindings = [
        f"warm_up/optimizers.AdamW.peak_learning_rate = {rate}",
        "warm_up/stage.Stage.refresh_every_steps = None",
    ]
    return train(options, method, "own_documents", "warm_up", macros, bindings)


def train_art(
    options: argparse.Namespace, method: str, start: str | None = None
) -> Command:
    """Returns a command that trains ART."""
    macros = {
        "QUERIES": options.output_dir / "data" / "questions.jsonl",
        "TRAIN_STEPS": options.steps,
        "BATCH_SIZE": options.batch_size,
        "PASSAGES_PER_QUERY": options.passages_per_query,
    }
    bindings = [
        f"art/optimizers.AdamW.peak_learning_rate = {options.learning_rate}",
        *(
            f"art/stage.Stage.{name}_every_steps = {options.refresh_period}"
            for name in ("refresh", "eval", "save")
        ),
    ]
    return train(options, method, "own_documents", "art", macros, bindings, start)


def train_dpr(
    options: argparse.Namespace,
    method: str,
    examples: str,
    hard_negatives: int,
    start: str | None = None,
) -> Command:
    """Returns a command that trains DPR on a file of `data`."""
    macros = {
        "TRAIN_EXAMPLES": options.output_dir / examples,
        "TRAIN_STEPS": options.steps,
        "EVAL_PERIOD": options.steps,
        "BATCH_SIZE": options.batch_size,
        "HARD_NEGATIVES": hard_negatives,
        "LEARNING_RATE": options.learning_rate,
    }
    return train(options, method, "own_examples", "dpr", macros, (), start)


def mine(options: argparse.Namespace, output: str, *flags: object) -> Command:
    """Returns a command that mines hard negatives."""
    return [
        "mine",
        *map(str, flags),
        f"--hard_negatives={options.hard_negatives}",
        f"--output={options.output_dir / output}",
    ]


def untrained(options: argparse.Namespace) -> list[Command]:
    """Returns the commands of the encoder as it is at first."""
    return [train_ict(options, "untrained", 1, 0.0)]


def ict(options: argparse.Namespace) -> list[Command]:
    """Returns the commands of ICT."""
    return [train_ict(options, "ict", options.steps, options.learning_rate)]


def dpr_with_bm25(options: argparse.Namespace) -> list[Command]:
    """Returns the commands of DPR with BM25's negatives."""
    evidence, labels = (
        options.output_dir / "untrained",
        options.output_dir / "data" / "train.jsonl",
    )
    return [
        mine(options, "bm25.json", evidence, "--bm25", "--queries", labels),
        train_dpr(options, "dpr_bm25", "bm25.json", 1),
    ]


def dpr_with_mined(options: argparse.Namespace) -> list[Command]:
    """Returns the commands of DPR's second round: BM25's negatives and the first's."""
    first = options.output_dir / "dpr_bm25"
    examples = options.output_dir / "bm25.json"
    return [
        mine(options, "mined.json", first, "--examples", examples, "--keep_given"),
        train_dpr(options, "dpr_mined", "mined.json", 1),
    ]


def commands_of(
    make: Callable[..., Command], *arguments, **more
) -> Callable[[argparse.Namespace], list[Command]]:
    """Returns options -> one command."""
    return lambda options: [make(options, *arguments, **more)]


# name -> (what the table calls it, its training commands, the run that is measured,
# flags of `evaluate`). Quick ones first; each needs those that it names before it.
METHODS = {
    "untrained": ("untrained", untrained, "untrained", ()),
    "bm25": ("BM25", lambda options: [], "untrained", ("--bm25",)),
    "ict": ("ICT", ict, "ict", ()),
    "dpr_bm25": ("DPR, BM25 negatives", dpr_with_bm25, "dpr_bm25", ()),
    "dpr": (
        "DPR, in-batch",
        commands_of(train_dpr, "dpr", "bm25.json", 0),
        "dpr",
        (),
    ),
    "hybrid": ("BM25 + 1.1 x DPR", lambda options: [], "dpr_bm25", ("--fusion", "dpr")),
    "art": ("ART", commands_of(train_art, "art"), "art", ()),
    "dpr_mined": ("DPR, mined negatives", dpr_with_mined, "dpr_mined", ()),
    "ict_art": (
        "ICT, then ART",
        commands_of(train_art, "ict_art", "ict"),
        "ict_art",
        (),
    ),
    "ict_dpr_bm25": (
        "ICT, then DPR, BM25 negatives",
        commands_of(train_dpr, "ict_dpr_bm25", "bm25.json", 1, "ict"),
        "ict_dpr_bm25",
        (),
    ),
    "hybrid_scaled": (
        f"BM25 + {SCALED_WEIGHT} x DPR",
        lambda options: [],
        "dpr_bm25",
        ("--fusion", "dpr", "--fusion_weight", SCALED_WEIGHT),
    ),
    "hybrid_art": (
        f"BM25 + {SCALED_WEIGHT} x (ICT, then ART)",
        lambda options: [],
        "ict_art",
        ("--fusion", "dpr", "--fusion_weight", SCALED_WEIGHT),
    ),
}


def measure_method(
    name: str, options: argparse.Namespace, tests: Sequence[str]
) -> dict:
    """Returns a method's measures on each test, its commands and what they took."""
    label, training, run, flags = METHODS[name]
    commands = training(options)
    started = clock()
    for command in commands:
        call(command, options, name)
    trained = clock()
    measures = {}
    for test in tests:
        rankings = options.output_dir / "rankings" / f"{name}.{test}.trec"
        rankings.parent.mkdir(exist_ok=True)
        record = evaluate(
            options,
            name,
            [
                options.output_dir / run,
                *flags,
                f"--queries={options.output_dir / 'data' / test}.jsonl",
                f"--output_dir={options.output_dir / 'evaluation' / name / test}",
                f"--run_file={rankings}",
            ],
        )
        measures[test] = {
            "num_questions": record["metrics"]["num_questions"],
            **{f"top_{k}": record["metrics"][f"top_{k}_accuracy"] for k in DEPTHS},
        }
    return {
        "label": label,
        "measures": measures,
        "seconds": trained[0] - started[0],
        "cpu_seconds": trained[1] - started[1],
        "evaluation_seconds": clock()[0] - trained[0],
        "commands": [shlex.join(["art-jax", *command]) for command in commands],
    }


def compare(
    name: str, other: str, options: argparse.Namespace, tests: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Returns the p-values of a difference, by test and depth.

    They are those of `significance.paired_test` with all exchanges counted: of values 0
    and 1 that is the sign test of the questions that one of both gets right.
    """
    values = {}
    for test in tests:
        ours, theirs = (
            first_hits(one, options.output_dir, test) for one in (name, other)
        )
        values[test] = {}
        for k in DEPTHS:
            wins = int(((ours <= k) & (theirs > k)).sum())
            losses = int(((ours > k) & (theirs <= k)).sum())
            p_value = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
            values[test][f"top_{k}"] = float(p_value)
    return values


@functools.cache
def first_hits(name: str, output_dir: pathlib.Path, test: str) -> np.ndarray:
    """Returns the rank of each question's first right passage, infinite for none."""
    rankings = read_run(output_dir / "rankings" / f"{name}.{test}.trec")
    ranks = []
    for question in read_lines(output_dir / "data" / f"{test}.jsonl"):
        # Where nothing was found a run has no line.
        ranking = rankings.get(question["_id"])
        found = () if ranking is None else ranking.passage_ids
        right = set(question["relevant_ids"])
        hits = (rank for rank, one in enumerate(found, start=1) if one in right)
        ranks.append(next(hits, np.inf))
    return np.array(ranks)


def evaluate(options: argparse.Namespace, name: str, flags: Sequence[object]) -> dict:
    """Returns the record that `art-jax evaluate` prints."""
    return json.loads(call(["evaluate", *map(str, flags), "--json"], options, name))


def call(command: Command, options: argparse.Namespace, name: str) -> str:
    """Returns what art-jax prints; its progress goes to logs/NAME.log.

    Raises:
        SystemExit: it failed.
    """
    log = options.output_dir / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    sys.stderr.write(f"{name}: art-jax {shlex.join(command)[:100]}\n")
    with log.open("a") as progress:
        done = subprocess.run(
            [sys.executable, "-m", "art_jax", *command],
            stdout=subprocess.PIPE,
            stderr=progress,
            text=True,
        )
    with log.open("a") as progress:
        progress.write(done.stdout)
    if done.returncode:
        sys.exit(f"{name} failed with {done.returncode}: see {log}")
    return done.stdout


def clock() -> tuple[float, float]:
    """Returns wall time, and processor time of the commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), used.ru_utime + used.ru_stime


# What is written.


def write_results(
    options: argparse.Namespace, results: Mapping, tests: Sequence[str]
) -> None:
    """Writes results.json and table.md."""
    text = json.dumps(results, indent=1) + "\n"
    atomic.write_text(options.output_dir / "results.json", text)
    atomic.write_text(options.output_dir / "table.md", make_table(results, tests))


def make_table(results: Mapping, tests: Sequence[str]) -> str:
    """Returns a Markdown table of the methods, then one of p-values."""
    depths = "/".join(map(str, DEPTHS))
    lines = [
        f"| top-{depths} | " + " | ".join(tests) + " | seconds | cpu |",
        "|" + "---|" * (len(tests) + 3),
    ]
    for one in results["methods"].values():
        cells = [
            " ".join(short(one["measures"][test][f"top_{k}"]) for k in DEPTHS)
            for test in tests
        ]
        took = [f"{one['seconds']:.0f}", f"{one['cpu_seconds']:.0f}"]
        lines.append("| " + " | ".join([one["label"], *cells, *took]) + " |")
    tested = [test for test in tests if test != "dev"]
    lines += ["", f"| p at top-{depths} | " + " | ".join(tested) + " |"]
    lines.append("|" + "---|" * (len(tested) + 1))
    for pair, values in results["p_values"].items():
        cells = [
            " ".join(short(values[test][f"top_{k}"]) for k in DEPTHS) for test in tested
        ]
        lines.append("| " + " | ".join([pair, *cells]) + " |")
    return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Returns a number below 1 as ".123"."""
    text = f"{value:.3f}"
    return text.removeprefix("0")


if __name__ == "__main__":
    main()
