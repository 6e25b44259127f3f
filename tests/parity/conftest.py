"""Live comparison with torch, transformers and sentence-transformers: make parity.

Only a run that names this folder collects it; each comparison is a line of the table
that closes the run.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
ROWS = pytest.StashKey[list]()


def pytest_ignore_collect(collection_path, config):
    """The suite of `make test` has no torch, and does not ask for this folder."""
    asked = [
        pathlib.Path(argument.split("::")[0]).resolve() for argument in config.args
    ]
    if not any(path.is_relative_to(HERE) for path in asked):
        return True
    return None


@pytest.fixture
def record(request):
    """`record(what, difference, allowed)`: a row of the table, and the assertion."""

    def add(what, difference, allowed, note=""):
        rows = request.config.stash.setdefault(ROWS, [])
        rows.append((what, difference, allowed, note))
        assert difference <= allowed, f"{what}: {difference} > {allowed} {note}"

    return add


@pytest.fixture
def compare(record):
    """`compare(what, got, want, allowed)`: the largest difference, and its scale."""

    def add(what, got, want, allowed):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape
        difference = float(np.abs(got - want).max())
        record(what, difference, allowed, f"largest value {np.abs(want).max():.3g}")

    return add


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("largest differences from the other library")
    for what, difference, allowed, note in rows:
        terminalreporter.write_line(
            f"{what:<64} {difference:9.2e} of {allowed:.0e} allowed  {note}"
        )


@pytest.fixture(scope="session")
def models():
    """The module torch_models."""
    pytest.importorskip("torch", reason="pip install 'art-jax[parity]'")
    path = HERE / "torch_models.py"
    spec = importlib.util.spec_from_file_location("parity_torch_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
