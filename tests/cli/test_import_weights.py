"""`art-jax import`: weights of other tools become a retriever, or a T5, of ours."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from art_jax import manifest
from art_jax.checkpoints import huggingface, t5x, tensors
from art_jax.checkpoints.retriever import load_retriever
from art_jax.cli import train as train_module
from art_jax.data.tokenizers import WORDPIECE_SPECIALS
from art_jax.partitioning import make_mesh

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# The sizes of the golden BERT, which the small run's encoder does not have.
BERT_SIZES = {
    "num_heads": 4,
    "intermediate_size": 64,
    "max_positions": 64,
    "pre_layer_norm": False,
    "embedding_layer_norm": True,
    "use_positions": True,
}


@pytest.fixture
def vocabulary(tmp_path):
    """A vocab.txt with as many pieces as the golden models have embeddings."""
    words = ["what", "eats", "the", "food", "lives", "at", "place", "title"]
    pieces = [*WORDPIECE_SPECIALS, *words]
    letters = [chr(97 + i) for i in range(26)] + [str(i) for i in range(10)]
    pieces += letters + [f"##{letter}" for letter in letters]
    pieces += [f"unused{i}" for i in range(272 - len(pieces))]
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces))
    return path


@pytest.fixture
def bert(tmp_path, vocabulary):
    """The golden BERT with a vocabulary, as a download has it."""
    folder = tmp_path / "bert"
    shutil.copytree(GOLDEN / "hf" / "bert", folder)
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    return folder


def test_a_bert_becomes_a_retriever(art_jax, bert, tmp_path):
    code, out, err = art_jax("import", bert, tmp_path / "mine")
    assert code == 0
    assert out == f"{tmp_path / 'mine'}\n"
    assert f"{bert}: Hugging Face BertModel" in err
    assert "taking the [CLS] vector" in err
    loaded = load_retriever(tmp_path / "mine", make_mesh())
    assert (loaded.encoder.pooling, loaded.encoder.shared) == ("cls", True)
    assert (loaded.max_query_tokens, loaded.max_passage_tokens) == (64, 64)
    assert "BertModel" in loaded.training["imported_as"]
    _, want = huggingface.open_bert(bert)
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded.params["shared"]["encoder"],
        tensors.to_host(want, "float32"),
    )
    assert art_jax("verify", tmp_path / "mine").code == 0


def test_what_the_files_do_not_say_can_be_given(art_jax, vocabulary, tmp_path):
    done = art_jax(
        *("import", GOLDEN / "hf" / "bert", tmp_path / "mine"),
        *("--vocabulary", vocabulary, "--cased", "--pooling", "mean"),
        *("--max_query_tokens", 10, "--max_passage_tokens", 20),
    )
    assert done.code == 0
    loaded = load_retriever(tmp_path / "mine", make_mesh())
    assert loaded.encoder.pooling == "mean"
    assert not loaded.tokenizer.lowercase
    assert (loaded.max_query_tokens, loaded.max_passage_tokens) == (10, 20)


def test_an_imported_retriever_embeds_and_searches(art_jax, bert, corpus, tmp_path):
    assert art_jax("import", bert, tmp_path / "mine").code == 0
    passages = ("--passages", corpus / "p.tsv", "--output_dir", tmp_path / "run")
    assert art_jax("embed", tmp_path / "mine", *passages).code == 0
    code, out, _ = art_jax("search", tmp_path / "run", "what eats food3", "-k", 2)
    assert code == 0
    assert out.startswith("  1 ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "holds no vocabulary: give the vocab.txt"),
        (["--vocabulary", "{vocab}", "--max_query_tokens", 65], "has 64 positions"),
        (["--vocabulary", "{vocab}", "--max_passage_tokens", 2], "3 at least"),
    ],
)
def test_what_is_missing_or_does_not_fit_ends_in_2(
    art_jax, vocabulary, tmp_path, arguments, message
):
    given = [str(a).replace("{vocab}", str(vocabulary)) for a in arguments]
    target = tmp_path / "mine"
    code, _, err = art_jax("import", GOLDEN / "hf" / "bert", target, *given)
    assert code == 2
    assert message in err
    assert not target.exists()


def test_what_the_files_say_is_not_overruled(art_jax, vocabulary, tmp_path):
    code, _, err = art_jax(
        *("import", GOLDEN / "hf" / "dpr_question_encoder", tmp_path / "mine"),
        *("--vocabulary", vocabulary, "--pooling", "mean"),
    )
    assert code == 2
    assert "--pooling is 'mean', but" in err
    assert "says 'cls'" in err


def test_a_vocabulary_larger_than_the_model_ends_in_2(art_jax, vocabulary, tmp_path):
    vocabulary.write_text(vocabulary.read_text() + "onemore\n")
    code, _, err = art_jax(
        *("import", GOLDEN / "hf" / "bert", tmp_path / "mine"),
        *("--vocabulary", vocabulary),
    )
    assert code == 2
    assert "has 273 pieces" in err


def test_what_is_there_already_is_left_alone(art_jax, bert, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    code, _, err = art_jax("import", bert, tmp_path / "mine")
    assert code == 2
    assert "exists: give a new folder" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_damaged_source_ends_in_4_and_leaves_nothing(art_jax, bert, tmp_path):
    file = bert / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    code, _, err = art_jax("import", bert, tmp_path / "mine")
    assert code == 4
    assert "model.safetensors" in err
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("source", "dtype"),
    [
        ("hf/t5_v1_1", "float32"),
        ("hf/t5_v1_0", "float32"),
        ("t5x/v1_1_bf16", "bfloat16"),
        ("t5x/v1_1_scan_f32", "float32"),
    ],
)
def test_a_t5_becomes_a_t5x_checkpoint(art_jax, tmp_path, source, dtype):
    target = tmp_path / "teacher"
    assert art_jax("import", GOLDEN / source, target).code == 0
    _, params = t5x.open_t5(target)
    read = huggingface if source.startswith("hf") else t5x
    path = GOLDEN / source
    if read is t5x:
        path = t5x.find_step(path)
    _, want = read.open_t5(path)
    assert str(params["token_embedder"]["embedding"].dtype) == dtype
    jax.tree.map(
        np.testing.assert_array_equal, tensors.to_host(params), tensors.to_host(want)
    )
    assert manifest.verify_manifest(target)["extra"]["kind"] == "t5x_checkpoint"
    assert art_jax("verify", target).code == 0


def test_a_t5s_vocabulary_comes_along(art_jax, tmp_path):
    source = tmp_path / "t5"
    shutil.copytree(GOLDEN / "hf" / "t5_v1_1", source)
    (source / "spiece.model").write_bytes(b"pieces")
    assert art_jax("import", source, tmp_path / "teacher").code == 0
    assert (tmp_path / "teacher" / "spiece.model").read_bytes() == b"pieces"
    code, _, err = art_jax("import", source, tmp_path / "x", "--pooling", "cls")
    assert code == 2
    assert "--pooling is for retrievers" in err


def test_training_starts_from_a_bert(train, bert, tmp_path, monkeypatch):
    # Stages that train nothing: what is saved is what they were given.
    monkeypatch.setattr(
        train_module, "run_stage", lambda stage, workspace, params, **others: params
    )
    sizes = [f"--gin.bert.BertConfig.{k}={v!r}" for k, v in BERT_SIZES.items()]
    code, _, err = train(
        *sizes,
        "--gin.dual_encoder.DualEncoder.shared=False",
        INITIAL_CHECKPOINT_PATH=str(bert),
    )
    assert code == 0, err
    assert f"starting from {bert}: Hugging Face BertModel" in err
    assert "teacher of art: query likelihood" in err
    saved = load_retriever(tmp_path / "run", make_mesh())
    assert "BertModel" in saved.training["initial_checkpoint"]
    assert saved.encoder.pooling == "mean"  # the run file's, since a BERT says none
    _, want = huggingface.open_bert(bert, add_pooler=False)
    assert saved.params.keys() == {"query", "passage"}
    for tower in saved.params.values():
        jax.tree.map(
            np.testing.assert_array_equal, tower["encoder"], tensors.to_host(want)
        )


def test_training_from_another_size_names_the_fields(train, bert, tmp_path):
    code, _, err = train(INITIAL_CHECKPOINT_PATH=str(bert))
    assert code == 2
    assert "holds another model than ENCODER" in err
    assert "its num_heads is 4, not" in err
    assert not (tmp_path / "run").exists()


def test_a_config_with_absurd_sizes_ends_in_4(art_jax, bert, tmp_path):
    settings = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(
        json.dumps({**settings, "num_hidden_layers": 10**9})
    )
    code, _, err = art_jax("import", bert, tmp_path / "mine")
    assert code == 4
    assert "num_hidden_layers" in err
