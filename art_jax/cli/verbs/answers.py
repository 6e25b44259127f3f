"""Verbs that find passages, put them in order, read them, and measure it."""

from art_jax.cli.verbs import common

_RUN_FORMATS = ("trec-run", "dpr-results", "fid", "pyserini")


def add_search(verbs) -> None:
    """Adds `art-jax search`."""
    verb = common.add_verb(
        verbs,
        "search",
        "find passages for a question, or for a file of questions",
        'art-jax search runs/quickstart "sort a list in place" -k 5',
    )
    verb.add_argument("run", metavar="RUN", help="a run's MODEL_DIR")
    verb.add_argument("question", nargs="?", help="what to look for")
    verb.add_argument("-k", type=int, default=5, help="passages a question (5)")
    verb.add_argument("--queries", help="a file of questions; needs --run_file")
    verb.add_argument(
        "--run_file", "--run", dest="run_file", help="TREC run to write for --queries"
    )
    verb.add_argument("--json", action="store_true", help="one JSON line a passage")
    verb.add_argument("--ann", action="store_true", help=common.ANN_HELP)
    verb.add_argument("--query_task", help=common.QUERY_TASK_HELP)


def add_evaluate(verbs) -> None:
    """Adds `art-jax evaluate`."""
    verb = common.add_verb(
        verbs,
        "evaluate",
        "measure a retriever, BM25, both, or rankings of any tool, on any task",
        "art-jax evaluate runs/mine --queries test.jsonl\n"
        "  art-jax evaluate --beir scifact --bm25 --output_dir runs/bm25\n"
        "  art-jax evaluate runs/mine --task nq_open --task triviaqa --fusion dpr",
    )
    verb.add_argument(
        "run", metavar="RUN", nargs="?", help="a run's MODEL_DIR, or a retriever"
    )
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--queries", help="a file of questions")
    source.add_argument(
        "--task",
        action="append",
        help="a registered SeqIO task or mixture; give it again for more",
    )
    source.add_argument(
        "--beir",
        action="append",
        metavar="DIR",
        help="a folder of BEIR: its corpus, queries and qrels; give it again for more",
    )
    verb.add_argument("--split", default="test", help="of --task, --beir (test)")
    verb.add_argument(
        "--task_module",
        action="append",
        default=[],
        help="module that registers --task (default: art_jax.tasks.*)",
    )
    verb.add_argument("--passages", help="a passage file in place of the evidence")
    verb.add_argument("--query_task", help=common.QUERY_TASK_HELP)
    _add_systems(verb)
    group = verb.add_argument_group("how it is judged")
    group.add_argument("-k", type=int, default=100, help="passages a question (100)")
    group.add_argument(
        "--match",
        default="string",
        choices=common.MATCHES,
        help="of answers, for --queries (a task says its own)",
    )
    group.add_argument(
        "--missing",
        default="error",
        choices=["error", "zero"],
        help="what a question means that --rankings lack (error)",
    )
    group.add_argument(
        "--keep_identical_ids",
        action="store_true",
        help="for --beir: let the passage be found that is the question itself",
    )
    group = verb.add_argument_group("what is written")
    group.add_argument("--output_dir", help="of metrics (default: RUN/evaluation)")
    group.add_argument("--run_file", help="the rankings as a TREC run")
    group.add_argument("--dpr_results", help="the rankings as DPR's result JSON")
    group.add_argument("--kilt_predictions", help="the rankings as KILT predictions")
    group.add_argument(
        "--plot",
        nargs="?",
        const="",
        metavar="FILE.png",
        help="accuracy against k as text and, with a FILE, as a picture",
    )
    group.add_argument("--json", action="store_true", help="one JSON object")


