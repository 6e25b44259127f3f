"""Folders of sentence-transformers: ours come back bit for bit, theirs are read right.

tests/parity loads what is written here with the real library.
"""

import ast
import dataclasses
import json
import pathlib

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from art_jax.checkpoints import pretrained, sentence_transformers, tensors
from art_jax.data.layouts import layout_token_lists
from art_jax.data.question_table import query_layout
from art_jax.errors import ConfigError, CorruptError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "sentence_transformers"
MEGATRON = {"pre_layer_norm": True, "embedding_layer_norm": False}
# gin/models/tiny.gin's form.
TINY = MEGATRON | {
    "num_heads": 1,
    "head_dim": 4,
    "type_vocab_size": 0,
    "use_positions": False,
}
FORMS = {"post_ln": {}, "megatron": MEGATRON, "tiny": TINY}


def save(folder, made):
    folder.mkdir(parents=True, exist_ok=True)
    sentence_transformers.save_retriever(folder, made)
    return folder


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def change_json(path, **changes):
    path.write_text(json.dumps(read_json(path) | changes), encoding="utf-8")


def assert_same(found, made):
    """What was opened is what was saved, in all that the files can say."""
    encoder = made.encoder
    assert pretrained.encoder_of(found) == encoder
    assert found.tokenizer == made.tokenizer
    assert found.max_query_tokens == made.max_query_tokens
    assert found.max_passage_tokens == made.max_passage_tokens
    assert found.training == made.training
    got = tensors.to_host(found.towers)
    assert jax.tree.structure(got) == jax.tree.structure(made.params)
    for one, other in zip(
        jax.tree.leaves(got), jax.tree.leaves(made.params), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("form", "pooling", "shared"),
    [
        ("post_ln", "cls", False),
        ("post_ln", "mean", True),
        ("megatron", "cls", True),
        ("megatron", "weighted_mean", False),
        ("tiny", "weighted_mean", True),
        ("tiny", "mean", False),
    ],
)
def test_what_is_saved_comes_back_bit_for_bit(
    make_retriever, tmp_path, form, pooling, shared
):
    made = make_retriever(
        **FORMS[form],
        pooling=pooling,
        shared=shared,
        projection_dim=6 if form == "megatron" else 0,
        normalize=form != "post_ln",
    )
    assert_same(sentence_transformers.open_retriever(save(tmp_path, made)), made)


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_small_retriever_comes_back(make_retriever, tmp_path_factory, data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    made = make_retriever(
        **FORMS[draw(*FORMS)],
        hidden_size=draw(8, 12),
        intermediate_size=draw(1, 7),
        num_layers=draw(0, 1, 3),
        max_positions=draw(24, 40),
        layer_norm_eps=draw(1e-12, 1e-5),
        pooling=draw("cls", "mean", "weighted_mean"),
        shared=draw(True, False),
        projection_dim=draw(0, 1, 9),
        normalize=draw(True, False),
        max_query_tokens=draw(3, 20),
        max_passage_tokens=draw(20, 24),
        training=draw({}, {"steps": 3, "name": "ä"}),
        seed=data.draw(st.integers(0, 99)),
    )
    folder = save(tmp_path_factory.mktemp("any"), made)
    assert_same(sentence_transformers.open_retriever(folder), made)


def test_one_encoder_is_laid_out_as_their_older_versions_do(make_retriever, tmp_path):
    made = make_retriever(shared=True, pooling="cls", projection_dim=6, normalize=True)
    save(tmp_path, made)
    modules = read_json(tmp_path / "modules.json")
    assert [(module["idx"], module["name"]) for module in modules] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "3"),
    ]
    assert {module["path"]: module["type"] for module in modules} == {
        "": "sentence_transformers.models.Transformer",
        "1_Pooling": "sentence_transformers.models.Pooling",
        "2_Dense": "sentence_transformers.models.Dense",
        "3_Normalize": "sentence_transformers.models.Normalize",
    }
    assert read_json(tmp_path / "sentence_bert_config.json") == {
        "max_seq_length": 20,
        "do_lower_case": False,
    }
    pooling = read_json(tmp_path / "1_Pooling" / "config.json")
    assert pooling.pop("word_embedding_dimension") == 16
    assert [name for name, is_on in pooling.items() if is_on] == [
        "pooling_mode_cls_token"
    ]
    assert read_json(tmp_path / "2_Dense" / "config.json") == {
        "in_features": 16,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    settings = read_json(tmp_path / "config_sentence_transformers.json")
    assert settings["similarity_fn_name"] == "cosine"
    assert settings["__version__"] == {"sentence_transformers": "3.0.0"}


def test_two_encoders_are_the_routes_of_a_router(make_retriever, tmp_path):
    made = make_retriever(pooling="mean")
    save(tmp_path, made)
    (module,) = read_json(tmp_path / "modules.json")
    assert (module["path"], module["type"]) == (
        "",
        "sentence_transformers.models.Router",
    )
    router = read_json(tmp_path / "router_config.json")
    assert router["structure"] == {
        "query": ["query_0_Transformer", "query_1_Pooling"],
        "document": ["document_0_Transformer", "document_1_Pooling"],
    }
    assert router["parameters"]["default_route"] == "document"
    limits = {
        name: read_json(tmp_path / name / "sentence_bert_config.json")["max_seq_length"]
        for name in ("query_0_Transformer", "document_0_Transformer")
    }
    assert limits == {"query_0_Transformer": 9, "document_0_Transformer": 20}
    settings = read_json(tmp_path / "config_sentence_transformers.json")
    assert settings["similarity_fn_name"] == "dot"
    # The Router's first.
    assert settings["__version__"] == {"sentence_transformers": "5.0.0"}


def test_only_the_weighted_mean_brings_code(make_retriever, tmp_path):
    save(tmp_path / "mean", make_retriever(pooling="mean"))
    assert list((tmp_path / "mean").rglob("*.py")) == []
    folder = save(tmp_path / "weighted", make_retriever(pooling="weighted_mean"))
    (code,) = folder.rglob("*.py")
    assert code == folder / "weighted_mean.py"
    ast.parse(code.read_text(encoding="utf-8"))
    types = read_json(folder / "router_config.json")["types"]
    assert types["query_1_WeightedMean"] == "weighted_mean.WeightedMean"


def test_a_form_that_nobody_else_has_is_refused(make_retriever, tmp_path):
    with pytest.raises(ConfigError, match="MegatronBertModel"):
        save(tmp_path, make_retriever(pre_layer_norm=True))


def embed(found, cases, tokenizer):
    """Embeddings of golden texts by what was opened, queries and then documents."""
    encoder = pretrained.encoder_of(found)
    params = tensors.to_host(found.towers)
    separator = tokenizer.encode_batch(["[SEP]"])[0]

    def tokens(entries, limit):
        lists = tokenizer.encode_batch([entry["text"] for entry in entries])
        joined = [" ".join(map(str, ids)) for ids in lists]
        spelled = " ".join(map(str, separator))
        # In their texts "[SEP]" is the special token.
        joined = [text.replace(spelled, str(tokenizer.sep_id)) for text in joined]
        lists = [[int(word) for word in text.split()] for text in joined]
        return layout_token_lists(query_layout(tokenizer, limit), lists)

    queries = tokens(cases["queries"], found.max_query_tokens)
    documents = tokens(cases["documents"], found.max_passage_tokens)
    return (
        np.asarray(jax.jit(encoder.encode_query)(params, queries)),
        np.asarray(jax.jit(encoder.encode_passage)(params, documents)),
    )


@pytest.mark.parametrize(
    ("name", "kind", "pooling", "normalize", "projection_dim", "limits"),
    [
        ("one", "one encoder", "mean", True, 4, (12, 12)),
        ("two", "two encoders", "cls", False, 0, (8, 14)),
    ],
)
def test_a_folder_of_the_real_library_gives_its_embeddings(
    name, kind, pooling, normalize, projection_dim, limits
):
    found = sentence_transformers.open_retriever(GOLDEN / name)
    assert kind in found.format
    assert (found.pooling, found.normalize) == (pooling, normalize)
    assert found.projection_dim == projection_dim
    assert (found.max_query_tokens, found.max_passage_tokens) == limits
    cases = read_json(GOLDEN / name / "cases.json")
    queries, documents = embed(found, cases, found.tokenizer)
    for got, entries in ((queries, cases["queries"]), (documents, cases["documents"])):
        want = np.array([entry["embedding"] for entry in entries], np.float32)
        np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(queries @ documents.T, cases["similarity"], atol=3e-5)


def test_prompts_that_are_left_out_are_named():
    found = sentence_transformers.open_retriever(GOLDEN / "one")
    assert "prompts are left out: query 'why '" in found.format
    assert "prompts" not in sentence_transformers.open_retriever(GOLDEN / "two").format


@pytest.fixture
def saved(make_retriever, tmp_path):
    return save(tmp_path, make_retriever(shared=True, pooling="mean"))


SETTINGS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("name", "normalize"), [("cosine", True), ("dot", False), (None, None)]
)
def test_similarity_says_whether_lengths_count(saved, name, normalize):
    change_json(saved / SETTINGS, similarity_fn_name=name)
    assert sentence_transformers.open_retriever(saved).normalize is normalize


