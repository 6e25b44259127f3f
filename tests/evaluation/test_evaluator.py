import json

import numpy as np
import pytest

from art_jax.data import question_table, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.passages import Passage
from art_jax.data.preprocessors import tokenize_questions
from art_jax.data.questions import Question, write_questions
from art_jax.data.sources import file_readers, question_source
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import evaluator, measures

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


def retriever(batch_size, num_passages=4):
    """Finds the passages that start with the question's words, in their order."""
    first_word = len(SPECIAL)

    def retrieve(tokens):
        assert tokens.shape == (batch_size, 8)
        assert tokens.dtype == np.int32
        rows = tokens[:, 1:3] - first_word
        more = (rows.max(axis=1, keepdims=True) + [[1, 2]]) % len(PASSAGES)
        rows = np.concatenate([rows, more], axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :1]] = -1
        rows[rows < 0] = -1  # [SEP] or padding where a question has one word
        return rows[:, :num_passages]

    return retrieve


@pytest.mark.parametrize("batch_size", [4, 9, 16])
@pytest.mark.parametrize(
    ("questions", "match"), [(QUESTIONS, "string"), (REGEX_QUESTIONS, "regex")]
)
def test_seqio_and_plain_numbers_are_equal(
    register, tmp_path, questions, match, batch_size
):
    metric = evaluator.TopKAccuracy(ks=(1, 2, 4, 100), match=match)
    register("evaluated", questions, [metric])
    retrieve = retriever(batch_size)
    metrics = evaluator.evaluate_task(
        "evaluated",
        "dev",
        retrieve,
        PASSAGES.__getitem__,
        max_tokens=8,
        batch_size=batch_size,
    )
    table = question_table.question_table(questions, TOKENIZER, 8)
    rows = retriever(len(questions))(table.tokens)
    plain = measures.evaluate_questions(
        table, rows, PASSAGES.__getitem__, [1, 2, 4], match
    )
    assert metrics == plain
    assert metrics["num_questions"] == len(questions)
    assert 0 < metrics["top_1_accuracy"] < metrics["top_4_accuracy"] <= 1


def test_metrics_are_appended_as_t5x_does(register, tmp_path):
    register("logged", QUESTIONS, [evaluator.TopKAccuracy(ks=(1, 2))])
    directory = tmp_path / "run" / "inference_eval"
    for step in (0, 500):
        metrics = evaluator.evaluate_task(
            "logged",
            "dev",
            retriever(9),
            PASSAGES.__getitem__,
            max_tokens=8,
            batch_size=9,
            output_dir=directory,
            step=step,
        )
    lines = (directory / "logged-metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 0, **metrics},
        {"step": 500, **metrics},
    ]
    assert len(list(directory.iterdir())) == 1


def test_a_metric_counts_masked_questions_out_and_merges():
    metric = evaluator.TopKAccuracy(ks=(1,))
    questions = [
        {"query_pretokenized": b"?", "question_id": b"1", "answers": [b"w1"]},
        {"query_pretokenized": b"?", "question_id": b"2", "answers": [b"w9"]},
    ]
    found = np.array([[PASSAGES[0]], [PASSAGES[1]]], object)
    both = metric.from_model_output(questions, found, {})
    assert both.compute() == {"top_1_accuracy": 0.5, "num_questions": 2}
    first = metric.from_model_output(questions, found, {}, mask=np.array([1, 0]))
    assert first.compute() == {"top_1_accuracy": 1.0, "num_questions": 1}
    assert both.merge(first).compute() == {
        "top_1_accuracy": 2 / 3,
        "num_questions": 3,
    }


@pytest.mark.parametrize(
    ("ks", "questions", "error", "message"),
    [
        ((5, 20), QUESTIONS, ConfigError, "4 passages were found .* smallest k"),
        ((1,), [Question("q0", "w0")], DataError, "'q0' has neither answers"),
    ],
)
def test_errors_of_the_metric_come_out_as_they_are(
    register, ks, questions, error, message
):
    register("failing", questions, [evaluator.TopKAccuracy(ks=ks)])
    with pytest.raises(error, match=message):
        evaluator.evaluate_task(
            "failing",
            "dev",
            retriever(9),
            PASSAGES.__getitem__,
            max_tokens=8,
            batch_size=9,
        )


def test_a_task_without_metrics_and_a_mixture_are_refused(register):
    register("bare", QUESTIONS, [])
    seqio.MixtureRegistry.add("mixed", ["bare"], default_rate=1.0)
    arguments = ("dev", retriever(9), PASSAGES.__getitem__)
    with pytest.raises(ConfigError, match="'bare' states no metric"):
        evaluator.evaluate_task("bare", *arguments, max_tokens=8)
    with pytest.raises(ConfigError, match="'mixed' is a mixture: .* bare"):
        evaluator.evaluate_task("mixed", *arguments, max_tokens=8)
    seqio.MixtureRegistry.remove("mixed")
