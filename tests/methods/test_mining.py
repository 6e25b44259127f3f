"""Mining: which passages found become right ones, wrong ones, or neither."""

import numpy as np
import pytest

from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.methods.mining import (
    MiningSettings,
    MiningStatistics,
    TeacherFilter,
    mine_examples,
)
from art_jax.types import SearchResults

# What every search finds: rows of the tiny evidence, whose ids are their numbers.
FOUND = [4, 9, 2, 30, 11, -1]
SCORES = [5.0, 4.0, 3.5, 2.0, 1.0, -np.inf]


def search(texts):
    return SearchResults(
        np.tile(np.array(SCORES, np.float32), (len(texts), 1)),
        np.tile(np.array(FOUND, np.int32), (len(texts), 1)),
    )


def mine(tiny_evidence, *examples, teacher=None, **settings):
    statistics = MiningStatistics()
    settings = MiningSettings(**settings)
    mined = mine_examples(
        examples, search, tiny_evidence, settings, statistics, teacher
    )
    return list(mined), statistics


def ask(**fields):
    return TrainingExample(Question("q", "about it", **fields), ())


def ids(candidates):
    return [candidate.passage.passage_id for candidate in candidates]


def test_the_first_passage_with_the_answer_is_right_and_the_others_wrong(tiny_evidence):
    (example,), statistics = mine(tiny_evidence, ask(answers=("word9", "word11")))
    assert ids(example.positives) == ["9"]
    assert example.positives[0].score == 4.0
    assert ids(example.hard_negatives) == ["4", "2", "30"]
    assert [one.score for one in example.hard_negatives] == [5.0, 3.5, 2.0]
    assert example.negatives == ()
    assert (statistics.found, statistics.first_ranks, statistics.right) == (1, 2, 2)
    assert (statistics.hard_negatives, statistics.too_few) == (3, 1)


def test_so_many_are_kept_as_are_asked_for(tiny_evidence):
    (example,), statistics = mine(
        tiny_evidence,
        ask(answers=("word9", "word11")),
        num_positives=2,
        num_hard_negatives=2,
    )
    assert ids(example.positives) == ["9", "11"]
    assert ids(example.hard_negatives) == ["4", "2"]
    assert statistics.too_few == 0


def test_relevant_passages_are_right_whether_they_were_found_or_not(tiny_evidence):
    (example,), statistics = mine(tiny_evidence, ask(relevant_ids=("2", "17")))
    assert ids(example.positives) == ["2", "17"]
    assert ids(example.hard_negatives) == ["4", "9", "30", "11"]
    assert statistics.first_ranks == 3
    with pytest.raises(DataError, match="no passage has the id 'x'"):
        mine(tiny_evidence, ask(relevant_ids=("x",)))


def test_given_passages_stay_right_and_are_known_by_id_or_words(tiny, tiny_evidence):
    same_text = Passage("of another corpus", tiny.SOME_PASSAGES[9].text)
    given = (Candidate(same_text), Candidate(tiny.SOME_PASSAGES[30]))
    example = TrainingExample(Question("q", "it"), given)
    (mined,), _ = mine(tiny_evidence, example)
    assert mined.positives == given
    assert ids(mined.hard_negatives) == ["4", "2", "11"]


def test_questions_without_a_right_passage_are_dropped_and_counted(tiny_evidence):
    mined, statistics = mine(
        tiny_evidence, ask(answers=("nowhere",)), ask(answers=("word4",))
    )
    assert [ids(example.positives) for example in mined] == [["4"]]
    assert (statistics.questions, statistics.kept, statistics.found) == (2, 1, 1)
    assert "2 questions, 1 kept, 1 dropped" in statistics.describe()
    with pytest.raises(DataError, match="question 'q' has no answers, relevant_ids"):
        mine(tiny_evidence, ask())


def test_the_passage_a_question_was_made_from_is_neither(tiny_evidence):
    (example,), statistics = mine(
        tiny_evidence, ask(answers=("word9", "word2"), source_id="9")
    )
    assert ids(example.positives) == ["2"]
    assert "9" not in ids(example.hard_negatives)
    (example,), statistics = mine(tiny_evidence, ask(answers=("word2",), source_id="4"))
    assert ids(example.hard_negatives) == ["9", "30", "11"]
    assert statistics.sources == 1


