import numpy as np
import pytest

from art_jax.data.passages import Passage
from art_jax.data.question_table import make_question_table
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import measures

HITS = np.array(
    [
        [0, 1, 0, 1],
        [0, 0, 0, 0],
        [1, 1, 0, 0],
    ],
    bool,
)
PASSAGES = [
    Passage("a", "The cat sat.", "Dogs"),
    Passage("b", "A dog ran.", "Cats"),
    Passage("c", "Born in 1969", ""),
]


def table_of(*questions):
    return make_question_table(questions, np.zeros((len(questions), 4), np.int32))


def test_top_k_accuracy_by_hand():
    accuracies = measures.top_k_accuracy(HITS, [1, 2, 4])
    assert accuracies == {1: 1 / 3, 2: 2 / 3, 4: 2 / 3}


def test_recall_by_hand():
    shares = measures.recall(HITS, np.array([4, 1, 2]), [1, 2, 4])
    assert shares == {
        1: pytest.approx((0 / 4 + 0 / 1 + 1 / 2) / 3),
        2: pytest.approx((1 / 4 + 0 / 1 + 2 / 2) / 3),
        4: pytest.approx((2 / 4 + 0 / 1 + 2 / 2) / 3),
    }


def test_mean_reciprocal_rank_by_hand():
    assert measures.mean_reciprocal_rank(HITS, 4) == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert measures.mean_reciprocal_rank(HITS, 1) == pytest.approx((0 + 0 + 1) / 3)


@pytest.mark.parametrize("k", [0, 5])
def test_k_stays_within_what_was_retrieved(k):
    for measure in (
        lambda: measures.top_k_accuracy(HITS, [1, k]),
        lambda: measures.recall(HITS, np.array([4, 4, 4]), [k]),
        lambda: measures.mean_reciprocal_rank(HITS, k),
    ):
        with pytest.raises(ConfigError, match=f"k={k} of the 4 passages"):
            measure()


def test_no_questions_are_an_error():
    with pytest.raises(DataError, match="no questions"):
        measures.top_k_accuracy(np.zeros((0, 3), bool), [1])


@pytest.mark.parametrize(("num_relevant", "row"), [([2, 0, 2], 1), ([2, 1, 1], 2)])
def test_recall_needs_relevant_passages_counted_right(num_relevant, row):
    with pytest.raises(DataError, match=f"question {row} has"):
        measures.recall(HITS, np.array(num_relevant), [1])


def test_relevant_ids_win_over_answers_and_titles_never_count():
    table = table_of(
        Question("q1", "?", ("dog",), ("a", "c")),
        Question("q2", "?", ("cat", "dogs", "cats")),
        Question("q3", "?", ("1969",)),
    )
    rows = np.array([[0, 1, 2], [1, 0, -1], [-1, -1, -1]])
    hits = measures.question_hits(
        rows,
        PASSAGES.__getitem__,
        question_ids=table.question_ids,
        answers=table.answers,
        relevant_ids=table.relevant_ids,
    )
    np.testing.assert_array_equal(hits, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    metrics = measures.evaluate_questions(table, rows, PASSAGES.__getitem__, [1, 3])
    assert metrics == {
        "top_1_accuracy": 1 / 3,
        "top_3_accuracy": 2 / 3,
        "num_questions": 3,
    }


def test_match_is_handed_on():
    table = table_of(Question("q", "?", (r"19\d\d",)))
    rows = np.array([[2]])
    for match, accuracy in (("regex", 1.0), ("string", 0.0)):
        metrics = measures.evaluate_questions(
            table, rows, PASSAGES.__getitem__, [1], match
        )
        assert metrics["top_1_accuracy"] == accuracy


@pytest.mark.parametrize(
    ("questions", "rows", "message"),
    [
        ([Question("q1", "?", ("x",))], [[0], [1]], "rankings for 2 questions of 1"),
        ([Question("q1", "?")], [[0]], "'q1' has neither answers nor relevant_ids"),
        ([Question("q1", "?", ("x",))], [[2, 0, 2]], "'q1' holds row 2 twice"),
    ],
)
def test_what_cannot_be_evaluated_is_named(questions, rows, message):
    with pytest.raises(DataError, match=message):
        measures.evaluate_questions(
            table_of(*questions), np.array(rows), PASSAGES.__getitem__, [1]
        )


def test_each_passage_is_fetched_once():
    asked = []

    def passage_of_row(row):
        asked.append(row)
        return PASSAGES[row]

    table = table_of(*[Question(str(n), "?", ("cat",)) for n in range(5)])
    rows = np.tile(np.array([[0, 1, -1]]), (5, 1))
    measures.evaluate_questions(table, rows, passage_of_row, [1])
    assert sorted(asked) == [0, 1]


def test_ranks_of_the_right_passages_by_hand():
    scores = np.array([[3.0, 5.0, 4.0, 5.0], [1.0, 1.0, 1.0, 0.0]])
    # 5 is the best, once by column 1, then by column 3; all of row 1 are tied.
    assert measures.gold_ranks(scores, np.array([0, 2])).tolist() == [3, 2]
    assert measures.gold_ranks(scores, np.array([1, 0])).tolist() == [0, 0]
    assert measures.gold_ranks(scores, np.array([3, 3])).tolist() == [1, 3]
    assert measures.average_rank(scores, np.array([0, 2])) == (3 + 2) / 2


def test_ranks_need_questions_and_numbers():
    with pytest.raises(DataError, match="no questions"):
        measures.average_rank(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(DataError, match="NaN"):
        measures.gold_ranks(np.array([[np.nan, 1.0]]), np.array([1]))
    with pytest.raises(ValueError, match="scores are"):
        measures.gold_ranks(np.zeros((2, 3)), np.zeros(3, int))
