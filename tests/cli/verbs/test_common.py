import argparse

import pytest

from art_jax.cli.verbs import common
from art_jax.evaluation import answers


def test_a_verb_has_help_a_module_and_debug(capsys):
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()
    common.add_verb(verbs, "sing", "let it sing", "art-jax sing song")
    common.add_verb(verbs, "hum", "let it hum", "art-jax hum", module="sing")
    assert parser.parse_args(["sing"]).module == "sing"
    assert parser.parse_args(["hum", "--debug"]) == argparse.Namespace(
        module="sing", debug=True
    )
    with pytest.raises(SystemExit):
        parser.parse_args(["sing", "--help"])
    out = capsys.readouterr().out
    assert "Let it sing." in out
    assert out.endswith("Example:\n  art-jax sing song\n")
    with pytest.raises(SystemExit):
        parser.parse_args(["sing", "--deb"])


def test_ways_to_match_are_those_that_there_are():
    assert common.MATCHES == answers.MATCHES
