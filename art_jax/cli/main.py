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
from art_jax.cli.verbs import answers, files, indexes, training
from art_jax.errors import ArtJaxError

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
    training.add_quickstart(verbs)
    indexes.add_build(verbs)
    training.add_train(verbs)
    training.add_plan(verbs)
    answers.add_evaluate(verbs)
    indexes.add_embed(verbs)
    answers.add_search(verbs)
    answers.add_rerank(verbs)
    training.add_tune(verbs)
    answers.add_read(verbs)
    training.add_mine(verbs)
    indexes.add_ann(verbs)
    files.add_import(verbs)
    files.add_export(verbs)
    files.add_verify(verbs)
    files.add_data(verbs)
    return parser


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # gin adds the chain of configurables it called through; that is for --debug.
    message = str(error).split("\n  In call to configurable")[0]
    sys.stderr.write(f"art-jax: error: {message}\n")
    return code
