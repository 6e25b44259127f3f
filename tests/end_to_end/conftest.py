"""The fixtures of tiny_run.py, which is loaded by its path: tests are no package."""

import importlib.util
import pathlib
import sys

import pytest


def _load_tiny_run():
    if "tiny_run" not in sys.modules:
        path = pathlib.Path(__file__).parents[1] / "tiny_run.py"
        spec = importlib.util.spec_from_file_location("tiny_run", path)
        sys.modules["tiny_run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tiny_run"])
    return sys.modules["tiny_run"]


@pytest.fixture(scope="session")
def tiny():
    """The module tiny_run."""
    return _load_tiny_run()


@pytest.fixture(scope="session")
def tiny_evidence(tiny, tmp_path_factory):
    """The evidence store of its passages."""
    return tiny.build_evidence(tmp_path_factory.mktemp("tiny") / "evidence")