def test_a_similarity_that_is_not_computed_here_is_refused(saved):
    change_json(saved / SETTINGS, similarity_fn_name="euclidean")
    with pytest.raises(ConfigError, match="euclidean"):
        sentence_transformers.open_retriever(saved)


def test_a_folder_from_before_version_2_says_less(saved):
    (saved / SETTINGS).unlink()
    found = sentence_transformers.open_retriever(saved)
    assert found.normalize is None
    assert (found.max_query_tokens, found.max_passage_tokens) == (20, 20)
    assert found.training == {}


def test_another_kind_of_model_is_refused(saved):
    change_json(saved / SETTINGS, model_type="SparseEncoder")
    with pytest.raises(ConfigError, match="SparseEncoder"):
        sentence_transformers.open_retriever(saved)


@pytest.mark.parametrize(
    "ours", [[], {"training": []}, {"max_query_tokens": "9"}, {"max_query_tokens": 0}]
)
def test_a_damaged_entry_of_ours_is_named(saved, ours):
    change_json(saved / SETTINGS, art_jax=ours)
    with pytest.raises(CorruptError, match=SETTINGS):
        sentence_transformers.open_retriever(saved)


def test_a_limit_of_queries_is_never_above_the_encoders(saved):
    change_json(saved / SETTINGS, art_jax={"max_query_tokens": 999})
    assert sentence_transformers.open_retriever(saved).max_query_tokens == 20


