import json

import numpy as np
import pytest

from art_jax.data import question_table, vocabularies
from art_jax.data.examples import Candidate
from art_jax.data.host_tensorflow import seqio
from art_jax.data.passages import Passage
from art_jax.data.preprocessors import tokenize_questions
from art_jax.data.questions import Question, write_questions
from art_jax.data.sources import file_readers, question_source
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import candidates, evaluator, measures
from art_jax.types import SearchResults

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZER = WordPieceTokenizer((*SPECIAL, *(f"w{n}" for n in range(20))))
PASSAGES = [Passage(f"p{n}", f"w{n} w{n + 1} 19{n:02}", f"w{n + 2}") for n in range(19)]
QUESTIONS = [
    Question(f"q{n}", f"w{n} w{2 * n}", (f"w{2 * n}", "é"), ("p3",) if n == 4 else ())
    for n in range(9)
]
REGEX_QUESTIONS = [
    Question(f"q{n}", f"w{n}", (rf"19\d{n + n // 5}$",)) for n in range(8)
]


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(TOKENIZER)
    yield
    vocabularies.use(None)


@pytest.fixture
def register(tmp_path):
    names = []

    def register(name, questions, metrics):
        path = tmp_path / f"{name}.jsonl"
        write_questions(path, questions)
        vocabulary = vocabularies.query_vocabulary()
        seqio.TaskRegistry.add(
            name,
            source=question_source(file_readers({"dev": path})),
            preprocessors=[tokenize_questions],
            output_features={"query": seqio.Feature(vocabulary, add_eos=False)},
            metric_objs=metrics,
        )
        names.append(name)

    yield register
    for name in names:
        seqio.TaskRegistry.remove(name)


def rows_found(table, num_passages=4):
    """Finds the passages that start with the question's words, in their order."""
    assert table.tokens.shape[1] == 8
    rows = table.tokens[:, 1:3] - len(SPECIAL)
    more = (rows.max(axis=1, keepdims=True) + [[1, 2]]) % len(PASSAGES)
    rows = np.concatenate([rows, more], axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :1]] = -1
    rows[rows < 0] = -1  # [SEP] or padding where a question has one word
    return rows[:, :num_passages]


def retrieve(table):
    rows = rows_found(table)
    scores = np.broadcast_to(-np.arange(rows.shape[1]), rows.shape)
    return candidates.of_search(SearchResults(scores, rows), PASSAGES.__getitem__)


def found_of(*rankings):
    """Candidates of ids, or of (id, text) pairs, with falling scores."""
    pairs = [
        [one if isinstance(one, tuple) else (one, f"text {one}") for one in ranking]
        for ranking in rankings
    ]
    return candidates.stack(
        [
            [
                Candidate(Passage(name, text), -float(place))
                for place, (name, text) in enumerate(ranking)
            ]
            for ranking in pairs
        ]
    )


def means(metric, questions, found):
    values = metric.question_values(questions, found)
    return {
        k: mean.value for k, mean in metric.replace(values=values).compute().items()
    }


@pytest.mark.parametrize(
    ("questions", "match"), [(QUESTIONS, "string"), (REGEX_QUESTIONS, "regex")]
)
def test_seqio_and_plain_numbers_are_equal(register, questions, match):
    metric = evaluator.TopKAccuracy(ks=(1, 2, 4, 100), match=match)
    register("evaluated", questions, [metric])
    result = evaluator.evaluate_task("evaluated", "dev", retrieve, max_tokens=8)
    table = question_table.question_table(questions, TOKENIZER, 8)
    plain = measures.evaluate_questions(
        table, rows_found(table), PASSAGES.__getitem__, [1, 2, 4], match
    )
    assert result.metrics == plain
    assert result.metrics["num_questions"] == len(questions)
    assert 0 < plain["top_1_accuracy"] < plain["top_4_accuracy"] <= 1
    # What the numbers are made of comes out too.
    assert result.questions.questions == tuple(questions)
    np.testing.assert_array_equal(result.questions.tokens, table.tokens)
    assert result.values.keys() == {f"top_{k}_accuracy" for k in (1, 2, 4)}
    assert result.values["top_4_accuracy"].mean() == plain["top_4_accuracy"]
    assert result.found.shape == (len(questions), 4)


