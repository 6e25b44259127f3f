"""The pool of held-out passages, and ranks in it, against a full sort."""

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.data.example_table import ExampleSet, build_example_table
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.losses import contrastive
from art_jax.training import average_rank


def small_integers(seed, *shape):
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


def full_sort(queries, passages, places):
    order = np.argsort(-(queries @ passages.T), axis=1, kind="stable")
    return np.argmax(order == places[:, None], axis=1)


@pytest.mark.parametrize("block_rows", [3, 100])
def test_ranks_equal_a_full_sort_whatever_the_blocks(mesh, block_rows):
    # Small integers: dot products are exact, and ties common; they go to the lower row.
    queries, passages = small_integers(0, 300, 4), small_integers(1, 61, 4)
    places = np.random.default_rng(2).integers(0, 61, 300)
    padded = np.concatenate([passages, np.full((3, 4), 50, np.float32)])
    got = average_rank.ranks(
        queries,
        partitioning.put_global(padded, partitioning.row_sharding(mesh)),
        places,
        num_rows=61,
        mesh=mesh,
        block_rows=block_rows,
    )
    np.testing.assert_array_equal(got, full_sort(queries, passages, places))


def candidates(*names):
    return tuple(Candidate(Passage("", name)) for name in names)


def example(question, positives, hard=(), others=()):
    return TrainingExample(
        Question(question, question),
        candidates(*positives),
        negatives=candidates(*others),
        hard_negatives=candidates(*hard),
    )


def table_of(tiny, *examples):
    return build_example_table(
        [ExampleSet(path="dev.json")], [examples], tiny.made_tokenizers()["retriever"]
    )


def test_the_pool_is_of_first_passages_each_once(tiny):
    table = table_of(
        tiny,
        example("word1", ["a1", "a2"], ["b1", "b2", "b3"], ["c1", "c2", "c3"]),
        example("word2", ["b1"], [], ["c1", "c2", "c3", "c4", "c5"]),
        example("word3", ["d1"], ["d2"]),
    )
    # Rows: a1 0, a2 1, c1 2, c2 3, c3 4, b1 5, b2 6, b3 7, c4 8, c5 9, d1 10, d2 11.
    pool = average_rank.choose_pool(
        table, num_hard_negatives=2, num_other_negatives=1, max_questions=2
    )
    assert pool.examples.tolist() == [0, 1]
    # The second has no hard ones, so two others take their place.
    assert pool.passages.tolist() == [0, 2, 3, 5, 6]
    assert pool.places.tolist() == [0, 3]
    everything = average_rank.choose_pool(table)
    assert everything.passages.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("similarity", contrastive.SIMILARITIES)
def test_the_mean_rank_of_embedded_passages(tiny, tiny_evidence, similarity):
    mesh = partitioning.make_mesh(2)
    space = tiny.make_workspace(tiny_evidence, mesh, tiny.bag_encoder())
    texts = [passage.text for passage in tiny.SOME_PASSAGES[:9]]
    table = table_of(
        tiny,
        *(
            example(f"about word{i}", [texts[i]], texts[i + 1 : i + 3], texts[:i])
            for i in range(6)
        ),
    )
    pool = average_rank.choose_pool(table)
    params = tiny.init_params(space)
    mean_rank = average_rank.build_average_rank(
        table,
        pool,
        space.encoder,
        query_layout=space.query_layout,
        passage_layout=space.passage_layout,
        mesh=mesh,
        similarity=similarity,
    )
    query_tokens = average_rank.layout_rows(
        space.query_layout, table.questions, np.arange(6)
    )
    passage_tokens = average_rank.layout_rows(
        space.passage_layout, table.passages, pool.passages
    )
    scores = contrastive.similarity_scores(
        space.encoder.encode_query(params, query_tokens),
        space.encoder.encode_passage(params, passage_tokens),
        similarity=similarity,
    )
    order = np.argsort(-np.asarray(jax.device_get(scores)), axis=1)
    want = np.argmax(order == pool.places[:, None], axis=1).mean()
    assert 0 < want < len(pool.passages)
    assert mean_rank(params) == pytest.approx(want)
