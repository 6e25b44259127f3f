"""The order of the rooms: who may import whom, and what nobody may import.

DESIGN.md's order is held by reading the source, so that no import can hide in a
function; what must run without TensorFlow, SeqIO and gin is imported without them.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

import art_jax

PACKAGE = pathlib.Path(art_jax.__file__).parent
ROOT = PACKAGE.parent
TESTS = pathlib.Path(__file__).parent

# Top to bottom; a folder imports those before it. Equal ranks may import each other.
ORDER = {
    "data": 1,
    "models": 2,
    "checkpoints": 3,
    "index": 4,
    "teacher": 5,
    "losses": 5,
    "training": 6,
    "generation": 7,
    "evaluation": 8,
    "methods": 9,
    "cli": 10,
}
# Everybody may import these, and they import one another alone.
TOP = {"errors", "atomic", "hardware", "manifest", "types", "partitioning"}

# The one place that imports TensorFlow and SeqIO, and all modules that need them as
# soon as they are imported: SeqIO's own, and the verbs that evaluate through it.
HOST_TENSORFLOW = "art_jax.data.host_tensorflow"
NEEDS_TENSORFLOW = {
    "art_jax.data.host_tensorflow",
    "art_jax.data.preprocessors",
    "art_jax.data.feature_converters",
    "art_jax.data.vocabularies",
    "art_jax.evaluation.evaluator",
    "art_jax.evaluation.ranked_tasks",
    "art_jax.cli.evaluate",
    "art_jax.cli.evaluation_record",
    "art_jax.cli.quickstart",
}

# What methods are bound to; all else of theirs is their own.
SHARED_BY_METHODS = (
    "art_jax.methods.workspace",
    "art_jax.methods.t5_workspace",
    "art_jax.methods.ranked_table",
)

# Modules without a test file of their own, and why.
UNTESTED = {
    "art_jax.types": "dataclasses without code",
    "art_jax.data.examples": "dataclasses without code",
    "art_jax.__main__": "three lines, run by tests/cli",
    "art_jax.data.text_files": "read through test_passages.py and test_questions.py",
    "art_jax.teacher.interface": "a protocol without code",
    "art_jax.checkpoints.param_shapes": "tested by tests/models' names of weights",
}


def modules():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        # In an installed wheel tasks/ lies inside the package.
        if parts[0] in ("tasks", "gin"):
            continue
        name = ".".join(["art_jax", *parts]).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def imported(nodes):
    """Names of modules, and of what is taken from them, that statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(tree):
    return set(imported(ast.walk(tree)))


def start_up_imports(tree):
    """What runs when the module is imported: all but the bodies of functions."""
    nodes, todo = [], list(tree.body)
    while todo:
        node = todo.pop()
        nodes.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return set(imported(nodes))


def room(name):
    """The folder, or top-level module, that a dotted name is in; None outside."""
    parts = name.split(".")
    return parts[1] if parts[0] == "art_jax" and len(parts) > 1 else None


def is_in(name, module):
    return name == module or name.startswith(module + ".")


def test_every_module_was_found():
    assert len(MODULES) > 60
    assert {room(name) for name in MODULES} - {None, "__main__"} <= ORDER.keys() | TOP


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    here = room(name)
    if here in (None, "__main__"):
        return
    for target in all_imports(MODULES[name]):
        there = room(target)
        if there is None or there in TOP:
            continue
        assert here not in TOP, f"{name} imports {target}"
        assert there in ORDER, f"{name} imports {target}, which has no place"
        is_before = ORDER[there] < ORDER[here] or there == here
        is_beside = {here, there} == {"teacher", "losses"}
        assert is_before or is_beside, f"{name} imports {target}"


