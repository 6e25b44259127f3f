"""A model card says what is known, shows code that can be run, and invents nothing."""

import ast
import re

import pytest

from art_jax.checkpoints import model_card
from art_jax.errors import ConfigError

KINDS = ("sentence-transformers", "huggingface", "dpr")


def front_matter(card):
    """The lines between the first two rules."""
    first, yaml, _ = card.split("---\n", 2)
    assert first == ""
    return yaml.splitlines()


def code(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("sentence-transformers", "weighted_mean"),
        ("sentence-transformers", "mean"),
        ("huggingface", "mean"),
        ("huggingface", "cls"),
        ("dpr", "cls"),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_its_code_is_python(make_retriever, kind, pooling, shared):
    card = model_card.make_card(kind, make_retriever(pooling=pooling, shared=shared))
    (block,) = code(card)
    ast.parse(block)
    assert "{" not in card.replace("{folder}", "")


@pytest.mark.parametrize(
    ("kind", "library", "task"),
    [
        ("sentence-transformers", "sentence-transformers", "sentence-similarity"),
        ("huggingface", "transformers", "feature-extraction"),
        ("dpr", "transformers", "feature-extraction"),
    ],
)
def test_the_front_matter_names_library_and_task(make_retriever, kind, library, task):
    lines = front_matter(model_card.make_card(kind, make_retriever()))
    assert f"library_name: {library}" in lines
    assert f"pipeline_tag: {task}" in lines
    assert "- art-jax" in lines
    assert len(lines) == len(set(lines))
    keys = {line.split(":")[0] for line in lines if not line.startswith("-")}
    assert keys == {"library_name", "pipeline_tag", "tags"}


def test_a_base_model_is_quoted(make_retriever):
    card = model_card.make_card(
        "dpr", make_retriever(), base_model='a/b: "c"\nlicense: x'
    )
    assert 'base_model: "a/b: \\"c\\"\\nlicense: x"' in front_matter(card)


def test_training_and_metrics_are_told(make_retriever):
    made = make_retriever(
        training={"stages": ["art"], "passages": 40, "note": "a|b\n\n# c"}
    )
    card = model_card.make_card(
        "huggingface", made, metrics={"top_1_accuracy": 0.28125, "num_questions": 800}
    )
    assert '- stages: ["art"]\n- passages: 40\n- note: a\\|b # c\n' in card
    assert "| top_1_accuracy | 0.2812 |\n| num_questions | 800 |\n" in card


def test_nothing_is_said_of_what_is_not_known(make_retriever):
    card = model_card.make_card("dpr", make_retriever(training={}), metrics={})
    assert "Its files do not say." in card
    assert "scored" not in card
    assert "license" not in card.lower()


def test_similarity_and_lengths(make_retriever):
    card = model_card.make_card("dpr", make_retriever())
    assert "- Similarity: dot." in card
    assert "Two encoders" in card
    assert "at most 9 tokens" in card
    assert "at most 20 tokens" in card
    assert "vectors of 16 numbers" in card
    assert "BERT of 1 layer, width 16, post-LN; pooled by the vector of [CLS]." in card
    card = model_card.make_card(
        "sentence-transformers", make_retriever(normalize=True, projection_dim=4)
    )
    assert "- Similarity: cosine." in card
    assert "projected to 4, then divided by its length" in card
    assert "vectors of 4 numbers" in card
    card = model_card.make_card("dpr", make_retriever(num_layers=2))
    assert "BERT of 2 layers" in card


def test_one_encoder_has_one_limit_elsewhere(make_retriever):
    made = make_retriever(shared=True)
    for kind, is_cut in (
        ("sentence-transformers", True),
        ("huggingface", True),
        ("dpr", False),
    ):
        card = model_card.make_card(kind, made)
        assert ("at most 9 tokens" not in card) == is_cut
        assert ("In training queries were cut to 9 tokens." in card) == is_cut


def test_trust_is_asked_for_only_where_code_is_run(make_retriever):
    for pooling, asked in (("weighted_mean", True), ("mean", False)):
        card = model_card.make_card(
            "sentence-transformers", make_retriever(pooling=pooling)
        )
        assert ("trust_remote_code=True" in card) == asked


def test_another_kind_is_refused(make_retriever):
    with pytest.raises(ConfigError, match="sentence-transformers, huggingface, dpr"):
        model_card.make_card("onnx", make_retriever())
