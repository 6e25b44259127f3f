import functools
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from art_jax.checkpoints import megatron, tensors
from art_jax.checkpoints.pretrained import encoder_of
from art_jax.checkpoints.tensors import FileTensor
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertEncoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
HEADS = 4
WEIGHTS = safetensors.numpy.load_file(GOLDEN / "megatron_bert" / "model.safetensors")
VERSIONS = [0, 1.0, 2.0, 3.0]

# Hugging Face's names beside Megatron's, written out from Megatron's source.
EMBEDDINGS = {
    "word_embeddings": "embeddings.word_embeddings.weight",
    "position_embeddings": "embeddings.position_embeddings.weight",
    "tokentype_embeddings": "embeddings.token_type_embeddings.weight",
}
LAYER = {
    "input_layernorm": "attention.ln",
    "self_attention.dense": "attention.output.dense",
    "post_attention_layernorm": "ln",
    "mlp.dense_h_to_4h": "intermediate.dense",
    "mlp.dense_4h_to_h": "output.dense",
}


def in_one(query, key, value, version, heads):
    """Megatron's tensor of all three, put together a row at a time."""
    width = len(query) // heads
    rows = []
    if version == 0:
        rows = [*query, *key, *value]
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        if version == 1:
            for place in range(width):
                rows += [each[own][place] for each in (query, key, value)]
        elif version >= 2:
            rows += [*query[own], *key[own], *value[own]]
    return np.array(rows)


def tower(weights=WEIGHTS, version=1.0, heads=HEADS, **after):
    """A tower as Megatron saves it: dicts, the innermost flat."""
    layers = {}
    for i in range(2):
        theirs = f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            for name, other in LAYER.items():
                layers[f"layers.{i}.{name}.{kind}"] = weights[
                    f"{theirs}.{other}.{kind}"
                ]
            parts = [
                weights[f"{theirs}.attention.self.{part}.{kind}"]
                for part in ("query", "key", "value")
            ]
            name = f"layers.{i}.self_attention.query_key_value.{kind}"
            layers[name] = in_one(*parts, version, heads)
    for kind in ("weight", "bias"):
        layers[f"final_layernorm.{kind}"] = weights[f"encoder.ln.{kind}"]
    embedding = {name: {"weight": weights[hf]} for name, hf in EMBEDDINGS.items()}
    return {"language_model": {"embedding": embedding, "encoder": layers}, **after}


def towers(**settings):
    return {"query_model": tower(**settings), "context_model": tower(**settings)}


@pytest.fixture
def save(torch_writer, tmp_path):
    """Writes a file of Megatron; settings are those of the run."""

    def write(model, path="model_optim_rng.pt", settings=None, **changes):
        args = torch_writer.namespace(
            **{
                "num_attention_heads": HEADS,
                "padded_vocab_size": 272,
                **(settings or {}),
            }
        )
        tree = {
            "args": args,
            "checkpoint_version": 1.0,
            "iteration": 1000,
            "model": model,
            **changes,
        }
        tree = {key: value for key, value in tree.items() if value is not None}
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        return torch_writer.save_zip(path, tree)

    return write


def hidden_states(found, side, golden):
    return encode(
        found.config,
        tensors.to_host(found.towers[side]["encoder"]),
        golden["input_ids"].astype(np.int32),
        golden["attention_mask"].astype(bool),
        golden["token_type_ids"].astype(np.int32),
    )


# One program for all tests.
@functools.partial(jax.jit, static_argnums=0)
def encode(config, params, *arrays):
    return BertEncoder(config).apply({"params": params}, *arrays)


