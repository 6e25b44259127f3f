"""Errors carry the exit code and the place; a missing package says how to get it."""

import sys

import pytest

from art_jax import errors


def test_every_kind_has_the_exit_code_the_command_line_promises():
    codes = {
        errors.ArtJaxError: 1,
        errors.ConfigError: 2,
        errors.DataError: 3,
        errors.CorruptError: 4,
        errors.DivergedError: 6,
        errors.PreemptedError: 75,
    }
    for kind, code in codes.items():
        assert kind("x").exit_code == code
        assert issubclass(kind, errors.ArtJaxError)
    # So that callers who know nothing of art_jax catch bad values as usual.
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DataError, ValueError)


@pytest.mark.parametrize(
    ("place", "want"),
    [
        ({}, "bad row"),
        ({"path": "a.tsv"}, "a.tsv: bad row"),
        ({"path": "a.tsv", "line": 7}, "a.tsv:7: bad row"),
        ({"line": 7}, "bad row"),
    ],
)
def test_a_data_error_starts_with_its_place(place, want):
    error = errors.DataError("bad row", **place)
    assert str(error) == want
    assert (error.path, error.line) == (place.get("path"), place.get("line"))


def test_an_installed_package_is_returned():
    import json.decoder

    got = errors.require_package("json.decoder", extra="all", purpose="Reading")
    assert got is json.decoder


def test_a_missing_package_names_the_install_command():
    with pytest.raises(errors.ConfigError) as caught:
        errors.require_package("no_such_package.part", extra="scann", purpose="ANN")
    assert str(caught.value) == (
        "ANN needs the package 'no_such_package', which is not installed: "
        "pip install 'art-jax[scann]'"
    )


def test_a_package_that_is_there_but_broken_shows_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_installed", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        errors.require_package("half_installed", extra="all", purpose="Reading")


def test_a_blocked_package_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "blocked_package", None)
    with pytest.raises(errors.ConfigError, match="pip install"):
        errors.require_package("blocked_package", extra="all", purpose="Reading")