@pytest.mark.parametrize("differing", ["pooling", "projection", "vocabulary"])
def test_towers_that_differ_in_more_than_weights_are_refused(
    make_retriever, tmp_path, differing
):
    made = make_retriever(pooling="mean", projection_dim=4)
    folder = save(tmp_path, made)
    if differing == "pooling":
        change_json(folder / "query_1_Pooling" / "config.json", pooling_mode="cls")
    elif differing == "projection":
        other = make_retriever(pooling="mean", projection_dim=5)
        save(tmp_path / "other", other)
        for name in ("config.json", "model.safetensors"):
            path = pathlib.Path("query_2_Dense", name)
            (folder / path).write_bytes((tmp_path / "other" / path).read_bytes())
    else:
        lower = dataclasses.replace(made.tokenizer, lowercase=False)
        save(tmp_path / "other", dataclasses.replace(made, tokenizer=lower))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            path = pathlib.Path("query_0_Transformer", name)
            (folder / path).write_bytes((tmp_path / "other" / path).read_bytes())
    name = {
        "pooling": "pooling",
        "projection": "projection_dim",
        "vocabulary": "tokenizer",
    }[differing]
    with pytest.raises(ConfigError, match=f"differ in their {name}"):
        sentence_transformers.open_retriever(folder)