@pytest.mark.parametrize(
    ("version", "rows"),
    [
        # A letter for query, key or value, then the head, then the place in it.
        (0, "q00 q01 q10 q11 k00 k01 k10 k11 v00 v01 v10 v11"),
        (1.0, "q00 k00 v00 q01 k01 v01 q10 k10 v10 q11 k11 v11"),
        (2.0, "q00 q01 k00 k01 v00 v01 q10 q11 k10 k11 v10 v11"),
        (3.0, "q00 q01 k00 k01 v00 v01 q10 q11 k10 k11 v10 v11"),
    ],
)
def test_queries_keys_and_values_are_told_apart(version, rows):
    rows = np.array(rows.split())
    config = megatron.bert.megatron_base(hidden_size=4, num_heads=2)
    weight = tensors.from_array(np.stack([rows] * 4, axis=1))
    for tensor in (tensors.from_array(rows), weight):
        parts = megatron._split_qkv(tensor, config, version, "qkv")
        for name, part in parts.items():
            got = np.asarray(part)
            assert part.shape == got.shape == (4, *tensor.shape[1:])
            want = [f"{name[0]}{place}" for place in ("00", "01", "10", "11")]
            assert (got if got.ndim == 1 else got[:, 3]).tolist() == want


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_computes_what_transformers_does(save, version):
    golden = np.load(GOLDEN / "megatron_bert.npz")
    model = towers(version=version)
    found = megatron.open_retriever(save(model, checkpoint_version=version))
    assert f"(QKV of version {version})" in found.format
    real = golden["attention_mask"].astype(bool)
    for side in ("query", "passage"):
        got = hidden_states(found, side, golden)
        np.testing.assert_allclose(
            got[real], golden["last_hidden_state"][real], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(("version", "said"), [(1.0, 2.0), (1.0, 0), (2.0, 1.0)])
def test_a_version_that_is_not_the_files_computes_something_else(save, version, said):
    golden = np.load(GOLDEN / "megatron_bert.npz")
    path = save(towers(version=version), checkpoint_version=said)
    got = hidden_states(megatron.open_retriever(path), "query", golden)
    assert np.abs(got - golden["last_hidden_state"])[:, 0].max() > 0.1


def test_a_file_that_says_no_version_is_of_version_1(save):
    path = save(towers(), checkpoint_version=None)
    found = megatron.open_retriever(path)
    query = found.towers["query"]["encoder"]["layers_1"]["attention"]["query"]
    want = WEIGHTS["encoder.layer.1.attention.self.query.weight"].T
    np.testing.assert_array_equal(np.asarray(query["kernel"]), want)
    np.testing.assert_array_equal(
        np.asarray(query["bias"]), WEIGHTS["encoder.layer.1.attention.self.query.bias"]
    )


def test_opening_reads_nothing(save):
    found = megatron.open_retriever(save(towers()))
    leaves = jax.tree.leaves(found.towers)
    assert all(isinstance(leaf, FileTensor) for leaf in leaves)


def test_a_retriever_says_how_it_is_used(save):
    found = megatron.open_retriever(
        save(towers(), settings={"seq_length_retriever": 48})
    )
    assert found.format == "Megatron retriever, iteration 1000 (QKV of version 1.0)"
    assert (found.pooling, found.normalize, found.projection_dim) == ("cls", False, 0)
    assert (found.max_query_tokens, found.max_passage_tokens) == (48, 48)
    assert found.training == {"iteration": 1000}
    config = found.config
    assert (config.pre_layer_norm, config.embedding_layer_norm) == (True, False)
    assert config.layer_norm_eps == 1e-5
    assert (config.num_layers, config.num_heads, config.hidden_size) == (2, HEADS, 32)
    assert (config.intermediate_size, config.max_positions) == (64, 64)
    assert (config.vocab_size, config.type_vocab_size) == (272, 2)


@pytest.mark.parametrize("length", [65, 0, "48", True, None])
def test_a_length_that_makes_no_sense_says_nothing(save, length):
    path = save(towers(), settings={"seq_length_retriever": length})
    found = megatron.open_retriever(path)
    assert (found.max_query_tokens, found.max_passage_tokens) == (None, None)


def test_an_iteration_that_is_no_number_says_nothing(save):
    found = megatron.open_retriever(save(towers(), iteration="1000"))
    assert found.format == "Megatron retriever (QKV of version 1.0)"
    assert found.training == {}


def test_rates_and_epsilon_are_the_runs(save):
    settings = {
        "hidden_dropout": 0.2,
        "attention_dropout": 0,
        "layernorm_epsilon": 1e-6,
    }
    config = megatron.open_retriever(save(towers(), settings=settings)).config
    assert (config.dropout_rate, config.attention_dropout_rate) == (0.2, 0.0)
    assert config.layer_norm_eps == 1e-6


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in flat(value, f"{prefix}{key}.").items()
    }


