"""A few rankings, a tokeniser of single words, and a T5 of one layer."""

import dataclasses

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.methods.ranked_table import build_ranked_table
from art_jax.methods.t5_workspace import T5Workspace
from art_jax.models import t5

DEPTH, NUM_INDEXES = 6, 8


@dataclasses.dataclass(frozen=True)
class Words:
    """A word's id is its number; ids up to 2 are special, 3 to 10 are indexes."""

    names: tuple[str, ...]
    eos_id = 1

    @property
    def vocab_size(self):
        return len(self.names)

    def encode_batch(self, texts):
        return [[self.names.index(word) for word in text.split()] for text in texts]

    def decode_batch(self, rows):
        return [" ".join(self.names[number] for number in row) for row in rows]


TOKENIZER = Words(
    (
        *("<pad>", "</s>", "<unk>"),
        *(f"<{number}>" for number in range(NUM_INDEXES)),
        *("question:", "index:", "title:", "context:", "yes", "no"),
        *(f"w{number}" for number in range(20)),
        *("apple", "pear", "plum"),
    )
)
CONFIG = t5.T5Config(
    vocab_size=TOKENIZER.vocab_size,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype="float32",
)


def make_ranking(number):
    """Fruits are answers; each ranking has passages with none, one or two."""
    rng = np.random.default_rng(number)
    fruits = rng.permutation(["apple", "pear", "plum"])[: 1 + number % 3]
    candidates = []
    for place in range(DEPTH - number % 2):
        words = [f"w{word}" for word in rng.integers(20, size=3)]
        held = fruits[rng.random(len(fruits)) < 0.5]
        text = " ".join([*words[:2], *held, words[2]])
        passage = Passage(f"p{number}.{place}", text, title=f"w{place}")
        candidates.append(Candidate(passage, score=float(-place) / 2))
    question = Question(
        f"q{number}",
        f"w{number % 20} w3",
        answers=tuple(fruits),
        answer_groups=tuple((fruit,) for fruit in fruits),
    )
    return RankedQuestion(question, tuple(candidates))


@pytest.fixture(scope="session")
def tokenizer():
    return TOKENIZER


@pytest.fixture(scope="session")
def rankings():
    return [make_ranking(number) for number in range(20)]


@pytest.fixture(scope="session")
def table(rankings):
    return build_ranked_table(rankings, TOKENIZER)


@pytest.fixture(scope="session")
def make_space():
    def make(mesh=None):
        mesh = mesh or partitioning.make_mesh(1)
        return T5Workspace(mesh, CONFIG, TOKENIZER)

    return make


@pytest.fixture(scope="session")
def params():
    return jax.device_get(t5.init_params(CONFIG, jax.random.key(0)))
