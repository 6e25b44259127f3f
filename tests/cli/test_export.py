"""`art-jax export`: what leaves can be read again, and says what it is."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from art_jax import manifest
from art_jax.checkpoints import formats, tensors
from art_jax.checkpoints.retriever import SavedRetriever, load_retriever, save_retriever
from art_jax.data import tokenizers
from art_jax.data.query_forms import QueryForm
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder
from art_jax.partitioning import make_mesh

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
RETRIEVER_FORMS = ("sentence-transformers", "huggingface", "dpr")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run with two untrained post-LN towers, of a form that every tool knows."""
    folder = tmp_path_factory.mktemp("export") / "run"
    folder.mkdir()
    tokenizer = tokenizers.train_wordpiece(["a passage", "of two words each"] * 2, 80)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        num_layers=1,
        num_heads=1,
        intermediate_size=16,
        max_positions=32,
    )
    encoder = DualEncoder(config)
    params = jax.jit(encoder.init)(jax.random.key(0))
    other = jax.jit(encoder.init)(jax.random.key(1))
    params = {"query": params["query"], "passage": other["passage"]}
    made = SavedRetriever(encoder, params, tokenizer, 12, 32, {"stages": ["art"]})
    save_retriever(folder / "retriever", made)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def params_of(source):
    return tensors.to_host(formats.open_retriever(source).towers, "float32")


@pytest.mark.parametrize("to", RETRIEVER_FORMS)
def test_what_leaves_comes_back_bit_for_bit(art_jax, copy, to, tmp_path):
    code, out, err = art_jax("export", copy, "--to", to)
    target = copy / "exports" / to
    assert code == 0
    assert out == f"{target}\n"
    assert "will state no metrics" in err
    got, want = params_of(target), params_of(copy)
    for side, tower in want.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tower):
            held = got[side]
            for part in path:
                held = held[part.key]
            np.testing.assert_array_equal(held, leaf)
    # And becomes a run's retriever again, its vocabulary included.
    assert art_jax("import", target, tmp_path / "again").code == 0
    again = load_retriever(tmp_path / "again", make_mesh())
    before = load_retriever(copy, make_mesh())
    assert again.tokenizer.digest == before.tokenizer.digest


@pytest.mark.parametrize("to", RETRIEVER_FORMS)
def test_an_export_says_what_it_is_and_what_it_must_give(art_jax, copy, to):
    (copy / "evaluation").mkdir()
    record = {"task": "known.jsonl", "split": "test", "metrics": {"top_5": 0.25}}
    (copy / "evaluation" / "retriever.json").write_text(json.dumps(record))
    assert art_jax("export", copy, "--to", to).code == 0
    target = copy / "exports" / to
    card = (target / "README.md").read_text()
    assert "| top_5 (known.jsonl, test) | 0.25 |" in card
    cases = json.loads((target / "parity.json").read_text())
    assert len(cases["queries"][0]["embedding"]) == 64
    assert manifest.verify_manifest(target)["extra"] == {"kind": "export", "to": to}


@pytest.mark.parametrize("to", RETRIEVER_FORMS)
def test_one_flipped_bit_in_any_file_of_an_export_is_found(art_jax, copy, to):
    assert art_jax("export", copy, "--to", to).code == 0
    target = copy / "exports" / to
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for path in files:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 4
        path.write_bytes(bytes(bad))
        code, _, err = art_jax("verify", target)
        assert code == 4
        assert str(path) in err
        path.write_bytes(good)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_a_runs_embeddings_leave_with_their_ids(art_jax, finished_run, form, tmp_path):
    out = tmp_path / "out"
    done = art_jax("export", finished_run, "--to", form, "--output_dir", out)
    assert done.code == 0
    assert "30 embeddings" in done.err
    assert art_jax("verify", out).code == 0
    if form == "npy":
        assert np.load(out / "embeddings.npy").shape == (30, 32)
        assert (out / "ids.txt").read_text().split() == [str(n) for n in range(1, 31)]


