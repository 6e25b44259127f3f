"""Files of the real torch.save: all kinds of tensors, DPR's and Megatron's files."""

import argparse
import collections

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'art-jax[parity]'")

from art_jax.checkpoints import dpr, megatron, pretrained, tensors  # noqa: E402
from art_jax.checkpoints.torch_files import open_torch  # noqa: E402
from art_jax.errors import CorruptError  # noqa: E402

ZIP = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
# The checkpoints' own heads are 64 wide.
WIDE = {"hidden_size": 128, "num_attention_heads": 2, "vocab_size": 96}


def save(tree, path, is_zip):
    torch.save(tree, path, _use_new_zipfile_serialization=is_zip)


def bits(tensor):
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


@ZIP
def test_tensors_of_all_kinds(tmp_path, record, is_zip):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 5, generator=generator)
    made = {
        "float32": whole,
        "float64": whole.double(),
        "float16": whole.half(),
        "bfloat16": whole.bfloat16(),
        "int64": torch.arange(7),
        "int32": torch.arange(7, dtype=torch.int32),
        "int16": torch.arange(7, dtype=torch.int16),
        "int8": torch.arange(-3, 4, dtype=torch.int8),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "transposed": whole.T,
        "row of a shared storage": whole[2],
        "every second": whole[::2, 1::2],
        "position_ids": torch.arange(7).expand((1, -1)),
        "parameter": torch.nn.Parameter(whole * 2),
    }
    others = {"step": 3, "rate": 2e-5, "name": "ä", "none": None, "pair": (1, [True])}
    path = tmp_path / "made.pt"
    save({"tensors": collections.OrderedDict(made), **others}, path, is_zip)
    read = open_torch(path)
    assert {key: read[key] for key in others} == others
    assert list(read["tensors"]) == list(made)
    differing = [
        name
        for name, want in made.items()
        if np.asarray(read["tensors"][name]).tobytes() != bits(want).tobytes()
        or read["tensors"][name].shape != tuple(want.shape)
        or str(read["tensors"][name].dtype) != str(want.dtype).removeprefix("torch.")
    ]
    assert differing == []
    record(
        f"torch.save, {'zip' if is_zip else 'legacy'}: tensors that differ",
        len(differing),
        0,
        f"of {len(made)}",
    )


@ZIP
def test_a_tensor_out_of_fewer_values_is_refused(tmp_path, is_zip):
    path = tmp_path / "expanded.pt"
    save({"weight": torch.ones(1, 3).expand(4, 3)}, path, is_zip)
    with pytest.raises(CorruptError, match="12 values"):
        open_torch(path)


