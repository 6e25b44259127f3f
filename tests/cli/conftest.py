"""A corpus, a finished run over it, and the command line called in this process."""

import collections
import contextlib
import io
import json
import pathlib
import platform
import shutil
import sys

import jax
import pytest
import sentencepiece

from art_jax.cli.main import main
from art_jax.data import example_files
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question

FOLDER = pathlib.Path(__file__).parent
GOLDEN = FOLDER.parent / "golden"
GIN_FILE = FOLDER / "small_run.gin"
ANIMALS = ["otter", "badger", "heron", "salmon", "falcon", "beetle", "walrus"]
NUM_PASSAGES = 30

Result = collections.namedtuple("Result", "code out err")


def passage_text(number):
    animal = ANIMALS[number % len(ANIMALS)]
    return (
        f"The {animal} lives at place{number}. It eats food{number} in winter. "
        f"People call it name{number} here."
    )


def write_corpus(folder):
    """Writes p.tsv (ids 1 to 30), train.txt, answers.jsonl and known.jsonl."""
    numbers = range(1, NUM_PASSAGES + 1)
    rows = [f"{n}\t{passage_text(n)}\ttitle {n}" for n in numbers]
    write(folder / "p.tsv", "id\ttext\ttitle", *rows)
    write(folder / "train.txt", *(f"what eats food{n}" for n in range(1, 17)))
    held_out = range(17, 27)
    known = [
        {"id": f"d{n}", "question": f"name{n}", "relevant_ids": [str(n)]}
        for n in held_out
    ]
    answers = [
        {"id": f"d{n}", "question": f"food{n}", "answers": [f"place{n}"]}
        for n in held_out
    ]
    write(folder / "known.jsonl", *map(json.dumps, known))
    write(folder / "answers.jsonl", *map(json.dumps, answers))
    return folder


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def train_arguments(corpus, model_dir, **macros):
    values = {
        "MODEL_DIR": str(model_dir),
        "PASSAGES": str(corpus / "p.tsv"),
        "QUERIES": str(corpus / "train.txt"),
        **macros,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    return ["train", f"--gin_file={GIN_FILE}", *flags]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@contextlib.contextmanager
def quick_compilation(programs=None):
    """Programs here run a few times each: optimising them takes longer than that.

    Args:
        programs: a folder where they are kept for those who compile the same.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    if programs is not None:
        jax.config.update("jax_compilation_cache_dir", str(programs))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    if programs is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(autouse=True)
def compile_quickly():
    with quick_compilation():
        yield


@pytest.fixture(scope="session")
def finished_run(corpus, tmp_path_factory):
    """ICT for 2 steps, ART for 4. Read only: copy it to change it."""
    model_dir = tmp_path_factory.mktemp("runs") / "run"
    dev = str(corpus / "known.jsonl")
    with quick_compilation():
        assert main(train_arguments(corpus, model_dir, DEV_QUERIES=dev)) == 0
    return model_dir


@pytest.fixture(scope="session")
def run_with_ann(finished_run, tmp_path_factory):
    """The same with an index of ScaNN, of codes alone. Read only: copy to change."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("ScaNN has wheels for Linux on x86-64 alone")
    run = tmp_path_factory.mktemp("runs") / "with_ann"
    shutil.copytree(finished_run, run)
    with quick_compilation():
        assert main(["ann", str(run), "--brute_force_below", "0", "-k", "5"]) == 0
    return run


@pytest.fixture
def art_jax(capfd):
    """`art_jax(verb, ...)` -> (exit code, stdout, stderr); argparse may exit too."""

    def call(*arguments):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def train(art_jax, corpus, tmp_path):
    """`train(MACRO=value, ...)` on the small run, in `tmp_path / "run"`."""

    def call(*more, **macros):
        return art_jax(*train_arguments(corpus, tmp_path / "run", **macros), *more)

    return call


@pytest.fixture(scope="session")
def t5_with_pieces(tmp_path_factory):
    """A T5 of Hugging Face with a vocabulary of its own. Read only."""
    folder = tmp_path_factory.mktemp("teachers") / "t5"
    shutil.copytree(GOLDEN / "hf" / "t5_v1_1", folder)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["what eats the heron", "the heron eats food"] * 9),
        model_writer=model,
        vocab_size=30,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def rankings(tmp_path_factory):
    """A folder with t.json, rankings of 8 questions, and vocab.txt for a T5 of tests.

    Of 4 passages each one holds "apple" and one "pear"; every other question has both
    for answers.
    """
    folder = tmp_path_factory.mktemp("rankings")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "q", "d", "yes", "no"]
    words += [f"w{number}" for number in range(8)] + ["apple", "pear"]
    write(folder / "vocab.txt", *words)
    ranked = []
    for number in range(8):
        texts = [f"w{number} w{place}" for place in range(4)]
        texts[number % 4] += " apple"
        texts[(number + 1) % 4] += " pear"
        candidates = tuple(
            Candidate(Passage(f"{number}.{place}", text), 1.0 - place)
            for place, text in enumerate(texts)
        )
        groups = (("apple",), ("pear",))[: 1 + number % 2]
        answers = tuple(answer for group in groups for answer in group)
        question = Question(str(number), f"w{number}", answers, answer_groups=groups)
        ranked.append(RankedQuestion(question, candidates))
    example_files.write_examples(folder / "t.json", ranked, "dpr-results")
    return folder


def train_t5_arguments(verb, rankings, model_dir, gin_file):
    values = {
        "MODEL_DIR": str(model_dir),
        "TRAIN_RANKINGS": str(rankings / "t.json"),
        "VOCABULARY": str(rankings / "vocab.txt"),
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    return [verb, f"--gin_file={FOLDER / gin_file}", *flags]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A folder of compiled programs, for `nothing_compiled_twice`."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def nothing_compiled_twice(programs):
    """For modules that train with the same program again and again."""
    with quick_compilation(programs):
        yield


@pytest.fixture(scope="session")
def trained_monot5(rankings, programs, tmp_path_factory):
    """4 steps of monoT5. Read only."""
    model_dir = tmp_path_factory.mktemp("runs") / "monot5"
    with quick_compilation(programs):
        arguments = train_t5_arguments("train", rankings, model_dir, "small_t5.gin")
        assert main(arguments) == 0
    return model_dir


@pytest.fixture(scope="session")
def tuned_jpr(rankings, programs, tmp_path_factory):
    """JPR of gamma 0 and 1, a step each, decoded with beta 1 and 2. Read only."""
    model_dir = tmp_path_factory.mktemp("runs") / "tuned"
    with quick_compilation(programs):
        arguments = train_t5_arguments("tune", rankings, model_dir, "small_jpr.gin")
        gammas, betas = ["--gamma", "0", "1"], ["--beta", "2", "1"]
        assert main([*arguments, "--gin.GAMMA=0", *gammas, *betas]) == 0
    return model_dir
