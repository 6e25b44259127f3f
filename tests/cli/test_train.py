import dataclasses
import json
import pathlib
import shutil

import pytest

from art_jax.checkpoints import formats
from art_jax.checkpoints.retriever import load_retriever
from art_jax.cli import gin_flags
from art_jax.cli import train as train_module
from art_jax.data.tokenizers import load_tokenizer
from art_jax.errors import ConfigError
from art_jax.partitioning import make_mesh

GOOD_PARTS = ("retriever", "index")


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_leaves_what_search_needs_and_what_people_look_for(finished_run):
    names = {path.name for path in finished_run.iterdir()}
    assert {"retriever", "index", "evidence", "tokenizers", "warm_up", "art"} <= names
    assert {"config.gin", "env.json", "model-info.txt"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert json.loads((finished_run / "env.json").read_text())["packages"]["jax"]
    info = (finished_run / "model-info.txt").read_text()
    assert "shared/encoder/layers_1/attention/query/kernel size 1024" in info
    training = load_retriever(finished_run, make_mesh()).training
    assert training["stages"] == ["warm_up", "art"]
    assert training["passages"] == 30


def test_the_saved_config_is_one_that_gin_reads_to_the_same_values(finished_run):
    import gin

    saved = str(finished_run / "config.gin")
    gin_flags.parse_gin([saved], [])
    assert gin.query_parameter("art/stage.Stage.train_steps") == 4
    assert gin.query_parameter("MODEL_DIR/gin.macro.value") == str(finished_run)


@pytest.fixture
def train_dpr(art_jax, corpus, tmp_path):
    """`train_dpr(positives, MACRO=value)` on examples with so many right passages."""

    def call(num_positives=1, *flags, **macros):
        path = tmp_path / "examples.json"
        examples = [
            {
                "question": f"what eats food{n}",
                "positive_ctxs": [{"title": f"title {n}", "text": f"food{n}"}]
                * (num_positives if n < 24 else 0),
                "hard_negative_ctxs": [{"title": "", "text": f"food{n + 1}"}],
            }
            for n in range(8, 25)
        ]
        path.write_text(json.dumps(examples))
        values = {
            "MODEL_DIR": str(tmp_path / "run"),
            "PASSAGES": str(corpus / "p.tsv"),
            "TRAIN_EXAMPLES": str(path),
            "DEV_EXAMPLES": str(path),
            **macros,
        }
        values = [f"--gin.{name}={value!r}" for name, value in values.items()]
        gin_file = pathlib.Path(__file__).parent / "small_dpr.gin"
        return art_jax("train", f"--gin_file={gin_file}", *values, *flags)

    return call


def test_dpr_trains_on_a_file_of_examples(train_dpr, corpus, tmp_path):
    code, _, err = train_dpr(
        1,
        "--gin_file=gin/methods/choose_by_retrieval.gin",
        DEV_QUERIES=str(corpus / "known.jsonl"),
    )
    assert code == 0, err
    sizes = "16 questions with 32 passages: examples.json 16"
    assert f"dpr: {sizes} (1 without a right passage left out)" in err
    # Both kinds of held-out measures, and none before EVAL_FROM_STEP.
    lines = [line for line in err.splitlines() if line.startswith("dev at step")]
    assert [line.split(":")[0] for line in lines] == ["dev at step 2", "dev at step 4"]
    measures = ("average_rank", "nll", "top_20")
    assert all(name in line for line in lines for name in measures)
    assert "train: " not in err  # Questions to train on come with the examples.
    assert load_retriever(tmp_path / "run", make_mesh()).training["stages"] == ["dpr"]
    assert (tmp_path / "run" / "index").is_dir()


@pytest.mark.parametrize(
    ("num_positives", "macros", "code", "message"),
    [
        (0, {}, 3, "17 questions and none has a right passage"),
        (1, {"BATCH_SIZE": 24}, 2, "stage 'dpr': examples.json: a batch takes 24"),
        (1, {"TRAIN_EXAMPLES": "nowhere.json"}, 3, "nowhere.json"),
        (1, {"TRAIN_TASK": "biencoder_nq"}, 2, "give one of the two"),
        (1, {"TRAIN_TASK": "a", "TRAIN_EXAMPLES": None}, 2, "no SeqIO task or mixture"),
    ],
    ids=["positives", "size", "file", "both", "task"],
)
def test_what_dpr_cannot_train_on_is_found_before_training(
    train_dpr, tmp_path, num_positives, macros, code, message
):
    got, _, err = train_dpr(num_positives, **macros)
    assert (got, message in err) == (code, True), err
    assert not (tmp_path / "run" / "dpr").exists()


def test_the_same_command_again_finds_its_work_done(
    art_jax, corpus, finished_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = files_of(run)
    saved = (run / "config.gin").read_text().replace(str(finished_run), str(run))
    (tmp_path / "again.gin").write_text(saved)
    code, _, err = art_jax("train", f"--gin_file={tmp_path / 'again.gin'}")
    assert code == 0
    assert "warm_up: finished before, at step 2" in err
    assert "art: finished before, at step 4" in err
    assert "settings have changed since the last start" in err
    changed = [line for line in err.splitlines() if line.startswith(("  + ", "  - "))]
    assert changed
    assert all(str(finished_run) in line for line in changed if "  - " in line)
    after = files_of(run)
    for name, content in before.items():
        if name.startswith(("retriever/", "index/embeddings", "evidence/")):
            assert after[name] == content, name


def test_a_run_starts_from_anothers_retriever_with_its_vocabulary(
    finished_run, tmp_path
):
    start = formats.open_retriever(finished_run)
    make = train_module.retriever_tokenizer(None, 300, start, finished_run)
    held = load_tokenizer(finished_run / "retriever" / "tokenizer")
    assert make(iter(())).digest == held.digest
    with pytest.raises(ConfigError, match="VOCABULARY .* is no file"):
        train_module.retriever_tokenizer(str(tmp_path / "no.txt"), 300, None, None)
    start = dataclasses.replace(start, tokenizer=None)
    with pytest.raises(ConfigError, match="holds no vocabulary: give the vocab.txt"):
        train_module.retriever_tokenizer(None, 300, start, finished_run)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gin.PASSAGES=p.tsv", "--gin: gin cannot read 'PASSAGES = p.tsv'"),
        ("--gin.PASAGES='p'", "the macro PASAGES. Did you mean PASSAGES?"),
        ("--gin.train.train.vocab_sise=3", "vocab_sise"),
        ("--gin.art.Art.num_pasages=3", "num_pasages"),
        ("--gin.no.Such.thing=3", "no.Such"),
        ("--gin.QUERIES=%gin.REQUIRED", "small_run.gin needs QUERIES: give each"),
        ("--gin.bert.BertConfig.num_heads=3", "hidden_size 32 is no multiple of"),
        ("--gin_file=gin/runs/nowhere.gin", "no gin file gin/runs/nowhere.gin"),
    ],
)
def test_wrong_configuration_ends_in_2_and_writes_nothing(
    train, tmp_path, flag, message
):
    code, out, err = train(flag)
    assert code == 2
    assert message in err
    assert err.startswith("art-jax: error: ")
    assert "In call to" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"1\tsome text\tt\n2\n", 2),
        (b"1\tsome text\tt\n1\tmore text\tt\n", 2),
        (b"1\tsome text\tt\n\tmore text\tt\n", 2),
        (b"1\tsome text\tt\n2\t\tt\n", 2),
        (b"1\tsome text\tt\n2\t\xff\xfe text\tt\n", 2),
    ],
    ids=["fields", "duplicate", "no-id", "empty", "utf8"],
)
def test_bad_passages_end_in_3_and_mended_ones_train_on(train, tmp_path, content, line):
    passages = tmp_path / "p.tsv"
    passages.write_bytes(content)
    code, _, err = train(PASSAGES=str(passages))
    assert code == 3
    assert f"{passages}:{line}" in err
    run = tmp_path / "run"
    assert not any((run / part).exists() for part in (*GOOD_PARTS, "evidence"))
    # Mended, the same command gets past the evidence, to the next thing to say.
    passages.write_bytes(b"1\tsome text here\tt\n2\tmore text\tt\n")
    code, _, err = train(PASSAGES=str(passages), PASSAGES_PER_QUERY=9)
    assert code == 2
    assert "evidence: 2 passages" in err


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("q.jsonl", b'{"question": "a"}\n{"question": \n', ":2"),
        ("q.txt", b"good\n\xff\xfe\n", ":2"),
        ("q.txt", b"", ""),
        ("q.jsonl", b'{"id": "1", "question": "a"}\n' * 2, ":2"),
    ],
    ids=["json", "utf8", "none", "duplicate"],
)
def test_bad_questions_end_in_3(train, tmp_path, name, content, place):
    queries = tmp_path / name
    queries.write_bytes(content)
    code, _, err = train(QUERIES=str(queries))
    assert code == 3
    assert f"{queries}{place}" in err
    assert not any((tmp_path / "run" / part).exists() for part in GOOD_PARTS)


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"PASSAGES_PER_QUERY": 31}, "stage 'art': PASSAGES_PER_QUERY is 31"),
        (
            {"BATCH_SIZE": 24},
            "stage 'art': a batch takes 24 examples, but there are 16",
        ),
        ({"BATCH_SIZE": 32}, "stage 'warm_up': a batch takes 32 examples"),
        ({"BATCH_SIZE": 9}, "BATCH_SIZE is 9, but the 8 devices"),
    ],
    ids=["K", "questions", "passages", "devices"],
)
def test_sizes_that_do_not_fit_are_found_before_training(
    train, tmp_path, macros, message
):
    code, _, err = train(**macros)
    assert code == 2
    assert message in err
    assert not (tmp_path / "run" / "warm_up").exists()
    assert not any((tmp_path / "run" / part).exists() for part in GOOD_PARTS)


