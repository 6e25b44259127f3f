"""Modules that are not computed here are refused by name; hostile ones lead nowhere."""

import json

import numpy as np
import pytest
import safetensors.numpy

from art_jax.checkpoints import sentence_transformers, st_modules, tensors
from art_jax.errors import ConfigError, CorruptError


@pytest.fixture
def one(make_retriever, tmp_path):
    made = make_retriever(shared=True, pooling="mean", projection_dim=4, normalize=True)
    sentence_transformers.save_retriever(tmp_path, made)
    return tmp_path


@pytest.fixture
def two(make_retriever, tmp_path):
    sentence_transformers.save_retriever(tmp_path, make_retriever(pooling="mean"))
    return tmp_path


def open_query(folder):
    return st_modules.open_tower(st_modules.read_chains(folder)["query"])


def change(path, edit):
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(edit(value)), encoding="utf-8")


def change_keys(path, **changes):
    change(path, lambda value: value | changes)


def replace_types(folder, types):
    def edit(modules):
        for module in modules:
            name = module["type"].split(".")[-1]
            module["type"] = types[name]
        return modules

    change(folder / "modules.json", edit)


def test_names_of_every_version_are_known(one):
    replace_types(
        one,
        {
            "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
            "Pooling": "sentence_transformers.sentence_transformer.modules.pooling"
            ".Pooling",
            "Dense": "sentence_transformers.models.Dense.Dense",
            "Normalize": "sentence_transformers.models.Normalize",
        },
    )
    assert open_query(one).normalize


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.CNN",
        "evil.Transformer",
        "weighted_mean.Other",
        "os.system",
        "Transformer",
    ],
)
def test_other_code_is_refused_and_not_run(one, kind):
    change(one / "modules.json", lambda entries: [{**entries[0], "type": kind}])
    (one / "evil.py").write_text("raise SystemExit")
    with pytest.raises(ConfigError, match=f"{kind}.*never run"):
        st_modules.read_chains(one)


@pytest.mark.parametrize(
    "path",
    ["..", "../x", "/etc", "a/../../b", "C:/x", "..\\x", "a\0b", None, 3, "link"],
    ids=repr,
)
def test_no_path_leads_out_of_the_folder(one, tmp_path_factory, path):
    (one / "link").symlink_to(tmp_path_factory.mktemp("outside"))
    change(one / "modules.json", lambda entries: [{**entries[0], "path": path}])
    with pytest.raises(CorruptError, match="modules.json"):
        st_modules.read_chains(one)


def test_no_route_leads_out_of_the_folder(two):
    def edit(router):
        router["types"]["../x"] = router["types"].pop("query_0_Transformer")
        router["structure"]["query"][0] = "../x"
        return router

    change(two / "router_config.json", edit)
    with pytest.raises(CorruptError, match="leads out"):
        st_modules.read_chains(two)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[[]]", "[{}]", "[" * 9000])
def test_a_damaged_list_of_modules_is_named(one, text):
    (one / "modules.json").write_text(text)
    with pytest.raises(CorruptError, match="modules.json"):
        st_modules.read_chains(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"types": []},
        {"structure": None},
        {"structure": {"query": "x", "document": []}},
        {"structure": {"query": [["x"]], "document": []}},
        {"structure": {"query": ["x"], "document": []}},
        {"types": {"query_0_Transformer": 3}},
    ],
    ids=str,
)
def test_a_damaged_router_is_named(two, changes):
    change_keys(two / "router_config.json", **changes)
    with pytest.raises(CorruptError, match="router_config.json"):
        st_modules.read_chains(two)


def rename_routes(folder, names):
    change(
        folder / "router_config.json",
        lambda router: {
            **router,
            "structure": {
                names.get(name, name): chain
                for name, chain in router["structure"].items()
            },
        },
    )


def test_the_older_asym_is_read(two):
    rename_routes(two, {"document": "doc"})
    (two / "router_config.json").rename(two / "config.json")
    change(
        two / "modules.json",
        lambda entries: [
            {**entries[0], "type": "sentence_transformers.models.Asym.Asym"}
        ],
    )
    kinds = [module.kind for module in st_modules.read_chains(two)["passage"]]
    assert kinds == ["Transformer", "Pooling"]


def test_routes_by_other_names_are_refused(two):
    rename_routes(two, {"document": "image"})
    with pytest.raises(ConfigError, match="'query', 'image'.*one for each passage"):
        st_modules.read_chains(two)


def test_routes_by_what_a_text_is_are_refused(two):
    change_keys(
        two / "router_config.json",
        parameters={"route_mappings": {"('query', None)": "query"}},
    )
    with pytest.raises(ConfigError, match="route_mappings"):
        st_modules.read_chains(two)


def test_modules_around_a_router_belong_to_both_routes(two):
    """One Transformer and Pooling, and then a Dense a route, as Asym was used."""

    def edit(router):
        transformer, pooling = router["structure"]["query"]
        router["structure"] = {"query": [pooling], "document": [pooling]}
        return router

    change(two / "router_config.json", edit)
    before = {"type": "sentence_transformers.models.Transformer"}
    after = {"type": "sentence_transformers.models.Normalize", "path": "9_Normalize"}
    change(
        two / "modules.json",
        lambda entries: [
            {**before, "path": "query_0_Transformer"},
            *entries,
            after,
        ],
    )
    chains = st_modules.read_chains(two)
    for chain in chains.values():
        kinds = [module.kind for module in chain]
        assert kinds == ["Transformer", "Pooling", "Normalize"]
    assert chains["query"] == chains["passage"]
    found = sentence_transformers.open_retriever(two)
    assert found.is_shared
    assert found.normalize is True