T5 = {"language_model": {"embedding": {"word_embeddings": {"weight": np.ones((9, 4))}}}}


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ({"retriever/biencoder_model": towers()}, "ART training checkpoint"),
        (
            {"retriever/biencoder_model": towers(), "encoder/t5_model": T5},
            "EMDR2 training checkpoint",
        ),
        (flat({"retriever/biencoder_model": towers()}), "ART training checkpoint"),
        (flat(towers()), "retriever"),
    ],
)
def test_the_retriever_of_a_training_checkpoint_is_found(save, model, kind):
    want = megatron.open_retriever(save(towers(), "plain.pt"))
    # What training adds: none of it is read.
    optimizer = {"state": {0: {"exp_avg": np.ones(3, np.float32)}}}
    path = save(model, optimizer=optimizer, rng_state=np.zeros(5, np.uint8))
    found = megatron.open_retriever(path)
    assert found.format == f"Megatron {kind}, iteration 1000 (QKV of version 1.0)"
    jax.tree.map(
        np.testing.assert_array_equal,
        tensors.to_host(found.towers),
        tensors.to_host(want.towers),
    )


def test_a_retriever_may_be_the_whole_file(torch_writer, tmp_path):
    tree = {**towers(), "args": torch_writer.namespace(num_attention_heads=HEADS)}
    found = megatron.open_retriever(torch_writer.save_zip(tmp_path / "a.pt", tree))
    assert found.format == "Megatron retriever (QKV of version 1.0)"
    assert found.training == {}


def test_the_older_form_of_files_and_names_is_read(torch_writer, tmp_path):
    def older(tree):
        return {
            name.replace(".encoder.", ".transformer.").replace(
                "self_attention", "attention"
            ): leaf
            for name, leaf in flat(tree).items()
        }

    tree = {"args": {"num_attention_heads": HEADS}, "model": older(towers())}
    found = megatron.open_retriever(torch_writer.save_legacy(tmp_path / "a.pt", tree))
    mlp = found.towers["passage"]["encoder"]["layers_0"]["attention"]["out"]
    want = WEIGHTS["encoder.layer.0.attention.output.dense.weight"].T
    np.testing.assert_array_equal(np.asarray(mlp["kernel"]), want)


def test_each_side_has_its_own_tower(save):
    other = {name: array + 1 for name, array in WEIGHTS.items()}
    path = save({"query_model": tower(), "context_model": tower(other)})
    found = tensors.to_host(megatron.open_retriever(path).towers)
    for side, weights in (("query", WEIGHTS), ("passage", other)):
        got = found[side]["encoder"]["final_norm"]["bias"]
        np.testing.assert_array_equal(got, weights["encoder.ln.bias"])


@pytest.mark.parametrize("name", ["shared_model", "query_model", "context_model"])
def test_one_tower_serves_both_sides(save, name):
    found = megatron.open_retriever(save({name: tower()}))
    assert found.towers.keys() == {"shared"}


def test_a_bert_to_start_from_is_one_tower(save):
    head = {"lm_head": {"bias": np.zeros(272, np.float32)}, "binary_head": {}}
    pooler = {
        "dense.weight": WEIGHTS["pooler.dense.weight"],
        "dense.bias": WEIGHTS["pooler.dense.bias"],
    }
    model = {**tower(), **head}
    model["language_model"]["pooler"] = pooler
    found = megatron.open_retriever(save(model))
    assert found.format == "Megatron BERT, iteration 1000 (QKV of version 1.0)"
    assert (found.pooling, found.normalize) == (None, None)
    assert found.towers.keys() == {"shared"}
    assert found.towers["shared"].keys() == {"encoder"}


@pytest.mark.parametrize("name", ["projection_enc", "ict_head", "head"])
def test_one_linear_layer_after_bert_is_a_projection(save, name):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 32)), rng.normal(size=5)
    found = megatron.open_retriever(
        save(towers(**{name: {"weight": weight, "bias": bias}}))
    )
    assert found.projection_dim == 5
    assert encoder_of(found).width == 5
    for side in ("query", "passage"):
        projection = tensors.to_host(found.towers[side]["projection"])
        np.testing.assert_array_equal(projection["kernel"], weight.T)
        np.testing.assert_array_equal(projection["bias"], bias)