def test_metrics_are_appended_as_t5x_does(register, tmp_path):
    register("logged", QUESTIONS, [evaluator.TopKAccuracy(ks=(1, 2))])
    directory = tmp_path / "run" / "inference_eval"
    for step in (0, 500):
        metrics = evaluator.evaluate_task(
            "logged", "dev", retrieve, max_tokens=8, output_dir=directory, step=step
        ).metrics
    del metrics["num_questions"]
    lines = (directory / "logged-metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, **metrics},
        {"step": 500, **metrics},
    ]
    assert len(list(directory.iterdir())) == 1


def test_a_task_may_state_several_metrics(register):
    questions = [
        Question("q0", "w0", ("w1",), ("p1",), answer_groups=(("w1",), ("w5",))),
        Question("q1", "w3", ("w3",), ("p3", "p9"), answer_groups=(("w3",),)),
    ]
    metrics = [
        evaluator.RankingMeasures(measures=("r_precision", "recall_at_2", "ndcg_at_9")),
        evaluator.MultiAnswer(ks=(1, 2)),
    ]
    register("several", questions, metrics)
    got = evaluator.evaluate_task("several", "dev", retrieve, max_tokens=8).metrics
    # Found are p0 p1 p2 and p3 p4 p5, four places each: so no ndcg_at_9.
    assert got["r_precision"] == (0 + 1 / 2) / 2
    assert got["recall_at_2"] == (1 + 1 / 2) / 2
    assert "ndcg_at_9" not in got
    # Of the two answers of q0 "w1" is in p0 and p1, "w5" in none of the first two.
    assert got["mrecall_at_1"] == 1.0
    assert got["mrecall_at_2"] == 1 / 2
    assert got["multi_mrecall_at_2"] == 0.0
    assert got["num_questions"] == 2


def test_a_metric_counts_masked_questions_out_and_merges():
    metric = evaluator.TopKAccuracy(ks=(1,))
    questions = [
        {"query_pretokenized": b"?", "question_id": b"1", "answers": [b"w1"]},
        {"query_pretokenized": b"?", "question_id": b"2", "answers": [b"w9"]},
    ]
    found = found_of([("p0", "w0 w1")], [("p1", "w1 w2")])
    both = metric.from_model_output(questions, found, {})
    assert both.compute()["top_1_accuracy"].value == 0.5
    first = metric.from_model_output(questions, found, {}, mask=np.array([1, 0]))
    assert first.compute()["top_1_accuracy"].value == 1.0
    merged = both.merge(first).compute()["top_1_accuracy"]
    assert merged.value == 2 / 3
    np.testing.assert_array_equal(merged.values, [1, 0, 1])


def test_graded_judgments_reach_trec_eval():
    questions = [
        Question("q1", "?", (), ("d1", "d2", "d3"), grades=(2, 1, 1)),
        Question("q2", "?", (), ("d9",)),
    ]
    found = found_of(["d2", "d5", "d1"], ["d0", "d9"])
    metric = evaluator.RankingMeasures(measures=("ndcg", "recall_at_2", "map"))
    got = metric.question_values(questions, found)
    np.testing.assert_allclose(got["ndcg"], [0.638788, 0.630930], atol=5e-7)
    np.testing.assert_allclose(got["map"], [(1 + 2 / 3) / 3, 1 / 2])
    np.testing.assert_allclose(got["recall_at_2"], [1 / 3, 1])