@pytest.mark.parametrize("source", ["hf/t5_v1_1", "hf/t5_v1_0", "t5x/v1_1_bf16"])
@pytest.mark.parametrize("to", ["huggingface", "t5x"])
def test_a_t5_leaves_in_both_forms(art_jax, source, to, tmp_path):
    out = tmp_path / "out"
    assert art_jax("export", GOLDEN / source, "--to", to, "--output_dir", out).code == 0
    got, want = formats.open_t5(out), formats.open_t5(GOLDEN / source)
    assert got.config == want.config
    assert got.format != want.format or (to == "t5x") == source.startswith("t5x")
    jax.tree.map(
        np.testing.assert_array_equal,
        tensors.to_host(got.params),
        tensors.to_host(want.params),
    )
    assert art_jax("verify", out).code == 0


@pytest.mark.parametrize("to", ["huggingface", "t5x"])
def test_a_t5s_vocabulary_leaves_with_it(art_jax, t5_with_pieces, to, tmp_path):
    out = tmp_path / "out"
    assert art_jax("export", t5_with_pieces, "--to", to, "--output_dir", out).code == 0
    pieces = (t5_with_pieces / "spiece.model").read_bytes()
    assert (out / "spiece.model").read_bytes() == pieces
    assert (out / "tokenizer_config.json").exists() == (to == "huggingface")


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("run", "t5x", "is a retriever: export it --to sentence-transformers"),
        ("run", "npy", "holds no index: make one with `art-jax embed"),
        ("t5", "dpr", "is a T5: export it --to huggingface or t5x"),
        ("nowhere", "dpr", "give --output_dir"),
    ],
)
def test_what_has_no_such_form_ends_in_2(art_jax, run, tmp_path, source, to, message):
    places = {"run": run, "t5": GOLDEN / "hf" / "t5_v1_1", "nowhere": tmp_path / "no"}
    target = [] if source == "nowhere" else ["--output_dir", tmp_path / "out"]
    code, _, err = art_jax("export", places[source], "--to", to, *target)
    assert code == 2
    assert message in err
    assert not list(tmp_path.glob("*out*"))


def test_what_was_exported_before_is_left_alone(art_jax, copy):
    assert art_jax("export", copy, "--to", "dpr").code == 0
    code, _, err = art_jax("export", copy, "--to", "dpr")
    assert code == 2
    assert "exists: give a new folder" in err


def test_a_record_that_is_none_ends_in_4(art_jax, copy):
    (copy / "evaluation").mkdir()
    (copy / "evaluation" / "retriever.json").write_text("[]")
    code, _, err = art_jax("export", copy, "--to", "dpr")
    assert code == 4
    assert "evaluate again" in err
    assert not (copy / "exports").exists()


@pytest.fixture
def of_two_tasks(copy):
    """The run with two question towers, each of a task."""
    made = load_retriever(copy, make_mesh(1))
    forms = {
        "nq": QueryForm(suffix="?", tower="a"),
        "fever": QueryForm(marker="[F]", special=("[SEP]",), tower="b"),
    }
    query = made.params["query"]
    save_retriever(
        copy / "retriever",
        dataclasses.replace(
            made,
            encoder=dataclasses.replace(made.encoder, query_towers=("a", "b")),
            params={
                **made.params,
                "query": jax.tree.map(lambda x: np.stack([x * 2, x]), query),
            },
            query_forms=forms,
            special_ids={"[F]": 7, "[SEP]": 3},
        ),
    )
    return copy, made


def test_of_several_question_towers_one_is_exported_by_name(
    of_two_tasks, art_jax, tmp_path
):
    source, made = of_two_tasks
    for to in RETRIEVER_FORMS:
        result = art_jax("export", source, "--to", to)
        assert result.code == 2
        assert "holds one: say which with --query_task, of nq, fever" in result.err
    target = tmp_path / "exported"
    task = ("--query_task", "fever")
    assert (
        art_jax("export", source, "--to", "dpr", "--output_dir", target, *task).code
        == 0
    )
    found = formats.open_retriever(target)
    jax.tree.map(
        np.testing.assert_array_equal,
        tensors.to_host(found.towers["query"]),
        tensors.to_host(made.params["query"]),
    )
    card = (target / "README.md").read_text()
    assert "task fever: put token 7 behind [CLS]; [SEP] is token 3." in card


def test_a_vector_read_off_at_a_token_has_no_other_form(copy, art_jax):
    made = load_retriever(copy, make_mesh(1))
    encoder = dataclasses.replace(made.encoder, query_token_id=5)
    save_retriever(copy / "retriever", dataclasses.replace(made, encoder=encoder))
    result = art_jax("export", copy, "--to", "dpr")
    assert result.code == 2
    assert "reads a question's vector off at a token" in result.err