def _add_systems(verb) -> None:
    group = verb.add_argument_group("what is measured (default: RUN, searched exactly)")
    how = group.add_mutually_exclusive_group()
    how.add_argument("--bm25", action="store_true", help="BM25 alone")
    how.add_argument("--ann", action="store_true", help=common.ANN_HELP)
    how.add_argument(
        "--fusion",
        choices=["dpr", "rrf"],
        help="RUN and BM25: a weighted sum of scores, or reciprocal rank fusion",
    )
    how.add_argument(
        "--rankings",
        "--predictions",
        dest="rankings",
        metavar="FILE",
        help="of any tool: a TREC run, DPR's or pyserini's JSON, KILT predictions",
    )
    group.add_argument(
        "--baseline",
        metavar="bm25|RUN|FILE",
        help="to compare with, by a paired test: BM25, another run, or rankings",
    )
    group.add_argument("--bm25_k1", type=float, default=0.9, help="(0.9)")
    group.add_argument("--bm25_b", type=float, default=0.4, help="(0.4)")
    group.add_argument(
        "--bm25_stemmer", default="english", help="of Snowball, or none (english)"
    )
    group.add_argument(
        "--fusion_weight", type=float, default=1.1, help="of the dense score (1.1)"
    )
    group.add_argument(
        "--fusion_depth", type=int, default=2000, help="passages of each (2,000)"
    )


def add_rerank(verbs) -> None:
    """Adds `art-jax rerank`."""
    verb = common.add_verb(
        verbs,
        "rerank",
        "put the passages of a run in a better order",
        "art-jax rerank bm25.json upr.json --teacher t0-3b -k 1000\n"
        "  art-jax rerank bm25.trec upr.trec --queries q.jsonl --passages p.tsv "
        "--teacher query_likelihood\n"
        "  art-jax rerank dense.json jpr.json --method jpr --model runs/jpr -k 5",
    )
    _add_files(verb)
    verb.add_argument(
        "--method", default="upr", choices=["upr", "monot5", "mmr", "indeppr", "jpr"]
    )
    verb.add_argument(
        "-k",
        type=int,
        help="passages a question to put in order (1000); of jpr, to pick (as trained)",
    )
    verb.add_argument(
        "--depth",
        type=int,
        help="passages a question that are read (default: as many as -k; of jpr and "
        "indeppr, as the model has indexes)",
    )
    _add_format(verb)
    verb.add_argument(
        "--to",
        dest="write_as",
        choices=_RUN_FORMATS,
        help="of OUT (default: RUN_FILE's)",
    )
    verb.add_argument(
        "--keep_order",
        action="store_true",
        help="leave passages where they are, with the new scores",
    )
    verb.add_argument(
        "--shard",
        metavar="I/N",
        help="rerank the I-th of N parts; the last to finish joins them",
    )
    verb.add_argument("--model_parallelism", type=int, default=1, help="(1)")
    group = verb.add_argument_group("of a run that holds ids alone, as TREC's do")
    group.add_argument(
        "--queries", help="a file of questions; of JSON, to know their answers by"
    )
    group.add_argument("--qrels", help="judgments, to measure with")
    group.add_argument(
        "--passages", help="a file of passages, an evidence store, or a run's MODEL_DIR"
    )
    verb.add_argument("--match", default="string", choices=common.MATCHES)
    verb.add_argument(
        "--relevant_words",
        nargs=2,
        default=["true", "false"],
        help="what monot5's --teacher says of a relevant passage, and of another",
    )
    verb.add_argument(
        "--relevance_weight",
        type=float,
        default=0.5,
        help="of mmr, 0 to 1: the run's scores against unlikeness of words (0.5)",
    )
    group = verb.add_argument_group("models that `art-jax train` made")
    group.add_argument("--model", help="the MODEL_DIR, of jpr, indeppr or monot5")
    group.add_argument(
        "--decode",
        default="tree",
        choices=["tree", "seq"],
        help="of jpr: TreeDecode, or the likeliest passage each time (tree)",
    )
    group.add_argument(
        "--beta",
        type=float,
        nargs="+",
        help="of TreeDecode's length penalty (2); of several the best by MRecall@k is "
        "written",
    )
    group.add_argument(
        "--combine",
        default="multiply",
        choices=["multiply", "divide"],
        help="log-likelihood and length penalty (multiply, as printed)",
    )
    group.add_argument(
        "--batch_size", type=int, default=8, help="questions at once (8)"
    )
    group = verb.add_argument_group("the teacher of upr, or a monot5 made elsewhere")
    group.add_argument(
        "--teacher",
        default="query_likelihood",
        help="a T5's folder (Hugging Face or T5X), or query_likelihood, a unigram "
        "model of the run's passages that needs no weights (default)",
    )
    group.add_argument("--vocabulary", help="(default: the one beside the weights)")
    group.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        help="of a T5 (bfloat16; of --model, as it was trained)",
    )
    group.add_argument(
        "--prompt",
        default="upr",
        choices=["upr", "art"],
        help="upr: passage and instruction cut as one text; art: the instruction is "
        "never cut (upr)",
    )
    group.add_argument("--head", help="before the passage (default: the prompt's)")
    group.add_argument(
        "--instruction", help="after the passage (default: the prompt's)"
    )
    group.add_argument("--question_head", help='(default: "Question: ")')
    group.add_argument(
        "--question_mark",
        default="keep",
        choices=["keep", "add"],
        help="add: end questions with one, as UPR does on NQ (keep)",
    )
    group.add_argument(
        "--aggregate",
        default="sum",
        choices=["sum", "mean"],
        help="log-likelihoods of a question's tokens (sum)",
    )
    group.add_argument("--max_passage_tokens", type=int, default=512, help="(512)")
    group.add_argument("--max_question_tokens", type=int, default=128, help="(128)")
    group.add_argument(
        "--mu", type=float, default=500.0, help="words of smoothing, no T5's (500)"
    )
    group.add_argument(
        "--chunk_size", type=int, default=16, help="passages encoded at once (16)"
    )
    group.add_argument(
        "--pairs_a_call", type=int, default=1024, help="passages scored a call (1024)"
    )
    group.add_argument(
        "--cache_dir",
        help="keeps scores, so that the same command goes on after a kill",
    )


