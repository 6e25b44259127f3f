"""Verbs that train, and that say or find what a training needs."""

from art_jax.cli import gin_flags
from art_jax.cli.verbs import common


def add_quickstart(verbs) -> None:
    """Adds `art-jax quickstart`."""
    verb = common.add_verb(
        verbs,
        "quickstart",
        "train and search a retriever of this machine's Python documentation",
        "art-jax quickstart",
    )
    verb.add_argument(
        "--model_dir", default="runs/quickstart", help="where the run is written"
    )
    gin_flags.add_gin_flags(verb)


def add_train(verbs) -> None:
    """Adds `art-jax train`."""
    verb = common.add_verb(
        verbs,
        "train",
        "train a retriever, a reranker or a reader as a gin file says",
        "art-jax train --gin_file=gin/runs/own_documents.gin "
        "--gin.PASSAGES='\"passages.tsv\"' --gin.QUERIES='\"questions.txt\"' "
        "--gin.MODEL_DIR='\"runs/mine\"'",
    )
    gin_flags.add_gin_flags(verb)
    group = verb.add_argument_group("several processes (TPU pods need none of these)")
    group.add_argument(
        "--multiprocess", action="store_true", help="start jax.distributed first"
    )
    group.add_argument("--coordinator_address", help="host:port of process 0")
    group.add_argument("--process_count", type=int)
    group.add_argument("--process_index", type=int)


def add_plan(verbs) -> None:
    """Adds `art-jax plan`."""
    verb = common.add_verb(
        verbs,
        "plan",
        "say what a run would take of memory, time and disk, without running it",
        "art-jax plan --gin_file=gin/runs/art_nq_t0_3b.gin --device A100 --devices 16",
    )
    gin_flags.add_gin_flags(verb)
    group = verb.add_argument_group("devices, which need not be there")
    group.add_argument("--device", help="such as v5p or H100 (default: a table of all)")
    group.add_argument(
        "--devices", type=int, help="how many (default: the fewest that fit)"
    )
    group.add_argument(
        "--model_parallelism",
        type=int,
        help="(default: gin's, or the least that fits where --devices is not given)",
    )
    group.add_argument("--mfu", type=float, default=0.5, help="of peak flops (0.5)")
    group.add_argument(
        "--bandwidth",
        type=float,
        default=0.8,
        help="share reached, memory, links (0.8)",
    )
    group.add_argument(
        "--memory", type=float, default=0.9, help="share that may be filled (0.9)"
    )
    group = verb.add_argument_group(
        "the data, where PASSAGES is no file and MODEL_DIR holds none"
    )
    group.add_argument("--num_passages", type=int, help="(default: 21,015,324)")
    group.add_argument(
        "--passage_tokens", type=float, help="mean of the retriever's (default: 135)"
    )
    group.add_argument(
        "--question_tokens", type=int, default=16, help="as the teacher reads them (16)"
    )
    group.add_argument("--num_questions", type=int, help="to count epochs by")
    verb.add_argument("--json", action="store_true", help="one JSON object")


def add_tune(verbs) -> None:
    """Adds `art-jax tune`."""
    verb = common.add_verb(
        verbs,
        "tune",
        "train JPR with several amounts of noise, and decode with several penalties",
        "art-jax tune --gin_file=gin/runs/jpr_webqsp.gin --gamma 0 0.5 1 1.5 "
        "--beta 1.5 2 2.5 3 --gin.MODEL_DIR='\"runs/tuned\"' ...",
    )
    verb.add_argument(
        "--gamma",
        type=float,
        nargs="+",
        default=[0.0, 0.5, 1.0, 1.5],
        help="each trained in MODEL_DIR/gamma_GAMMA (0 0.5 1 1.5)",
    )
    verb.add_argument(
        "--beta",
        type=float,
        nargs="+",
        default=[1.5, 2.0, 2.5, 3.0],
        help="of TreeDecode on the dev sets (1.5 2 2.5 3)",
    )
    gin_flags.add_gin_flags(verb)


def add_mine(verbs) -> None:
    """Adds `art-jax mine`."""
    verb = common.add_verb(
        verbs,
        "mine",
        "make training examples of DPR from what a retriever or BM25 finds",
        "art-jax mine runs/dpr_nq --examples train.json --output second_round.json",
    )
    verb.add_argument(
        "run", metavar="RUN", help="a run's MODEL_DIR; with --bm25, evidence will do"
    )
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--queries", help="questions with answers or relevant_ids")
    source.add_argument("--examples", help="questions with right passages, which stay")
    verb.add_argument("--format", default="dpr", help="of --examples (dpr)")
    verb.add_argument("--output", required=True, help="DPR's JSON to write; .gz zips")
    verb.add_argument("--bm25", action="store_true", help="search by BM25 instead")
    verb.add_argument("--query_task", help=common.QUERY_TASK_HELP)
    verb.add_argument("-k", type=int, default=100, help="passages searched for (100)")
    verb.add_argument(
        "--hard_negatives", type=int, default=30, help="best wrong ones kept (30)"
    )
    verb.add_argument(
        "--random_negatives", type=int, default=0, help="others drawn uniformly (0)"
    )
    verb.add_argument(
        "--positives", type=int, default=1, help="kept where none are given (1)"
    )
    verb.add_argument(
        "--margin",
        type=float,
        help="by which a wrong one scores less than the best right one (default: any)",
    )
    verb.add_argument(
        "--teacher",
        help="leave out wrong ones it finds as good as the right one: a T5's folder, "
        "or query_likelihood, a unigram model of the passages (default: none does)",
    )
    verb.add_argument(
        "--teacher_margin",
        type=float,
        default=0.0,
        help="by which its score of a wrong one is lower, nats a token (0)",
    )
    verb.add_argument("--match", default="string", choices=common.MATCHES)
    verb.add_argument(
        "--keep_given",
        action="store_true",
        help="wrong passages of --examples stay, behind those found",
    )
    verb.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
