import dataclasses

import numpy as np

from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.layouts import Layout, make_token_table
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.teacher.passage_pool import make_pool, tokens_digest


def ranked(*passages):
    return RankedQuestion(Question("q", "why"), tuple(map(Candidate, passages)))


def test_a_passage_of_several_rankings_is_held_once():
    heron, otter = Passage("1", "It wades.", "Heron"), Passage("2", "It swims.")
    same_texts = Passage("another id", "It wades.", "Heron")
    titled = Passage("1", "It wades.", "Stork")
    pool = make_pool(
        [ranked(heron, otter), ranked(), ranked(titled, same_texts, otter)]
    )
    assert pool.passages == (heron, otter, titled)
    np.testing.assert_array_equal(pool.rows, [[0, 1, -1], [-1, -1, -1], [2, 0, 1]])
    assert pool.rows.dtype == np.int32


def test_a_pool_may_be_empty():
    assert make_pool([]).rows.shape == (0, 0)
    assert make_pool([ranked()]).rows.shape == (1, 0)


def test_the_digest_is_of_everything_that_rows_are_made_of():
    layout = Layout((5,), (), (1,), 8)
    tokens = make_token_table([[3]], [[4, 6]])
    others = [
        (make_token_table([[3]], [[4, 7]]), layout),
        (make_token_table([[3, 4]], [[6]]), layout),
        (make_token_table([[3], []], [[4], [6]]), layout),
        (tokens, dataclasses.replace(layout, max_tokens=7)),
        (tokens, dataclasses.replace(layout, suffix=(2,))),
    ]
    digests = {tokens_digest(*pair) for pair in [(tokens, layout), *others]}
    assert len(digests) == 6
    narrow = make_token_table([[3]], [[4, 6]], np.uint16)
    assert tokens_digest(narrow, layout) in digests