def test_ties_go_as_in_trec_eval_not_by_rank():
    question = Question("q", "?", (), ("d1", "d2", "d3"), grades=(2, 1, 1))
    tied = [Candidate(Passage(name, "x"), 1.0) for name in ("d1", "d9", "a0")]
    metric = evaluator.RankingMeasures(measures=("ndcg_at_3", "recall_at_2"))
    got = means(metric, [question], candidates.stack([tied]))
    assert got["ndcg_at_3"] == pytest.approx(0.403030, abs=5e-7)
    assert got["recall_at_2"] == pytest.approx(1 / 3)


def test_beir_leaves_a_question_itself_out_of_its_ranking():
    question = Question("d7", "?", (), ("d1",))
    found = found_of(["d7", "d1"])
    for is_ignored, want in ((False, 1 / 2), (True, 1.0)):
        metric = evaluator.RankingMeasures(
            measures=("mrr",), ignore_identical_ids=is_ignored
        )
        assert means(metric, [question], found) == {"mrr": want}


def test_kilt_by_page_and_by_passage():
    # systems.md 10.3: gold (10, 3) and (10, 7); guess (10, 4), (10, 7), (10, 3).
    question = Question("k", "?", evidence=(("10+3",), ("10+7",)))
    found = found_of(["10+4+0", "10+7+1", "10+3+0", "11+0+0", "12+0+0"])
    assert means(evaluator.KiltRetrieval(ks=(1, 5, 20)), [question], found) == {
        "page_r_precision": 1.0,
        "page_recall_at_1": 1.0,
        "page_recall_at_5": 1.0,
        "page_success_at_1": 1.0,
        "page_success_at_5": 1.0,
        "passage_r_precision": 0.0,
        "passage_recall_at_1": 0.0,
        "passage_recall_at_5": 1.0,
        "passage_success_at_1": 0.0,
        "passage_success_at_5": 1.0,
    }


def test_kilt_without_paragraphs_is_judged_by_pages_alone():
    questions = [Question("k", "?", evidence=(("10", "11"),)), Question("l", "?")]
    found = found_of(["10+4+0", "10+5+0"], ["10+4+0"])
    got = means(evaluator.KiltRetrieval(ks=(1,)), questions, found)
    # One page of two at R = 2, its two passages being one page; and no evidence is 0.
    assert got == {
        "page_r_precision": 1 / 4,
        "page_recall_at_1": 0.0,
        "page_success_at_1": 0.0,
    }


def test_several_answers_by_hand():
    # systems.md 10.4 and 10.5: p1 {A}, p2 {A}, p3 {B}, p4 {A, C}, p5 {}.
    texts = {"p1": "aa", "p2": "aa", "p3": "bb", "p4": "aa cc", "p5": "x"}
    pairs = [(name, texts[name]) for name in ("p1", "p2", "p3", "p4", "p5")]
    groups = (("aa",), ("bb",), ("cc", "gg"))
    questions = [
        Question("q", "?", ("aa", "bb", "cc"), answer_groups=groups),
        Question("r", "?", ("bb", "zz")),
    ]
    found = found_of(pairs, pairs)
    got = means(evaluator.MultiAnswer(ks=(2, 5)), questions, found)
    assert got["mrecall_at_2"] == (0 + 0) / 2
    assert got["mrecall_at_5"] == (1 + 1) / 2
    assert got["multi_mrecall_at_5"] == 1.0
    assert got["multi_alpha_ndcg_at_5"] == pytest.approx(0.7440969, abs=1e-7)
    # The other has one answer, found at rank 3.
    assert got["alpha_ndcg_at_5"] == pytest.approx((0.7440969 + 0.5) / 2, abs=1e-7)


def test_texts_are_judged_through_seqio(register):
    questions = [
        Question("q0", "w0", ("The Beatles", "Beatles")),
        Question("q1", "w1", ("cat on mat",)),
    ]
    register(
        "texts",
        questions,
        [evaluator.TextMeasures(measures=("exact_match", "token_f1"))],
    )
    answers = {"q0": "beatles!", "q1": "the cat sat on the mat"}
    result = evaluator.evaluate_task(
        "texts",
        "dev",
        predict=lambda table: [answers[name] for name in table.question_ids],
        max_tokens=8,
    )
    assert result.metrics == {
        "exact_match": 0.5,
        "token_f1": pytest.approx((1 + 6 / 7) / 2),
        "num_questions": 2,
    }
    np.testing.assert_array_equal(result.values["exact_match"], [1, 0])
    assert result.found is None


