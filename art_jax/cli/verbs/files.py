"""Verbs that look at weights, folders and data, and convert them."""

from art_jax.cli.verbs import common


def add_import(verbs) -> None:
    """Adds `art-jax import`."""
    verb = common.add_verb(
        verbs,
        "import",
        "take in weights of Hugging Face, sentence-transformers, T5X, Megatron or DPR",
        "art-jax import facebook/contriever runs/contriever\n"
        "  art-jax embed runs/contriever --passages p.tsv --output_dir runs/mine",
        module="import_weights",
    )
    verb.add_argument("source", metavar="SRC", help="a folder or file on this disk")
    verb.add_argument("target", metavar="DST", help="a new folder")
    verb.add_argument(
        "--vocabulary", help="the vocab.txt (default: the one beside the weights)"
    )
    verb.add_argument("--cased", action="store_true", help="--vocabulary keeps case")
    verb.add_argument(
        "--pooling",
        choices=["cls", "mean"],
        help="where the files do not say it (default: cls)",
    )
    verb.add_argument("--max_query_tokens", type=int, help="(default: theirs, or 64)")
    verb.add_argument(
        "--max_passage_tokens", type=int, help="(default: theirs, or 256)"
    )


def add_export(verbs) -> None:
    """Adds `art-jax export`."""
    verb = common.add_verb(
        verbs,
        "export",
        "write a retriever, a T5 or embeddings as other tools read them",
        "art-jax export runs/mine --to sentence-transformers",
    )
    verb.add_argument(
        "run", metavar="RUN", help="a run, or weights that `art-jax import` reads"
    )
    verb.add_argument(
        "--to",
        required=True,
        choices=[
            "sentence-transformers",
            "huggingface",
            "dpr",
            "t5x",
            "npy",
            "parquet",
        ],
        help="npy and parquet: the index's embeddings with their passages' ids",
    )
    verb.add_argument("--output_dir", help="a new folder (default: RUN/exports/TO)")
    verb.add_argument(
        "--dtype",
        choices=["float32", "float16"],
        default="float32",
        help="of npy and parquet (float32)",
    )
    verb.add_argument("--query_task", help=common.QUERY_TASK_HELP)


def add_verify(verbs) -> None:
    """Adds `art-jax verify`."""
    verb = common.add_verb(
        verbs,
        "verify",
        "read every byte of a run, index, checkpoint or export against its digests",
        "art-jax verify runs/mine",
    )
    verb.add_argument("path", metavar="PATH", help="a run, or a folder in it")


def add_data(verbs) -> None:
    """Adds `art-jax data`."""
    verb = verbs.add_parser("data", help="look at data files, and convert them")
    actions = verb.add_subparsers(metavar="ACTION", required=True)
    check = common.add_verb(
        actions,
        "check",
        "report rows, duplicates, empties, encoding and lengths of a file",
        "art-jax data check passages.tsv\n  art-jax data check beir/scifact",
    )
    check.set_defaults(module="data", action="check")
    check.add_argument("file", metavar="FILE", help="or a folder of BEIR's")
    check.add_argument(
        "--format", metavar="F", help="of FILE, see docs/data.md (default: told by it)"
    )
    convert = common.add_verb(
        actions,
        "convert",
        "write a file of passages, questions, judgments or examples in another format",
        "art-jax data convert corpus.jsonl passages.tsv\n"
        "  art-jax data convert --from beir --to dpr scifact train.json --split train\n"
        "  art-jax data convert --from trec-run --to dpr-results bm25.trec bm25.json "
        "--passages p.tsv --queries q.jsonl",
    )
    convert.set_defaults(module="data", action="convert")
    convert.add_argument("source", metavar="SRC", help="a file, or a folder of BEIR's")
    convert.add_argument("target", metavar="DST")
    convert.add_argument(
        "--from", dest="read_as", metavar="F", help="format of SRC, see docs/data.md"
    )
    convert.add_argument("--to", dest="write_as", metavar="F", help="format of DST")
    convert.add_argument("--passages", help="of a TREC run, or of KILT's questions")
    convert.add_argument("--queries", help="of a TREC run")
    convert.add_argument("--split", help="of a folder of BEIR's")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace DST where it is there"
    )
    for action, summary in (
        ("formats", "list the formats of files that can be converted"),
        ("tasks", "list the tasks, the files they read and who publishes them"),
    ):
        table = common.add_verb(actions, action, summary, f"art-jax data {action}")
        table.set_defaults(module="data", action=action)
    sets = common.add_verb(
        actions,
        "answer-sets",
        "find the several answers that patterns, such as CuratedTREC's, stand for",
        "art-jax data answer-sets curatedtrec-test.csv psgs_w100.tsv sets.jsonl",
    )
    sets.set_defaults(module="data", action="answer-sets")
    sets.add_argument("questions", metavar="QUESTIONS", help="answers are patterns")
    sets.add_argument("passages", metavar="PASSAGES", help="where they are looked for")
    sets.add_argument("target", metavar="DST", help="ends in .jsonl")
    sets.add_argument(
        "--overwrite", action="store_true", help="replace DST where it is there"
    )