def test_a_chain_in_another_order_is_refused(one):
    def swap(entries):
        return [entries[0], entries[1], entries[3], entries[2]]

    change(one / "modules.json", swap)
    with pytest.raises(ConfigError, match="Transformer, Pooling, Normalize, Dense"):
        open_query(one)
    (one / "modules.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"\(none\)"):
        open_query(one)


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "cls", "embedding_dimension": 16}, "cls"),
        ({"pooling_mode": ["mean"], "include_prompt": True}, "mean"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
    ids=str,
)
def test_every_spelling_of_pooling(one, settings, pooling):
    (one / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert open_query(one).pooling == pooling


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_lasttoken": True},
            "cls and lasttoken",
        ),
        ({"pooling_mode": {"a": 1}}, "'a': 1"),
    ],
    ids=str,
)
def test_other_poolings_are_refused_by_name(one, settings, named):
    (one / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"its pooling is .*{named}"):
        open_query(one)


def test_pooling_of_another_width_is_damage(one):
    change_keys(one / "1_Pooling" / "config.json", word_embedding_dimension=17)
    with pytest.raises(CorruptError, match="vectors of 17, not 16"):
        open_query(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "torch.nn.modules.activation.Tanh"},
        {"activation_function": None},
        {"use_residual": True},
        {"module_input_name": "token_embeddings"},
        {"module_output_name": "other"},
    ],
    ids=str,
)
def test_other_projections_are_refused(one, changes):
    change_keys(one / "2_Dense" / "config.json", **changes)
    with pytest.raises(ConfigError, match="2_Dense"):
        open_query(one)


def test_a_projection_without_activation_is_tanh(one):
    path = one / "2_Dense" / "config.json"
    change(path, lambda value: {"in_features": 16, "out_features": 4})
    with pytest.raises(ConfigError, match="Tanh"):
        open_query(one)


@pytest.mark.parametrize("width", [None, 0, 5, "4", True, 2**40], ids=repr)
def test_a_projection_of_another_width_is_damage(one, width):
    change_keys(one / "2_Dense" / "config.json", out_features=width)
    with pytest.raises(CorruptError, match="2_Dense"):
        open_query(one)


def test_a_projection_may_lack_its_bias(one):
    change_keys(one / "2_Dense" / "config.json", bias=False)
    path = one / "2_Dense" / "model.safetensors"
    weight = safetensors.numpy.load_file(path)["linear.weight"]
    safetensors.numpy.save_file({"linear.weight": weight}, path)
    projection = tensors.to_host(open_query(one).params["projection"])
    np.testing.assert_array_equal(projection["kernel"], weight.T)
    np.testing.assert_array_equal(projection["bias"], np.zeros(4, np.float32))


def test_normalising_something_else_is_refused(one):
    (one / "3_Normalize" / "config.json").write_text(
        '{"module_input_name": "token_embeddings"}'
    )
    with pytest.raises(ConfigError, match="token_embeddings"):
        open_query(one)


def test_weights_of_another_vocabulary_are_damage(make_retriever, tmp_path):
    made = make_retriever(shared=True, pooling="weighted_mean")
    sentence_transformers.save_retriever(tmp_path, made)
    path = tmp_path / "1_WeightedMean" / "model.safetensors"
    weights = safetensors.numpy.load_file(path)
    weights["token_weights.weight"] = weights["token_weights.weight"][:-1].copy()
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(CorruptError, match="token_weights"):
        open_query(tmp_path)
    del weights["hidden_weights.weight"]
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(CorruptError, match="missing"):
        open_query(tmp_path)


LIMIT = "sentence_bert_config.json"


def test_the_limit_of_tokens_is_found(one):
    # Version 6 states it in the tokeniser's settings alone.
    (one / LIMIT).write_text("{}")
    change_keys(one / "tokenizer_config.json", model_max_length=17)
    assert open_query(one).max_passage_tokens == 17
    # Hugging Face's way to say that there is none; the model has 24 positions.
    for no_limit in (int(1e30), 1e30, -1, None):
        change_keys(one / "tokenizer_config.json", model_max_length=no_limit)
        assert open_query(one).max_passage_tokens == 24
    (one / LIMIT).unlink()
    assert open_query(one).max_query_tokens == 24
    (one / LIMIT).write_text('{"max_seq_length": 512}')
    assert open_query(one).max_query_tokens == 24
    (one / LIMIT).write_text(
        '{"max_seq_length": 19, "query_length": 7, "document_length": 11}'
    )
    tower = open_query(one)
    assert (tower.max_query_tokens, tower.max_passage_tokens) == (7, 11)


@pytest.mark.parametrize("limit", [0, -1, "12", 1.5, True])
def test_a_limit_that_is_none_is_damage(one, limit):
    change_keys(one / LIMIT, max_seq_length=limit)
    with pytest.raises(CorruptError, match="max_seq_length"):
        open_query(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer_task": "fill-mask"},
        {"module_output_name": "sentence_embedding"},
    ],
    ids=str,
)
def test_other_outputs_of_a_transformer_are_refused(one, changes):
    change_keys(one / LIMIT, **changes)
    with pytest.raises(ConfigError, match=LIMIT):
        open_query(one)


def test_lower_casing_a_cased_tokeniser_is_refused(one):
    change_keys(one / LIMIT, do_lower_case=True)
    open_query(one)
    change_keys(one / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(ConfigError, match="do_lower_case"):
        open_query(one)
