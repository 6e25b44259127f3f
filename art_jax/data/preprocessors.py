"""SeqIO preprocessors: from the examples of a source to the features of a model."""

from collections.abc import Mapping

from art_jax.data import mention_windows
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


def keep_mentions(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int],
) -> tf.data.Dataset:
    """Cuts the ids of a long `query` so that the mention it asks about is read.

    In:  {"query": [5, 5, 5, 5, 5, 7, 6], "question_id": "q1", ...} with
         sequence_length {"query": 4}, where [START_ENT] is 7
    Out: {"query": [5, 5, 7, 6], "question_id": "q1", ...}

    Runs behind `tokenize_questions`; see `mention_windows.mention_window`.

    Args:
        dataset: of tokenised examples.
        output_features: of the task; "query" holds the vocabulary.
        sequence_length: {"query": Q}, [CLS] and [SEP] included.
    """
    vocabulary = output_features["query"].vocabulary

    def window(ids, question_id):
        marker = vocabulary.encode(mention_windows.MENTION)
        draw = mention_windows.window_draw(question_id.decode())
        return mention_windows.mention_window(
            ids, marker, sequence_length["query"], draw
        )

    def cut(example):
        arguments = [example["query"], example["question_id"]]
        query = tf.numpy_function(window, arguments, tf.int32)
        query.set_shape([None])
        return {**example, "query": query}

    return dataset.map(cut)