def test_methods_do_not_import_each_other():
    for name in MODULES:
        if room(name) != "methods" or name == "art_jax.methods":
            continue
        for target in all_imports(MODULES[name]):
            if room(target) == "methods":
                # A method, or what all are planned by, may be a package.
                is_within = name.count(".") > 2 and is_in(
                    target, name.rpartition(".")[0]
                )
                is_shared = any(is_in(target, one) for one in SHARED_BY_METHODS)
                assert is_within or is_shared, f"{name} imports {target}"


def test_nothing_imports_tasks():
    # cli/ asks importlib for the module a run names; no statement does.
    for name, tree in MODULES.items():
        for target in all_imports(tree):
            assert not is_in(target, "tasks"), name
            assert not is_in(target, "art_jax.tasks"), name


def test_one_place_imports_tensorflow_and_the_library_never_gin():
    # host_tensorflow asks by name through require_package, so no statement is left.
    for name, tree in MODULES.items():
        for target in all_imports(tree):
            for package in ("tensorflow", "seqio", "tensorflow_text", "t5"):
                assert not is_in(target, package), f"{name} imports {target}"
            if room(name) != "cli":
                assert not is_in(target, "gin"), f"{name} imports {target}"


def test_only_seqio_modules_import_tensorflow_at_once():
    needs, before = {HOST_TENSORFLOW}, set()
    while needs != before:
        before = set(needs)
        for name, tree in MODULES.items():
            targets = start_up_imports(tree)
            if any(is_in(target, module) for target in targets for module in before):
                needs.add(name)
    assert needs == NEEDS_TENSORFLOW


def test_nothing_that_is_read_can_run_code():
    for name, tree in MODULES.items():
        for target in all_imports(tree):
            for package in (
                "pickle",
                "cloudpickle",
                "dill",
                "marshal",
                "shelve",
                "torch",
            ):
                assert not is_in(target, package), f"{name} imports {target}"
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "torch.load"), name
            assert not any(
                keyword.arg == "allow_pickle"
                and getattr(keyword.value, "value", True) is not False
                for keyword in node.keywords
            ), name


def test_gin_is_no_package():
    # From the root of a checkout it would hide gin-config's.
    folder = ROOT / "gin" if (ROOT / "gin" / "runs").is_dir() else PACKAGE / "gin"
    assert (folder / "runs").is_dir()
    assert list(folder.rglob("*.py")) == []


def test_the_core_imports_without_tensorflow_seqio_and_gin():
    rooms = ("models", "index", "teacher", "losses", "training", "generation")
    rooms += ("checkpoints",)
    names = [name for name in MODULES if room(name) in rooms]
    names += ["art_jax", "art_jax.partitioning"]
    names += ["art_jax.methods.art", "art_jax.methods.ict", "art_jax.data.evidence"]
    names += ["art_jax.methods.dpr", "art_jax.data.example_table"]
    script = (
        "import sys, importlib\n"
        "for name in ('tensorflow', 'seqio', 'gin', 'tensorflow_text', 'torch',"
        " 'scann'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "import jax._src.xla_bridge as bridge\n"
        "assert not bridge._backends, 'importing started a device'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_step_needs_jax_flax_optax_and_numpy_alone():
    # A bare accelerator machine has what Flax brings: Orbax, tensorstore, ml_dtypes.
    absent = ("regex", "Stemmer", "tokenizers", "sentencepiece", "safetensors")
    absent += ("bm25s", "ir_measures", "tqdm", "tensorboardX", "tensorflow", "gin")
    names = (
        "methods.art",
        "methods.dpr",
        "training.stage",
        "teacher.t5_scoring",
        "index.refresh",
    )
    script = (
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module('art_jax.' + name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_module_has_its_tests():
    missing = []
    for name in MODULES:
        parts = name.split(".")[1:]
        if not parts or PACKAGE.joinpath(*parts).is_dir():
            continue
        path = TESTS.joinpath(*parts[:-1], f"test_{parts[-1]}.py")
        if not path.exists():
            missing.append(name)
    assert sorted(missing) == sorted(UNTESTED)
