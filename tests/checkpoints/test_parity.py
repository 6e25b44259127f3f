"""Test vectors are what the retriever computes of the texts beside them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from art_jax.checkpoints import parity
from art_jax.data.passages import Passage


def encode(retriever, token_ids, side):
    tokens = np.array([token_ids], np.int32)
    encode = jax.jit(getattr(retriever.encoder, f"encode_{side}"))
    return np.asarray(encode(retriever.params, tokens))[0]


@pytest.fixture(scope="module")
def made(make_retriever):
    return make_retriever(pooling="mean")


@pytest.fixture(scope="module")
def cases(made):
    return parity.parity_cases(made)


def test_each_embedding_is_that_of_its_tokens(made, cases):
    for side, entry in (
        ("query", cases["queries"][2]),
        ("passage", cases["passages"][1]),
    ):
        want = encode(made, entry["token_ids"], side)
        # Alone, without the padding it may have had in its batch.
        np.testing.assert_allclose(entry["embedding"], want, atol=2e-6)


def test_tokens_are_those_of_the_layouts(made, cases):
    tokenizer = made.tokenizer
    cls, sep = tokenizer.cls_id, tokenizer.sep_id

    def ids(text):
        return tokenizer.encode_batch([text])[0]

    query = cases["queries"][0]
    assert query["token_ids"] == [cls, *ids(query["text"]), sep]
    long = cases["queries"][2]["token_ids"]
    assert long == [cls, *ids("why " * 600)[: 9 - 2], sep]
    titled, untitled, cut = cases["passages"]
    want = [cls, *ids(titled["title"]), sep, *ids(titled["text"])][: 20 - 1]
    assert titled["token_ids"] == [*want, sep]
    assert untitled["token_ids"] == [cls, *ids(untitled["text"]), sep]
    assert len(cut["token_ids"]) == 20
    assert titled["input"] == f"{titled['title']} [SEP] {titled['text']}"
    assert untitled["input"] == untitled["text"]


def test_all_kinds_of_texts_are_there(cases):
    assert [bool(passage["title"]) for passage in cases["passages"]] == [1, 0, 1]
    assert any(len(query["text"].split()) > 512 for query in cases["queries"])
    assert any(len(passage["text"].split()) > 512 for passage in cases["passages"])


@pytest.mark.parametrize(("normalize", "name"), [(True, "cosine"), (False, "dot")])
def test_the_similarity_is_named(make_retriever, normalize, name):
    made = make_retriever(normalize=normalize)
    assert parity.parity_cases(made)["similarity"] == name


def test_every_float32_survives_the_file(made, cases, tmp_path):
    parity.write_parity(tmp_path, made, "dpr")
    read = json.loads((tmp_path / "parity.json").read_text())
    assert read == cases
    rows = np.array([entry["embedding"] for entry in read["queries"]], np.float32)
    again = [[float(f"{value:.9g}") for value in row] for row in rows]
    assert again == [entry["embedding"] for entry in read["queries"]]


def test_a_model_trained_in_bfloat16_computes_in_float32(made, cases):
    encoder = dataclasses.replace(
        made.encoder, config=dataclasses.replace(made.encoder.config, dtype="bfloat16")
    )
    trained = dataclasses.replace(made, encoder=encoder)
    assert parity.parity_cases(trained) == cases


def test_the_tolerance_is_a_share_of_the_largest_number(make_retriever):
    small = make_retriever(
        pooling="cls", pre_layer_norm=True, embedding_layer_norm=False
    )
    params = jax.tree.map(np.copy, small.params)
    for tower in params.values():
        for part in tower["encoder"]["final_norm"].values():
            part *= 1024.0
    large = dataclasses.replace(small, params=params)
    tolerances = [
        parity.parity_cases(each, ["old"], [Passage("1", "hall")])["max_abs_difference"]
        for each in (small, large)
    ]
    assert tolerances[1] == pytest.approx(1024 * tolerances[0], rel=0.1)
    assert 0 < tolerances[0] < 1e-3


@pytest.mark.parametrize(
    ("kind", "shared", "limit"),
    [
        ("sentence-transformers", True, 20),
        ("huggingface", True, 20),
        ("dpr", True, 9),
        ("sentence-transformers", False, 9),
        ("huggingface", False, 9),
    ],
)
def test_one_encoder_cuts_queries_where_it_cuts_passages(
    make_retriever, kind, shared, limit
):
    exported = parity.as_exported(make_retriever(shared=shared), kind)
    assert (exported.max_query_tokens, exported.max_passage_tokens) == (limit, 20)


def test_the_file_holds_what_the_export_cuts(make_retriever, tmp_path):
    made = make_retriever(shared=True)
    parity.write_parity(tmp_path, made, "sentence-transformers")
    cases = json.loads((tmp_path / "parity.json").read_text())
    assert max(len(query["token_ids"]) for query in cases["queries"]) == 20
