import json
import subprocess
import sys

import pytest

import art_jax as package
from art_jax.errors import CorruptError, DivergedError, PreemptedError

HEAVY = ("jax", "tensorflow", "flax", "gin", "numpy")


def modules_after(arguments):
    """The heavy modules that a command has imported when it ends, and its exit code."""
    code = (
        "import json, sys\n"
        "from art_jax.cli.main import main\n"
        "try:\n"
        "    code = main(sys.argv[1:])\n"
        "except SystemExit as error:\n"
        "    code = error.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('\\n' + json.dumps([code, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy():
    assert modules_after(["--help"]) == [0, []]
    assert modules_after(["train", "--help"]) == [0, []]


def test_data_check_imports_neither_jax_nor_tensorflow(corpus):
    code, heavy = modules_after(["data", "check", corpus / "p.tsv"])
    assert code == 0
    assert not {"jax", "tensorflow", "flax", "gin"}.intersection(heavy)


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "art_jax", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"art-jax {package.__version__}\n")
    done = subprocess.run(
        [sys.executable, "-m", "art_jax", "train"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "art-jax train needs a run file" in done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        *("quickstart", "train", "plan", "evaluate", "embed", "search", "ann"),
        *("import", "export", "verify", "data check", "build"),
    ],
)
def test_every_verb_shows_an_example(art_jax, verb):
    code, out, _ = art_jax(*verb.split(), "--help")
    assert code == 0
    assert f"Example:\n  art-jax {verb}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        ([], "the following arguments are required: VERB"),
        (["train", "--gin_fil=x"], "unrecognized arguments: --gin_fil=x"),
        (["train", "--steps=3"], "unrecognized arguments: --steps=3"),
        (["train", "--gin.STEPS"], "--gin.STEPS needs a value"),
        (["data"], "the following arguments are required: ACTION"),
        (["search", "run"], 'give one question, "in quotes", or --queries FILE'),
        (["search", "run", "a", "--queries", "q"], "give one question"),
        (["search", "run", "--queries", "q"], "--queries needs --run_file"),
        (["search", "run", "a", "-k", "0"], "-k is 0: ask for at least one"),
        (["search", "run", "a", "-k", "many"], "invalid int value: 'many'"),
        (["search", "nowhere", "a"], "nowhere holds no retriever: give the MODEL_DIR"),
        (["search", "nowhere", " "], "the question is empty"),
        (["embed", "nowhere"], "nowhere holds no retriever"),
        (["embed", "run", "--passages", "p"], "--passages and --output_dir belong"),
        (
            ["evaluate", "run"],
            "one of the arguments --queries --task --beir is required",
        ),
        (["evaluate", "nowhere", "--queries", "q"], "nowhere holds no retriever"),
    ],
)
def test_wrong_usage_ends_in_2_and_says_why(art_jax, arguments, message):
    code, out, err = art_jax(*arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def raising(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CorruptError("a file is damaged"), 4),
        (MemoryError("of the machine"), 5),
        (RuntimeError("RESOURCE_EXHAUSTED: of the device"), 5),
        (DivergedError("the loss is not finite"), 6),
        (PreemptedError("run again"), 75),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_failure_has_its_exit_code(art_jax, monkeypatch, error, code):
    monkeypatch.setattr("art_jax.cli.data.run", raising(error))
    result = art_jax("data", "check", "any")
    assert result.code == code
    assert result.err == f"art-jax: {wanted_message(error)}\n"


def wanted_message(error):
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"error: {error}"


def test_a_bug_keeps_its_traceback(art_jax, monkeypatch):
    monkeypatch.setattr("art_jax.cli.data.run", raising(ZeroDivisionError("oops")))
    with pytest.raises(ZeroDivisionError):
        art_jax("data", "check", "any")


def test_debug_shows_the_traceback_of_a_clear_error_too(art_jax):
    code, _, err = art_jax("search", "nowhere", "a", "--debug")
    assert code == 2
    assert "Traceback" in err