@pytest.mark.parametrize(
    ("after", "named"),
    [
        ({"head": {"weight": np.ones((5, 32))}}, "head.weight"),
        ({"head": {"0.weight": np.ones((5, 32)), "0.bias": np.ones(5)}}, "head.0.bias"),
        ({"tail": {"weight": np.ones((5, 32)), "bias": np.ones(5)}}, "tail.weight"),
    ],
)
def test_anything_else_after_bert_is_refused(save, after, named):
    with pytest.raises(ConfigError, match=rf"after BERT with .*{named}"):
        megatron.open_retriever(save(towers(**after)))


def test_half_precision_stays(save):
    halves = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
    found = megatron.open_retriever(save(towers(weights=halves)))
    for leaf in jax.tree.leaves(found.towers):
        assert leaf.dtype == np.float16
        assert np.asarray(leaf).dtype == np.float16


@pytest.mark.parametrize(
    ("rows", "asked", "kept"),
    [(30592, None, 30522), (30592, 30524, 30524), (272, None, 272), (272, 200, 200)],
)
def test_padding_of_the_vocabulary_is_cut(save, rows, asked, kept):
    words = np.arange(rows * 32, dtype=np.float32).reshape(rows, 32)
    weights = {**WEIGHTS, "embeddings.word_embeddings.weight": words}
    path = save({"query_model": tower(weights)})
    found = megatron.open_retriever(path, vocab_size=asked)
    table = found.towers["shared"]["encoder"]["token_embedder"]["embedding"]
    assert found.config.vocab_size == kept
    assert table.shape == (kept, 32)
    np.testing.assert_array_equal(np.asarray(table), words[:kept])


def test_a_vocabulary_larger_than_the_table_is_an_error(save):
    with pytest.raises(ConfigError, match="272 rows, fewer than the vocab_size 300"):
        megatron.open_retriever(save(towers()), vocab_size=300)


def test_heads_are_64_wide_where_the_file_does_not_say(save):
    with pytest.raises(ConfigError, match="0 heads do not divide the hidden size 32"):
        megatron.open_retriever(save(towers(), args=None))
    wide = {
        name: np.concatenate([array] * 4, axis=-1)
        if array.ndim == 1 or array.shape[1] == 32
        else array
        for name, array in WEIGHTS.items()
    }
    wide = {
        name: np.concatenate([array] * 4)
        if array.ndim == 2 and "embeddings" not in name and len(array) == 32
        else array
        for name, array in wide.items()
    }
    for i in range(2):
        name = f"encoder.layer.{i}.intermediate.dense.bias"
        wide[name] = WEIGHTS[name]
    found = megatron.open_retriever(save(towers(weights=wide, heads=2), args=None))
    assert (found.config.hidden_size, found.config.num_heads) == (128, 2)


FILE = "mp_rank_00/model_optim_rng.pt"


@pytest.mark.parametrize("tracker", ["1000", "1000\n", "release"])
def test_a_run_is_opened_at_the_iteration_it_names(save, tmp_path, tracker):
    folder = "release" if tracker == "release" else "iter_0001000"
    save(towers(), f"{folder}/{FILE}")
    save({}, f"iter_0000500/{FILE}")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(tracker)
    for path in (tmp_path, tmp_path / folder, tmp_path / folder / FILE):
        assert megatron.open_retriever(path).towers.keys() == {"query", "passage"}


@pytest.mark.parametrize(
    "tracker", ["", "latest", "../1000", "-1", "1000 2000", "1" * 40, "٣", "\x00"]
)
def test_a_tracker_that_names_no_iteration_is_an_error(save, tmp_path, tracker):
    save(towers(), f"iter_0001000/{FILE}")
    path = tmp_path / "latest_checkpointed_iteration.txt"
    path.write_text(tracker, encoding="utf-8")
    with pytest.raises(CorruptError, match="latest_checkpointed_iteration.txt says"):
        megatron.open_retriever(tmp_path)


