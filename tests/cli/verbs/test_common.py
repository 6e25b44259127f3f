import argparse

import pytest

from art_jax.cli.verbs import common


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