def add_read(verbs) -> None:
    """Adds `art-jax read`."""
    verb = common.add_verb(
        verbs,
        "read",
        "say answers to the questions of a run from its passages",
        "art-jax read upr.json answers.jsonl --model runs/fid_nq_base -k 100",
    )
    _add_files(verb)
    verb.add_argument(
        "--model", required=True, help="the MODEL_DIR of a reader that was trained here"
    )
    verb.add_argument("-k", type=int, default=100, help="passages a question (100)")
    verb.add_argument("--beams", type=int, default=1, help="1: greedy search (1)")
    verb.add_argument(
        "--length_penalty",
        type=float,
        default=0.0,
        help="of beam search: the larger, the longer the answers (0)",
    )
    verb.add_argument(
        "--max_answer_tokens", type=int, help="of all answers (default: as trained)"
    )
    verb.add_argument(
        "--write_as",
        choices=["jsonl", "kilt"],
        default="jsonl",
        help="of OUT: JSON lines, or KILT's predictions with their passages (jsonl)",
    )
    verb.add_argument(
        "--write_attention",
        metavar="FILE",
        help="DPR's results to write: the passages by how much the reader looks at "
        "them, for a retriever to learn from",
    )
    _add_format(verb)
    verb.add_argument(
        "--batch_size", type=int, help="questions at once (default: about 8)"
    )
    verb.add_argument(
        "--passages_at_once",
        type=int,
        help="of a question, encoded at once; fewer take less memory (default: all)",
    )
    verb.add_argument(
        "--dtype", choices=["bfloat16", "float32"], help="(default: as trained)"
    )
    verb.add_argument("--model_parallelism", type=int, default=1, help="(1)")
    group = verb.add_argument_group("of a TREC run, which holds ids alone")
    group.add_argument("--queries", help="a file of questions")
    group.add_argument(
        "--passages", help="a file of passages, an evidence store, or a run's MODEL_DIR"
    )


def _add_files(verb) -> None:
    verb.add_argument(
        "run_file",
        metavar="RUN_FILE",
        help="a TREC run, DPR's results, or pyserini's JSON",
    )
    verb.add_argument("output", metavar="OUT", help="file to write")


def _add_format(verb) -> None:
    verb.add_argument(
        "--from",
        dest="read_as",
        choices=_RUN_FORMATS,
        help="format of RUN_FILE (default: told by its first record)",
    )
