"""Exports loaded by the real SentenceTransformer, and its folders opened by us."""

import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'art-jax[parity]'")
pytest.importorskip("sentence_transformers", reason="pip install 'art-jax[parity]'")
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.base.modules import (  # noqa: E402
    Dense,
    Normalize,
    Router,
    Transformer,
)
from sentence_transformers.sentence_transformer.modules import Pooling  # noqa: E402

from art_jax.checkpoints import (  # noqa: E402
    hf_tokenizers,
    model_card,
    parity,
    pretrained,
    sentence_transformers,
    tensors,
)
from art_jax.checkpoints.retriever import SavedRetriever  # noqa: E402
from art_jax.data import layouts, tokenizers  # noqa: E402
from art_jax.models.bert import BertConfig  # noqa: E402
from art_jax.models.dual_encoder import DualEncoder  # noqa: E402

TEXTS = [
    *parity.QUERIES[:2],
    *(f"{passage.title} {passage.text[:200]}" for passage in parity.PASSAGES),
]
TOKENIZER = tokenizers.train_wordpiece(TEXTS, 150, min_count=1)
MEGATRON = {"pre_layer_norm": True, "embedding_layer_norm": False}
FORMS = {
    "post-LN": {},
    "pre-LN": MEGATRON | {"layer_norm_eps": 1e-5},
    "tiny.gin": MEGATRON
    | {
        "num_heads": 1,
        "head_dim": 8,
        "type_vocab_size": 0,
        "use_positions": False,
    },
}
SMALL = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 24,
    "max_positions": 48,
}