def test_a_checkpoint_of_another_model_ends_in_2(train, finished_run):
    start = str(finished_run)
    code, _, err = train(INITIAL_CHECKPOINT_PATH=start, HIDDEN_SIZE=16)
    assert code == 2
    assert f"{start} (a retriever of art_jax) holds another model" in err
    assert "its hidden_size is 32, not 16" in err


def test_a_checkpoint_of_another_vocabulary_ends_in_2(train, finished_run, tmp_path):
    pieces = (finished_run / "retriever/tokenizer/vocab.txt").read_text().splitlines()
    pieces[-1], pieces[-2] = pieces[-2], pieces[-1]
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(pieces) + "\n")
    code, _, err = train(
        f"--gin.train.train.vocabulary={str(vocabulary)!r}",
        f"--gin.bert.BertConfig.vocab_size={len(pieces)}",
        INITIAL_CHECKPOINT_PATH=str(finished_run),
    )
    assert code == 2
    assert "was trained with another vocabulary" in err


def test_no_checkpoint_where_one_is_said_to_be_ends_in_2(train, tmp_path):
    code, _, err = train(INITIAL_CHECKPOINT_PATH="nowhere")
    assert code == 2
    assert "nowhere does not exist" in err


def test_a_folder_of_something_else_is_left_alone(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("all of it")
    code, _, err = train()
    assert code == 2
    assert "holds 'thesis.tex' and no run of art-jax: give a new folder" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_folder_is_left_alone(train, tmp_path):
    (tmp_path / "run").write_text("a file")
    code, _, err = train()
    assert code == 2
    assert "is a file: give a folder" in err


def test_missing_passages_end_in_3(train):
    code, _, err = train(PASSAGES="nowhere.tsv")
    assert code == 3
    assert "nowhere.tsv" in err


def test_a_stray_quote_swallows_no_rows(train, tmp_path):
    passages = tmp_path / "p.tsv"
    passages.write_text('1\tsome text\tt\n2\t"some text\tt\n3\tmore\tt\n')
    code, _, err = train(PASSAGES=str(passages))
    assert code == 2  # K is 8
    assert "evidence: 3 passages" in err
