"""SeqIO preprocessors: from the examples of a source to the features of a model."""

from collections.abc import Mapping

from art_jax.data.host_tensorflow import seqio, tf

# Tokenising many texts in one call spends its time in the tokeniser, not in the way
# from TensorFlow to Python.
_TEXTS_A_CALL = 512


def tokenize_questions(
    dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """Replaces the text `question` by its token ids, `query`.

    In:  {"question": "who wrote it?", "question_id": "q1", "answers": ["Ann"], ...}
    Out: {"query": [2040, 2626, 2009, 1029], "query_pretokenized": "who wrote it?",
          "question_id": "q1", "answers": ["Ann"], ...}

    [CLS] and [SEP] are added by the feature converter, after truncation. What
    `seqio.preprocessors.tokenize` does one example at a time.

    Args:
        dataset: of examples as `sources.question_source` gives them.
        output_features: of the task; "query" holds the vocabulary.
    """
    vocabulary = output_features["query"].vocabulary

    def tokenize(examples):
        texts = examples.pop("question")
        ids = vocabulary.encode_tf(texts)
        return {"query": ids, "query_pretokenized": texts, **examples}

    return dataset.ragged_batch(_TEXTS_A_CALL).map(tokenize).unbatch()
