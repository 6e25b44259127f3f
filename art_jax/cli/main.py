"""The command `art-jax`: which verbs there are; each imports what it needs when run.

Exit codes: 0 done; 1 a bug; 2 usage or configuration; 3 bad input data; 4 a damaged
checkpoint or index; 5 out of memory; 6 training diverged; 75 stopped by a signal after
a save, run the same command again; 130 interrupted.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import art_jax
from art_jax.cli import gin_flags
from art_jax.errors import ArtJaxError

_QUERY_TASK_HELP = (
    "of a retriever of several tasks, the one whose questions these are, such as nq"
)
_ANN_HELP = "search approximately, with the index that `art-jax ann` built"

OUT_OF_MEMORY = 5
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code; errors become one clear message."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    try:
        options = build_parser().parse_args(gin_flags.rewrite_gin_flags(arguments))
        module = importlib.import_module(f"art_jax.cli.{options.module}")
        module.run(options)
        return 0
    except ArtJaxError as error:
        return _fail(error, error.exit_code, debug)
    except KeyboardInterrupt:
        sys.stderr.write("art-jax: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return _fail(error, OUT_OF_MEMORY, debug)
        raise


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs; it imports neither JAX nor TensorFlow."""
    parser = argparse.ArgumentParser(
        prog="art-jax",
        description="Trains dense passage retrievers from questions alone.",
        epilog="art-jax VERB --help shows a verb's options and an example.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"art-jax {art_jax.__version__}"
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_quickstart(verbs)
    _add_build(verbs)
    _add_train(verbs)
    _add_plan(verbs)
    _add_evaluate(verbs)
    _add_embed(verbs)
    _add_search(verbs)
    _add_rerank(verbs)
    _add_tune(verbs)
    _add_read(verbs)
    _add_mine(verbs)
    _add_ann(verbs)
    _add_import(verbs)
    _add_export(verbs)
    _add_verify(verbs)
    _add_data(verbs)
    return parser


def _add_quickstart(verbs) -> None:
    verb = _verb(
        verbs,
        "quickstart",
        "train and search a retriever of this machine's Python documentation",
        "art-jax quickstart",
    )
    verb.add_argument(
        "--model_dir", default="runs/quickstart", help="where the run is written"
    )
    gin_flags.add_gin_flags(verb)


def _add_build(verbs) -> None:
    verb = _verb(
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


def _add_train(verbs) -> None:
    verb = _verb(
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


def _add_plan(verbs) -> None:
    verb = _verb(
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


def _add_evaluate(verbs) -> None:
    verb = _verb(
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
    verb.add_argument("--query_task", help=_QUERY_TASK_HELP)
    _add_systems(verb)
    group = verb.add_argument_group("how it is judged")
    group.add_argument("-k", type=int, default=100, help="passages a question (100)")
    group.add_argument(
        "--match",
        default="string",
        choices=["string", "regex", "kilt"],
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
    how.add_argument("--ann", action="store_true", help=_ANN_HELP)
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


def _add_embed(verbs) -> None:
    verb = _verb(
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


def _add_search(verbs) -> None:
    verb = _verb(
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
    verb.add_argument("--ann", action="store_true", help=_ANN_HELP)
    verb.add_argument("--query_task", help=_QUERY_TASK_HELP)


def _add_rerank(verbs) -> None:
    verb = _verb(
        verbs,
        "rerank",
        "put the passages of a run in a better order",
        "art-jax rerank bm25.json upr.json --teacher t0-3b -k 1000\n"
        "  art-jax rerank bm25.trec upr.trec --queries q.jsonl --passages p.tsv "
        "--teacher query_likelihood\n"
        "  art-jax rerank dense.json jpr.json --method jpr --model runs/jpr -k 5",
    )
    verb.add_argument(
        "run_file",
        metavar="RUN_FILE",
        help="a TREC run, DPR's results, or pyserini's JSON",
    )
    verb.add_argument("output", metavar="OUT", help="file to write")
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
    formats = ["trec-run", "dpr-results", "fid", "pyserini"]
    verb.add_argument(
        "--from",
        dest="read_as",
        choices=formats,
        help="format of RUN_FILE (default: told by its first record)",
    )
    verb.add_argument(
        "--to", dest="write_as", choices=formats, help="of OUT (default: RUN_FILE's)"
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
    verb.add_argument("--match", default="string", choices=["string", "regex", "kilt"])
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


def _add_read(verbs) -> None:
    verb = _verb(
        verbs,
        "read",
        "say answers to the questions of a run from its passages",
        "art-jax read upr.json answers.jsonl --model runs/fid_nq_base -k 100",
    )
    verb.add_argument(
        "run_file",
        metavar="RUN_FILE",
        help="a TREC run, DPR's results, or pyserini's JSON",
    )
    verb.add_argument("output", metavar="OUT", help="file to write")
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
    verb.add_argument(
        "--from",
        dest="read_as",
        choices=["trec-run", "dpr-results", "fid", "pyserini"],
        help="format of RUN_FILE (default: told by its first record)",
    )
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


def _add_tune(verbs) -> None:
    verb = _verb(
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


def _add_mine(verbs) -> None:
    verb = _verb(
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
    verb.add_argument("--query_task", help=_QUERY_TASK_HELP)
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
    verb.add_argument("--match", default="string", choices=["string", "regex", "kilt"])
    verb.add_argument(
        "--keep_given",
        action="store_true",
        help="wrong passages of --examples stay, behind those found",
    )
    verb.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")


def _add_ann(verbs) -> None:
    verb = _verb(
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


def _add_import(verbs) -> None:
    verb = _verb(
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


def _add_export(verbs) -> None:
    verb = _verb(
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
    verb.add_argument("--query_task", help=_QUERY_TASK_HELP)


def _add_verify(verbs) -> None:
    verb = _verb(
        verbs,
        "verify",
        "read every byte of a run, index, checkpoint or export against its digests",
        "art-jax verify runs/mine",
    )
    verb.add_argument("path", metavar="PATH", help="a run, or a folder in it")


def _add_data(verbs) -> None:
    verb = verbs.add_parser("data", help="look at data files, and convert them")
    actions = verb.add_subparsers(metavar="ACTION", required=True)
    check = _verb(
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
    convert = _verb(
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
        table = _verb(actions, action, summary, f"art-jax data {action}")
        table.set_defaults(module="data", action=action)
    sets = _verb(
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


def _verb(
    verbs, name: str, summary: str, example: str, module: str | None = None
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"Example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.set_defaults(module=module or name)
    verb.add_argument("--debug", action="store_true", help="show tracebacks")
    return verb


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # gin adds the chain of configurables it called through; that is for --debug.
    message = str(error).split("\n  In call to configurable")[0]
    sys.stderr.write(f"art-jax: error: {message}\n")
    return code
