"""What several verbs share."""

import argparse

QUERY_TASK_HELP = (
    "of a retriever of several tasks, the one whose questions these are, such as nq"
)
ANN_HELP = "search approximately, with the index that `art-jax ann` built"
# As `evaluation.answers` has them, which imports too much for `--help`.
MATCHES = ("string", "regex", "kilt")


def add_verb(
    verbs, name: str, summary: str, example: str, module: str | None = None
) -> argparse.ArgumentParser:
    """Adds a verb, and returns its parser.

    Args:
        verbs: what `add_subparsers` returned.
        name: of the verb.
        summary: one line, without a capital letter or a stop.
        example: how it is called; several lines are indented by two from the second on.
        module: of `art_jax.cli`, whose `run` it is; None: its name.
    """
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
