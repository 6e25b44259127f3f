"""A small retriever of any form, whose parameters hold no zero and no one.

And the helper beside these tests, loaded by its path: tests are no package.
"""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.data import tokenizers
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

TEXTS = (
    "who wrote on the origin of species",
    "the café stands opposite the old town hall",
    "light is scattered by the air, and the sky is blue",
)
TOKENIZER = tokenizers.train_wordpiece(TEXTS, 120, min_count=1)
CONFIG = BertConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=12,
    max_positions=24,
)


@pytest.fixture(scope="session")
def make_retriever():
    """`make(**fields)`: fields of DualEncoder, BertConfig and SavedRetriever."""

    def make(seed=0, **fields):
        def taken(kind):
            names = {field.name for field in dataclasses.fields(kind)}
            return {name: fields.pop(name) for name in names & fields.keys()}

        rest = {
            "tokenizer": TOKENIZER,
            "max_query_tokens": 9,
            "max_passage_tokens": 20,
            "training": {"stages": ["warm_up", "art"], "passages": 40},
            **taken(SavedRetriever),
        }
        config = dataclasses.replace(CONFIG, **taken(BertConfig))
        encoder = DualEncoder(config, **fields)
        return SavedRetriever(encoder, random_params(encoder, seed), **rest)

    return make


def random_params(encoder, seed):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))

    def draw(path, leaf):
        # Norms' scales and what is added stay near what training leaves behind.
        is_scale = str(path[-1].key) == "scale"
        values = is_scale + 0.3 * rng.normal(size=leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def torch_writer():
    """The module torch_writer."""
    path = pathlib.Path(__file__).with_name("torch_writer.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
