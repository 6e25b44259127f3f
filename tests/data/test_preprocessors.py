import pytest

from art_jax.data import preprocessors, sources, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (*SPECIAL, "who", "wrote", "it", "?")
QUESTIONS = [
    Question("q1", "Who wrote it?", ("Ann", "A. B."), ("p7",), "p7"),
    Question("q2", "it", ("",)),
    Question("ü", "[CLS]"),
]


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(WordPieceTokenizer(PIECES))
    yield
    vocabularies.use(None)


def tokenized(questions):
    features = {"query": seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)}
    dataset = sources.question_dataset(questions)
    return preprocessors.tokenize_questions(dataset, features)


def test_the_question_becomes_ids_and_the_rest_stays():
    examples = list(tokenized(QUESTIONS).as_numpy_iterator())
    ids = [example.pop("query").tolist() for example in examples]
    assert ids == [[5, 6, 7, 8], [7], [1, 1, 1]]
    assert [sources.question_of_example(example) for example in examples] == QUESTIONS
    assert {name: type(value) for name, value in examples[0].items()}.keys() == {
        "query_pretokenized",
        "question_id",
        "answers",
        "answer_groups",
        "grades",
        "evidence",
        "relevant_ids",
        "source_id",
    }


def test_order_holds_across_calls_of_the_tokenizer(monkeypatch):
    monkeypatch.setattr(preprocessors, "_TEXTS_A_CALL", 2)
    texts = ["it", "who", "", "wrote it", "?"]
    dataset = tokenized([Question(str(n), text) for n, text in enumerate(texts)])
    ids = [example["query"].tolist() for example in dataset.as_numpy_iterator()]
    assert ids == [[7], [5], [], [6, 7], [8]]