def test_token_ids_are_decoded_and_targets_stand_in_for_answers():
    class Vocabulary:
        def decode(self, ids):
            return " ".join(f"w{number}" for number in ids)

    features = {"targets": seqio.Feature(Vocabulary())}
    examples = [{"question_id": b"a", "targets_pretokenized": b"w7 w8"}]
    metric = evaluator.TextMeasures(measures=("exact_match", "bleu_1", "answer_set_f1"))
    judged = metric.from_model_output(examples, np.array([[7, 8]]), features)
    got = judged.compute()
    assert got["exact_match"].value == 1.0
    assert got["bleu_1"] == pytest.approx(1.0)
    wrong = metric.from_model_output(examples, np.array(["w9"]), features)
    both = judged.merge(wrong).compute()
    np.testing.assert_array_equal(both["exact_match"].values, [1, 0])
    with pytest.raises(DataError, match="'a' has neither answers nor a target"):
        metric.from_model_output([{"question_id": b"a"}], np.array(["x"]), features)


@pytest.mark.parametrize(
    ("metric", "questions", "error", "message"),
    [
        (
            evaluator.TopKAccuracy(ks=(5, 20)),
            QUESTIONS,
            ConfigError,
            "4 passages were found .* smallest k",
        ),
        (
            evaluator.TopKAccuracy(ks=(1,)),
            [Question("q0", "w0")],
            DataError,
            "'q0' has neither answers",
        ),
        (
            evaluator.RankingMeasures(measures=("mrr",)),
            [Question("q0", "w0", ("w1",))],
            DataError,
            "'q0' has no relevant_ids",
        ),
        (
            evaluator.RankingMeasures(measures=("ndgc",)),
            QUESTIONS[4:5],
            ConfigError,
            "no meas",
        ),
        (evaluator.KiltRetrieval(), QUESTIONS, DataError, "no question has evidence"),
        (
            evaluator.MultiAnswer(ks=(1,)),
            [Question("q0", "w0", relevant_ids=("p1",))],
            DataError,
            "'q0' has no answers",
        ),
        (evaluator.TextMeasures(), QUESTIONS, ConfigError, "kind 'prediction': give"),
    ],
)
def test_errors_of_a_metric_come_out_as_they_are(
    register, metric, questions, error, message
):
    register("failing", questions, [metric])
    with pytest.raises(error, match=message):
        evaluator.evaluate_task("failing", "dev", retrieve, max_tokens=8)


def test_answers_are_not_looked_for_in_ids():
    questions = [Question("q0", "?", ("x",), ("p1",)), Question("q1", "?", ("x",))]
    found = found_of([("p1", "")], [("p2", "")])
    for metric in (evaluator.TopKAccuracy(ks=(1,)), evaluator.MultiAnswer(ks=(1,))):
        with pytest.raises(DataError, match="ids alone are known: .*--passages"):
            metric.question_values(questions, found)
    metric = evaluator.TopKAccuracy(ks=(1,))
    assert means(metric, questions[:1], found[:1]) == {"top_1_accuracy": 1.0}


def test_a_task_without_metrics_and_a_mixture_are_refused(register):
    register("bare", QUESTIONS, [])
    seqio.MixtureRegistry.add("mixed", ["bare"], default_rate=1.0)
    with pytest.raises(ConfigError, match="'bare' states no metric"):
        evaluator.evaluate_task("bare", "dev", retrieve, max_tokens=8)
    with pytest.raises(ConfigError, match="'mixed' is a mixture: .* bare"):
        evaluator.evaluate_task("mixed", "dev", retrieve, max_tokens=8)
    seqio.MixtureRegistry.remove("mixed")
