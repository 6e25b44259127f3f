"""What a verb's own example comes to."""

import ast
import importlib.util
import pathlib
import shlex

import pytest

from art_jax.cli import gin_flags
from art_jax.cli.main import build_parser


@pytest.fixture
def check_verb(capsys):
    """Verb -> options of each line of its example; its module has a `run`."""

    def check(verb):
        parser = build_parser()
        with pytest.raises(SystemExit):
            parser.parse_args([*verb.split(), "--help"])
        lines = capsys.readouterr().out.split("Example:\n")[1].splitlines()
        words = (shlex.split(line.removesuffix(" ..."))[1:] for line in lines if line)
        found = [parser.parse_args(gin_flags.rewrite_gin_flags(one)) for one in words]
        for options in found:
            spec = importlib.util.find_spec(f"art_jax.cli.{options.module}")
            tree = ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
            assert "run" in {getattr(node, "name", None) for node in tree.body}
            assert not options.debug
        return found

    return check