class Runs:
    """A pickle that would run a program."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@ZIP
def test_a_file_that_would_run_code_is_refused(tmp_path, is_zip):
    path = tmp_path / "hostile.pt"
    save({"model": Runs(), "weight": torch.ones(2)}, path, is_zip)
    with pytest.raises(CorruptError, match="exec"):
        open_torch(path)


def our_vectors(found, tokens):
    encoder = pretrained.encoder_of(found)
    params = tensors.to_host(found.towers, "float32")
    return (
        np.asarray(jax.jit(encoder.encode_query)(params, tokens)),
        np.asarray(jax.jit(encoder.encode_passage)(params, tokens)),
    )


def first_states(model, models, tokens, mask):
    with torch.no_grad():
        states = model(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
        )
    return states.last_hidden_state[:, 0].numpy()


@ZIP
def test_a_biencoder_of_dpr(models, tmp_path, compare, is_zip):
    encoders = {
        name: models.make("BertModel", {**models.BERT, **WIDE}, seed)
        for seed, name in enumerate(("question_model", "ctx_model"))
    }
    state = collections.OrderedDict(
        (f"{name}.{key}", value)
        for name, encoder in encoders.items()
        for key, value in encoder.state_dict().items()
    )
    optimizer = torch.optim.AdamW(encoders["ctx_model"].parameters(), lr=2e-5)
    path = tmp_path / "dpr.cp"
    save(
        {
            "model_dict": state,
            "optimizer_dict": optimizer.state_dict(),
            "scheduler_dict": {"last_epoch": 5, "_last_lr": [1e-5, 1e-5]},
            "offset": 0,
            "epoch": 39,
            "encoder_params": {"do_lower_case": True, "sequence_length": 32},
        },
        path,
        is_zip,
    )
    found = dpr.open_retriever(path)
    tokens, mask = models.batch(found.config.vocab_size)
    form = "zip" if is_zip else "legacy"
    for side, name, got in zip(
        ("queries", "passages"),
        ("question_model", "ctx_model"),
        our_vectors(found, tokens),
        strict=True,
    ):
        want = first_states(encoders[name], models, tokens, mask)
        compare(f"DPR's .cp, {form}: {side}", got, want, 1e-5)


def megatron_tower(model, version):
    """A MegatronBertModel's tensors by Megatron's names, as of a checkpoint version."""
    state = model.state_dict()
    heads = model.config.num_attention_heads
    embeddings = {
        f"{ours}_embeddings": {
            "weight": state[f"embeddings.{theirs}_embeddings.weight"]
        }
        for ours, theirs in (
            ("word", "word"),
            ("position", "position"),
            ("tokentype", "token_type"),
        )
    }
    names = {
        "attention.ln": "input_layernorm",
        "attention.output.dense": "self_attention.dense",
        "ln": "post_attention_layernorm",
        "intermediate.dense": "mlp.dense_h_to_4h",
        "output.dense": "mlp.dense_4h_to_h",
    }
    encoder = collections.OrderedDict()
    for kind in ("weight", "bias"):
        encoder[f"final_layernorm.{kind}"] = state[f"encoder.ln.{kind}"]
        for i in range(model.config.num_hidden_layers):
            for theirs, ours in names.items():
                value = state[f"encoder.layer.{i}.{theirs}.{kind}"]
                encoder[f"layers.{i}.{ours}.{kind}"] = value
            parts = [
                state[f"encoder.layer.{i}.attention.self.{name}.{kind}"]
                for name in ("query", "key", "value")
            ]
            # [3, heads, head_dim, ...], then in the order of the version.
            joined = torch.stack(
                [part.reshape(heads, -1, *part.shape[1:]) for part in parts]
            )
            order = {0: (0, 1, 2), 1.0: (1, 2, 0), 2.0: (1, 0, 2)}[version]
            rest = tuple(range(3, joined.ndim))
            joined = joined.permute(*order, *rest).reshape(-1, *parts[0].shape[1:])
            encoder[f"layers.{i}.self_attention.query_key_value.{kind}"] = joined
    return {"language_model": {"embedding": embeddings, "encoder": encoder}}


@ZIP
@pytest.mark.parametrize("is_whole_run", [True, False])
@pytest.mark.parametrize("version", [0, 1.0, 2.0])
def test_a_retriever_of_megatron(
    models, tmp_path, compare, is_zip, is_whole_run, version
):
    settings = {**models.BERT, **WIDE, "layer_norm_eps": 1e-5}
    encoders = {
        name: models.make("MegatronBertModel", settings, seed)
        for seed, name in enumerate(("query_model", "context_model"))
    }
    model = {name: megatron_tower(each, version) for name, each in encoders.items()}
    if is_whole_run:
        model = {"retriever/biencoder_model": model}
    checkpoint = {
        "args": argparse.Namespace(
            num_attention_heads=2, seq_length_retriever=32, seed=1, fp16=False
        ),
        "checkpoint_version": version,
        "iteration": 1000,
        "model": model,
    }
    folder = tmp_path / "iter_0001000" / "mp_rank_00"
    folder.mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("1000")
    save(checkpoint, folder / "model_optim_rng.pt", is_zip)
    found = megatron.open_retriever(tmp_path)
    tokens, mask = models.batch(WIDE["vocab_size"])
    form = "zip" if is_zip else "legacy"
    kind = "training" if is_whole_run else "retriever"
    for side, name, got in zip(
        ("queries", "passages"),
        ("query_model", "context_model"),
        our_vectors(found, tokens),
        strict=True,
    ):
        want = first_states(encoders[name], models, tokens, mask)
        what = f"Megatron {version}, {form}, {kind} checkpoint: {side}"
        compare(what, got, want, 1e-5)