def test_a_model_in_several_files_is_refused(save, tmp_path):
    save(towers(), f"iter_0001000/{FILE}")
    save(towers(), "iter_0001000/mp_rank_01/model_optim_rng.pt")
    for path in ("iter_0001000", f"iter_0001000/{FILE}"):
        with pytest.raises(ConfigError, match=r"split over mp_rank_00, mp_rank_01"):
            megatron.open_retriever(tmp_path / path)


@pytest.mark.parametrize(
    "name",
    [
        "model_parallel_size",
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
    ],
)
def test_a_part_of_a_model_is_refused(save, name):
    with pytest.raises(ConfigError, match="one part of a model that was split"):
        megatron.open_retriever(save(towers(), settings={name: 2}))


@pytest.mark.parametrize(
    ("name", "value", "usual"),
    [
        ("openai_gelu", True, False),
        ("bias_gelu_fusion", True, False),
        ("apply_residual_connection_post_layernorm", True, False),
        ("num_unique_layers", 1, 2),
    ],
)
def test_a_form_that_is_not_computed_is_refused(save, name, value, usual):
    for fine in (usual, None):
        settings = {"num_layers": 2, name: fine}
        assert megatron.open_retriever(save(towers(), settings=settings))
    with pytest.raises(ConfigError, match=name):
        megatron.open_retriever(save(towers(), settings={"num_layers": 2, name: value}))


def test_a_folder_without_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no mp_rank_00"):
        megatron.open_retriever(tmp_path)
    (tmp_path / "mp_rank_00").mkdir()
    with pytest.raises(ConfigError, match="is no file"):
        megatron.open_retriever(tmp_path)


@pytest.mark.parametrize("version", [-1, 1.5, 4, "1.0", True, float("nan")])
def test_an_unknown_order_is_refused(save, version):
    with pytest.raises(ConfigError, match="checkpoint_version is"):
        megatron.open_retriever(save(towers(), checkpoint_version=version))


def test_another_model_is_refused(save, torch_writer, tmp_path):
    with pytest.raises(ConfigError, match="holds no retriever"):
        megatron.open_retriever(save({"weight": np.ones(3)}))
    path = torch_writer.save_zip(tmp_path / "list.pt", [1])
    with pytest.raises(CorruptError, match=r"list\.pt holds no dict"):
        megatron.open_retriever(path)


@pytest.mark.parametrize(
    "name",
    [
        "query_model.language_model.encoder.layers.1.mlp.dense_4h_to_h.bias",
        "context_model.language_model.encoder.layers.0.self_attention."
        "query_key_value.weight",
        "context_model.language_model.embedding.word_embeddings.weight",
        "query_model.language_model.embedding.position_embeddings.weight",
        "query_model.language_model.encoder.layers.0.mlp.dense_h_to_4h.weight",
    ],
)
def test_a_missing_tensor_or_one_of_another_shape_is_an_error(save, name):
    model = flat(towers())
    whole = model.pop(name)
    with pytest.raises(CorruptError, match=r"model_optim_rng\.pt"):
        megatron.open_retriever(save(model))
    with pytest.raises(CorruptError, match=r"model_optim_rng\.pt"):
        megatron.open_retriever(save({**model, name: whole[:-1].copy()}))
    with pytest.raises(CorruptError, match=r"model_optim_rng\.pt"):
        megatron.open_retriever(save({**model, name: whole.reshape(-1, 1, 1)}))


def test_towers_of_two_sizes_are_an_error(save):
    deeper = flat(towers())
    for name in [name for name in deeper if "context_model" in name and ".1." in name]:
        deeper[name.replace("layers.1.", "layers.2.")] = deeper[name]
    with pytest.raises(CorruptError, match="two towers are not of one size"):
        megatron.open_retriever(save(deeper))


def test_settings_that_run_code_are_refused(save, torch_writer, tmp_path):
    canary = tmp_path / "canary"
    for code in torch_writer.attacks(f"touch {canary}").values():
        path = save(towers(), settings={"a": torch_writer.Raw(code)})
        with pytest.raises(CorruptError, match="It was not run"):
            megatron.open_retriever(path)
        assert not canary.exists()