def make_retriever(config, spread=0.2, **fields):
    encoder = DualEncoder(config, **fields)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        is_scale = path[-1].key == "scale"
        return (is_scale + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    limits = (14, 40) if config.max_positions < 64 else (64, 256)
    return SavedRetriever(encoder, params, TOKENIZER, *limits, training={"steps": 3})


def export(folder, made):
    folder.mkdir(exist_ok=True)
    sentence_transformers.save_retriever(folder, made)
    parity.write_parity(folder, made, "sentence-transformers")
    card = model_card.make_card("sentence-transformers", made)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return json.loads((folder / "parity.json").read_text(encoding="utf-8"))


def load(folder, caplog, recwarn):
    """The model, loaded without a word of warning."""
    trust = (pathlib.Path(folder) / "weighted_mean.py").exists()
    model = SentenceTransformer(str(folder), trust_remote_code=trust, device="cpu")
    assert [record.message for record in caplog.records] == []
    # Each old name of a class, which every version knows, is a DeprecationWarning.
    kinds = {warning.category for warning in recwarn} - {DeprecationWarning}
    assert kinds == set()
    return model


def encode(model, cases):
    queries = model.encode_query([case["text"] for case in cases["queries"]])
    passages = model.encode_document([case["input"] for case in cases["passages"]])
    return queries, passages


def vectors(entries):
    return np.array([entry["embedding"] for entry in entries], np.float32)


@pytest.mark.parametrize(
    ("form", "pooling", "shared"),
    itertools.product(FORMS, ["cls", "mean", "weighted_mean"], [True, False]),
)
def test_an_export_gives_what_its_parity_file_says(
    tmp_path, compare, caplog, recwarn, form, pooling, shared
):
    # One of the two has a projection and vectors of length 1.
    fields = {"projection_dim": 12, "normalize": True} if shared else {}
    config = BertConfig(**{**SMALL, **FORMS[form]})
    made = make_retriever(config, pooling=pooling, shared=shared, **fields)
    cases = export(tmp_path, made)
    model = load(tmp_path, caplog, recwarn)
    assert model.similarity_fn_name == cases["similarity"]
    assert model.get_embedding_dimension() == made.encoder.width
    queries, passages = encode(model, cases)
    what = f"{form}, {pooling}, {'one encoder' if shared else 'two encoders'}"
    allowed = cases["max_abs_difference"]
    compare(f"{what}: queries", queries, vectors(cases["queries"]), allowed)
    compare(f"{what}: passages", passages, vectors(cases["passages"]), allowed)
    got = model.similarity(queries, passages)
    want = vectors(cases["queries"]) @ vectors(cases["passages"]).T
    compare(f"{what}: similarity", got, want, 8 * allowed)
    # Without a task a text is a document.
    plain = model.encode([case["input"] for case in cases["passages"]])
    np.testing.assert_array_equal(plain, passages)


def test_a_base_sized_export(tmp_path, compare, caplog, recwarn):
    config = BertConfig(vocab_size=TOKENIZER.vocab_size)
    made = make_retriever(config, spread=0.02, shared=True)
    cases = export(tmp_path, made)
    model = load(tmp_path, caplog, recwarn)
    queries, passages = encode(model, cases)
    allowed = cases["max_abs_difference"]
    what = "post-LN of BERT-base's size, cls, one encoder"
    compare(f"{what}: queries", queries, vectors(cases["queries"]), allowed)
    compare(f"{what}: passages", passages, vectors(cases["passages"]), allowed)


@pytest.mark.parametrize("shared", [True, False])
def test_their_tokens_are_ours(tmp_path, caplog, recwarn, shared):
    made = make_retriever(BertConfig(**SMALL), shared=shared)
    cases = export(tmp_path, made)
    model = load(tmp_path, caplog, recwarn)
    for task, key, entries in (
        ("query", "text", cases["queries"]),
        ("document", "input", cases["passages"]),
    ):
        features = model.preprocess([entry[key] for entry in entries], task=task)
        for ids, mask, entry in zip(
            features["input_ids"], features["attention_mask"], entries, strict=True
        ):
            assert ids[mask.bool()].tolist() == entry["token_ids"]
        assert not features["token_type_ids"].any()


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
def test_what_they_save_of_an_export_loads_again(
    tmp_path, compare, caplog, recwarn, pooling
):
    made = make_retriever(BertConfig(**SMALL), pooling=pooling, shared=True)
    cases = export(tmp_path / "ours", made)
    load(tmp_path / "ours", caplog, recwarn).save_pretrained(str(tmp_path / "theirs"))
    model = SentenceTransformer(
        str(tmp_path / "theirs"), trust_remote_code=True, device="cpu"
    )
    queries, _ = encode(model, cases)
    allowed = cases["max_abs_difference"]
    what = f"saved again by them, {pooling}: queries"
    compare(what, queries, vectors(cases["queries"]), allowed)
    found = sentence_transformers.open_retriever(tmp_path / "theirs")
    for got, want in zip(
        jax.tree.leaves(tensors.to_host(found.towers)),
        jax.tree.leaves(made.params),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def test_untrusted_code_is_not_run(tmp_path):
    export(tmp_path, make_retriever(BertConfig(**SMALL), pooling="weighted_mean"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path), device="cpu")


def their_transformer(models, folder, name, limit, seed):
    sizes = {**models.BERT, "vocab_size": TOKENIZER.vocab_size}
    models.make(name, sizes, seed).save_pretrained(folder)
    hf_tokenizers.save_tokenizer(folder, TOKENIZER, limit)
    transformer = Transformer(str(folder))
    transformer.max_seq_length = limit
    return transformer


def their_model(models, folder, kind):
    def transformer(limit, seed=0, name="BertModel"):
        part = folder / f"transformer{seed}"
        return their_transformer(models, part, name, limit, seed)

    width = models.BERT["hidden_size"]
    if kind == "router":
        return SentenceTransformer(
            modules=[
                Router.for_query_document(
                    [transformer(11, 0), Pooling(width, "cls")],
                    [transformer(30, 1), Pooling(width, "cls")],
                    default_route="document",
                )
            ],
            similarity_fn_name="dot",
        )
    modules = {
        "cls": [transformer(30), Pooling(width, "cls")],
        "mean of MegatronBERT": [
            transformer(30, name="MegatronBertModel"),
            Pooling(width, "mean"),
        ],
        "projection and unit length": [
            transformer(30),
            Pooling(width, "mean"),
            Dense(width, 12, activation_function=torch.nn.Identity()),
            Normalize(),
        ],
        "projection without bias": [
            transformer(30),
            Pooling(width, "mean"),
            Dense(width, 12, bias=False, activation_function=torch.nn.Identity()),
        ],
    }[kind]
    return SentenceTransformer(modules=modules, similarity_fn_name="dot")


@pytest.mark.parametrize(
    "kind",
    [
        "router",
        "cls",
        "mean of MegatronBERT",
        "projection and unit length",
        "projection without bias",
    ],
)
def test_their_folder_gives_their_vectors(models, tmp_path, compare, kind):
    their_model(models, tmp_path / "parts", kind).save_pretrained(
        str(tmp_path / "model")
    )
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    found = sentence_transformers.open_retriever(tmp_path / "model")
    encoder = pretrained.encoder_of(found)
    made = SavedRetriever(
        encoder=encoder,
        params=tensors.to_host(found.towers),
        tokenizer=found.tokenizer,
        max_query_tokens=found.max_query_tokens,
        max_passage_tokens=found.max_passage_tokens,
    )
    assert found.tokenizer == TOKENIZER
    cases = parity.parity_cases(made)
    queries, passages = encode(model, cases)
    compare(f"their {kind}: queries", vectors(cases["queries"]), queries, 1e-5)
    compare(f"their {kind}: passages", vectors(cases["passages"]), passages, 1e-5)


def test_a_long_corpus_in_batches(tmp_path, compare, caplog, recwarn):
    """Many lengths in one call: they sort and pad, and nothing may leak."""
    made = make_retriever(BertConfig(**SMALL), pooling="weighted_mean", shared=True)
    export(tmp_path, made)
    model = load(tmp_path, caplog, recwarn)
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    texts = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 60, 200)]
    rows = layouts.layout_token_lists(
        made.passage_layout, TOKENIZER.encode_batch(texts)
    )
    want = jax.jit(made.encoder.encode_passage)(made.params, rows)
    got = model.encode_document(texts, batch_size=32)
    compare("200 texts of 1 to 60 words, weighted mean", got, want, 2e-5)
