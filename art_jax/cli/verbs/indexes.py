"""Verbs that make passages findable."""

from art_jax.cli.verbs import common


def add_build(verbs) -> None:
    """Adds `art-jax build`."""
    verb = common.add_verb(
        verbs,
        "build",
        "make a passage file or an evidence store of a corpus",
        "art-jax build kilt_knowledgesource.json kilt.tsv\n"
        "  art-jax build docs passages.jsonl\n"
        "  art-jax build psgs_w100.tsv runs/mine/evidence "
        "--tokenizer vocab.txt --tokenizer teacher=spiece.model",
    )
    verb.add_argument("source", metavar="SRC", help="a file or folder of passages")
    verb.add_argument(
        "target", metavar="DST", help="ends in .tsv or .jsonl[.gz], or a store's folder"
    )
    verb.add_argument(
        "--format",
        choices=["passages", "beir", "msmarco", "kilt", "folder"],
        help="of SRC (default: told by its content)",
    )
    verb.add_argument(
        "--tokenizer",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="of a store: vocab.txt, a .model, or a run's folder of a tokeniser; "
        "NAME is retriever where it is left out",
    )
    verb.add_argument("--cased", action="store_true", help="vocab.txt keeps case")
    verb.add_argument(
        "--max_tokens",
        type=int,
        default=100,
        help="of a passage, where SRC has longer texts (100)",
    )
    verb.add_argument(
        "--suffix",
        action="append",
        default=[],
        help="of more text files to read in a folder, such as .org",
    )
    verb.add_argument(
        "--allow_empty_text",
        action="store_true",
        help="let a passage have a title alone",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace DST")
    verb.add_argument("--processes", type=int, help="(default: one a core)")
    verb.add_argument("--runner", help="run it on Apache Beam, such as DirectRunner")
    verb.add_argument(
        "--runner_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the pipeline, such as direct_num_workers=8",
    )
    verb.add_argument("--json", action="store_true", help="one JSON object")


def add_embed(verbs) -> None:
    """Adds `art-jax embed`."""
    verb = common.add_verb(
        verbs,
        "embed",
        "embed passages with a trained retriever and make them its index",
        "art-jax embed runs/mine --passages new_passages.jsonl --output_dir runs/new",
    )
    verb.add_argument("run", metavar="RUN", help="a run's MODEL_DIR")
    verb.add_argument("--passages", help="a file of passages (default: RUN's own)")
    verb.add_argument("--output_dir", help="a new folder; needed with --passages")
    verb.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of rows"
    )


def add_ann(verbs) -> None:
    """Adds `art-jax ann`."""
    verb = common.add_verb(
        verbs,
        "ann",
        "build an index for approximate search (ScaNN) and measure what it misses",
        "art-jax ann runs/mine --queries test.jsonl\n"
        '  art-jax search runs/mine "a question" --ann',
    )
    verb.add_argument("run", metavar="RUN", help="a run's MODEL_DIR")
    verb.add_argument(
        "--partitions",
        type=int,
        help="to split the rows into, 0: none (default: 0 below 100,000 rows, then the "
        "square root of their number)",
    )
    verb.add_argument(
        "--searched_partitions",
        type=int,
        help="looked into for a query; more find more (default: a fifth)",
    )
    verb.add_argument(
        "--rescored",
        type=int,
        default=4,
        help="passages scored exactly for each one asked for (4)",
    )
    verb.add_argument(
        "--brute_force_below",
        type=int,
        default=20_000,
        help="score every row where there are fewer (20,000)",
    )
    verb.add_argument("-k", type=int, default=100, help="to measure recall at (100)")
    verb.add_argument(
        "--queries",
        help="a file of questions to measure with (default: passages' first words)",
    )
    verb.add_argument(
        "--num_queries", type=int, default=1000, help="measured with, at most (1,000)"
    )
