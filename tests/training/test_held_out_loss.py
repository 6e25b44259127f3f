"""The mean loss of held-out examples: each counts once, among its batch."""

import jax.numpy as jnp
import numpy as np

from art_jax.data.example_batches import PassageDraw
from art_jax.data.example_sets import ExampleSet
from art_jax.data.example_table import build_example_table
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.layouts import Layout
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.training.held_out_loss import build_mean_loss

NUMBERS = tuple(f"n{number}" for number in range(9))
TOKENIZER = WordPieceTokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *NUMBERS))
SET = ExampleSet(path="dev.json")


def examples(numbers):
    return [
        TrainingExample(
            Question(str(n), NUMBERS[n]), (Candidate(Passage(str(n), NUMBERS[n])),)
        )
        for n in numbers
    ]


def test_every_question_counts_once():
    table = build_example_table(
        [SET, SET], [examples([0, 1, 2, 3, 4]), examples([5, 6])], TOKENIZER
    )
    seen = []

    def put_batch(arrays):
        seen.append(arrays)
        return arrays

    def losses(weights, batch):
        # A question's id, weighted, by the tower; where it fills up, no number at all.
        ids = batch["query_tokens"][:, 1].astype("float32")
        values = ids * weights[batch["towers"]]
        is_own = batch["passage_rows"][:, 0] >= 0
        return jnp.where(is_own, values, jnp.nan)

    mean_loss = build_mean_loss(
        table,
        losses,
        put_batch,
        draw=PassageDraw(1, 0),
        batch_size=4,
        query_layout=Layout((2,), (3,), (3,), 4),
        passage_layout=Layout((2,), (3,), (3,), 4),
        set_towers=(1, 0),
    )
    weights = np.array([10.0, 1.0], np.float32)
    total = sum(range(4, 9)) + 10 * (9 + 10)
    assert mean_loss(weights) == total / 7
    assert [one["loss_scales"].sum() for one in seen] == [4, 1, 2]
    # The passages of what fills a batch up are nobody's negatives.
    assert (seen[1]["passage_rows"][1:] == -1).all()
    assert mean_loss(weights) == total / 7
