"""BERT, MegatronBERT and DPR's encoders against transformers, both ways."""

import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'art-jax[parity]'")
import safetensors.torch  # noqa: E402
import transformers  # noqa: E402

from art_jax.checkpoints import huggingface, tensors  # noqa: E402
from art_jax.models import bert  # noqa: E402
from art_jax.models.dual_encoder import DualEncoder  # noqa: E402

SIZES = ["tiny", "base"]
# Of hidden states of about 4. Base-sized, sums of 3072 in another order differ more.
ALLOWED = {"tiny": 1e-5, "base": 5e-5}


def sizes(models, size):
    return models.BERT if size == "tiny" else models.BERT_BASE


def our_states(config, params, tokens, mask, types=None):
    run = jax.jit(bert.BertEncoder(config).apply)
    return np.asarray(run({"params": params}, tokens, mask, types))[mask]


def open_host(folder):
    config, params = huggingface.open_bert(folder)
    return config, tensors.to_host(params, "float32")


@pytest.mark.parametrize("name", ["BertModel", "MegatronBertModel"])
@pytest.mark.parametrize("size", SIZES)
def test_their_folder_gives_their_states(models, tmp_path, compare, name, size):
    spread = 0.1 if size == "tiny" else 0.02
    model = models.make(name, sizes(models, size), spread=spread)
    model.save_pretrained(tmp_path)
    config, params = open_host(tmp_path)
    assert config.add_pooler
    tokens, mask = models.batch(config.vocab_size)
    types = (np.arange(tokens.shape[1]) > 7).astype(np.int32) * np.ones_like(tokens)
    got = our_states(config, params, tokens, mask, types)
    want = models.bert_states(model, tokens, mask, types)
    compare(f"{name}, {size}: states of their folder", got, want, ALLOWED[size])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "form", ["single", "sharded", "bin", "bin_legacy", "bin_shards"]
)
def test_their_files_hold_their_values(models, tmp_path, record, dtype, form):
    model = models.make("BertModel", models.BERT).to(getattr(torch, dtype))
    if form == "single":
        model.save_pretrained(tmp_path)
    elif form == "sharded":
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    else:
        model.config.save_pretrained(tmp_path)
        save_bin(tmp_path, model.state_dict(), form)
    _, params = huggingface.open_bert(tmp_path)
    theirs = huggingface.open_tensors(tmp_path)
    state = model.state_dict()
    assert set(theirs) == set(state)
    differing = [
        name
        for name, want in state.items()
        if np.asarray(theirs[name]).tobytes() != bits(want).tobytes()
        or str(theirs[name].dtype) != dtype
    ]
    kernel = np.asarray(params["layers_0"]["attention"]["query"]["kernel"])
    query = state["encoder.layer.0.attention.self.query.weight"]
    assert kernel.T.tobytes() == bits(query).tobytes()
    record(f"BertModel, {form}, {dtype}: tensors that differ", len(differing), 0)


def bits(tensor):
    """A tensor's values as NumPy, bfloat16 as its bits."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return np.ascontiguousarray(tensor.numpy())


def save_bin(folder, state, form):
    name = "pytorch_model"
    if form != "bin_shards":
        is_zip = form == "bin"
        torch.save(state, folder / f"{name}.bin", _use_new_zipfile_serialization=is_zip)
        return
    keys = list(state)
    parts = [keys[0::2], keys[1::2]]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"{name}-{number:05}-of-00002.bin"
        torch.save({key: state[key] for key in part}, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{name}.bin.index.json").write_text(json.dumps(index))


def random_params(config, spread):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        is_scale = path[-1].key == "scale"
        return (is_scale + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, bert.param_shapes(config))


FORMS = {
    "BertModel": {},
    "MegatronBertModel": {
        "pre_layer_norm": True,
        "embedding_layer_norm": False,
        "layer_norm_eps": 1e-5,
    },
    # gin/models/tiny.gin's, which transformers has only with zeros added.
    "MegatronBertModel, one narrow head": {
        "pre_layer_norm": True,
        "embedding_layer_norm": False,
        "num_heads": 1,
        "head_dim": 8,
        "type_vocab_size": 0,
        "use_positions": False,
    },
}


def tiny_config(**changes):
    small = bert.BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        intermediate_size=48,
        max_positions=40,
    )
    return dataclasses.replace(small, **changes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_our_folder_gives_our_states(models, tmp_path, compare, form, size):
    if size == "tiny":
        config = tiny_config(**FORMS[form])
    else:
        changes = dict(FORMS[form])
        if "head_dim" in changes:
            changes["head_dim"] = 64
        config = bert.base(**changes)
    params = random_params(config, 0.1 if size == "tiny" else 0.02)
    huggingface.save_bert(tmp_path, config, params)
    model, info = transformers.AutoModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(model).__name__ == form.split(",")[0]
    assert_loaded_whole(info)
    tokens, mask = models.batch(config.vocab_size)
    got = models.bert_states(model.eval(), tokens, mask)
    want = our_states(config, params, tokens, mask)
    compare(f"{form}, {size}: states of our folder", got, want, ALLOWED[size])


def assert_loaded_whole(info):
    """Nothing was missing, left over or of another shape."""
    assert {key: list(value) for key, value in info.items() if value} == {}


DPR = {
    "DPRQuestionEncoder": ("question_encoder", "encode_query"),
    "DPRContextEncoder": ("ctx_encoder", "encode_passage"),
}


def dpr_vectors(model, tokens, mask):
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
        )
    return output.pooler_output.numpy()


def tower_vectors(config, projection_dim, tower, tokens):
    encoder = DualEncoder(config, shared=True, projection_dim=projection_dim)
    return np.asarray(jax.jit(encoder.encode_query)({"shared": tower}, tokens))


@pytest.mark.parametrize("name", DPR)
@pytest.mark.parametrize("projection_dim", [0, 12])
def test_dpr_both_ways(models, tmp_path, compare, name, projection_dim):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    model = models.make(name, {**models.BERT, "projection_dim": projection_dim})
    model.save_pretrained(theirs)
    config, found_dim, tower = huggingface.open_dpr(theirs)
    assert found_dim == projection_dim
    tower = tensors.to_host(tower, "float32")
    tokens, mask = models.batch(config.vocab_size)
    want = dpr_vectors(model, tokens, mask)
    got = tower_vectors(config, projection_dim, tower, tokens)
    what = f"{name}, projection {projection_dim}"
    compare(f"{what}: vectors of their folder", got, want, 1e-5)
    huggingface.save_dpr(ours, config, projection_dim, tower, DPR[name][0])
    model, info = getattr(transformers, name).from_pretrained(
        ours, output_loading_info=True
    )
    assert_loaded_whole(info)
    again = dpr_vectors(model.eval(), tokens, mask)
    compare(f"{what}: their vectors of our folder", again, want, 0)


def test_what_we_write_of_their_folder_is_their_file(models, tmp_path, record):
    """Their tensors, read and written by us, have the same names and bits."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    models.make("BertModel", models.BERT).save_pretrained(theirs)
    huggingface.save_bert(ours, *open_host(theirs))
    load = safetensors.torch.load_file
    one, other = (load(folder / "model.safetensors") for folder in (theirs, ours))
    assert one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    record(
        "BertModel: tensors that differ after reading and writing", len(differing), 0
    )