def test_a_margin_keeps_likely_right_ones_out(tiny_evidence):
    (example,), statistics = mine(
        tiny_evidence, ask(answers=("word9",)), margin=1.0, num_hard_negatives=3
    )
    # 9 has 4; only what scores 3 or less is wrong for sure.
    assert ids(example.hard_negatives) == ["30", "11"]
    assert statistics.near == 2
    # Where no right passage was found, nothing says how near is too near.
    (example,), _ = mine(tiny_evidence, ask(relevant_ids=("17",)), margin=1.0)
    assert len(example.hard_negatives) == 5


@pytest.mark.parametrize(("margin", "kept"), [(0.0, "2 11"), (2.0, "11"), (-9, "4 2")])
def test_a_teacher_keeps_likely_right_ones_out(tiny_evidence, margin, kept):
    # By a teacher 4 and 30 beat the right passage 9, 2 is as good and 11 is worse.
    values = {"4": -1.0, "9": -3.0, "2": -3.0, "30": -2.0, "11": -5.0}
    asked = []

    def score(questions, passages):
        asked.extend(questions)
        return [
            np.array([values[one.passage_id] for one in some], np.float32)
            for some in passages
        ]

    nowhere = TrainingExample(Question("r", "dropped", answers=("nowhere",)), ())
    (example,), statistics = mine(
        tiny_evidence,
        nowhere,
        ask(answers=("word9",)),
        teacher=TeacherFilter(score, margin),
        num_hard_negatives=2,
    )
    assert ids(example.positives) == ["9"]
    assert " ".join(ids(example.hard_negatives)) == kept
    assert asked == ["about it"]
    assert statistics.taught == {0.0: 2, 2.0: 3, -9: 0}[margin]
    assert statistics.too_few == (margin == 2.0)
    assert f"{statistics.taught} by the teacher" in statistics.describe()


def test_random_negatives_are_wrong_and_drawn_by_seed(tiny, tiny_evidence):
    # 'other3' is said by passages 3, 14, 25 and 36, and 5 is the source.
    questions = [ask(answers=("other3",), relevant_ids=("3",), source_id="5")] * 20
    settings = {"num_random_negatives": 6, "num_hard_negatives": 0}
    mined, _ = mine(tiny_evidence, *questions, **settings)
    drawn = [ids(example.negatives) for example in mined]
    assert all(len(set(each)) == 6 for each in drawn)
    every = {name for each in drawn for name in each}
    assert every.isdisjoint({"3", "14", "25", "36", "5"})
    assert len(every) > 30
    again, _ = mine(tiny_evidence, *questions, **settings)
    assert drawn == [ids(example.negatives) for example in again]
    other, _ = mine(tiny_evidence, *questions, **settings, seed=1)
    assert drawn != [ids(example.negatives) for example in other]


def test_given_negatives_stay_behind_where_asked(tiny, tiny_evidence):
    given = tuple(Candidate(tiny.SOME_PASSAGES[row]) for row in (4, 33))
    example = TrainingExample(
        Question("q", "it", relevant_ids=("9",)),
        (Candidate(tiny.SOME_PASSAGES[9]),),
        negatives=given[1:],
        hard_negatives=given,
    )
    (mined,), _ = mine(tiny_evidence, example, num_hard_negatives=2)
    assert (ids(mined.hard_negatives), mined.negatives) == (["4", "2"], ())
    (mined,), _ = mine(tiny_evidence, example, num_hard_negatives=2, keep_given=True)
    assert ids(mined.hard_negatives) == ["4", "2", "33"]
    assert ids(mined.negatives) == ["33"]


def test_questions_are_read_a_batch_at_a_time(tiny_evidence, monkeypatch):
    from art_jax.methods import mining

    monkeypatch.setattr(mining, "_QUESTIONS_AT_ONCE", 2)
    read = []

    def examples():
        for number in range(5):
            read.append(number)
            yield ask(answers=("word4",))

    mined = mine_examples(
        examples(), search, tiny_evidence, MiningSettings(), MiningStatistics()
    )
    next(mined)
    assert read == [0, 1]
    assert len(list(mined)) == 4


@pytest.mark.parametrize(
    "settings",
    [{"num_hard_negatives": -1}, {"num_random_negatives": -1}, {"num_positives": 0}],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ConfigError, match="were asked for"):
        MiningSettings(**settings)
