"""MMR: passages in an order that repeats little, by their words and first scores alone.

Source: Carbonell & Goldstein, SIGIR 1998, equation 1.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from art_jax.data.examples import RankedQuestion
from art_jax.data.tokenizers import train_words
from art_jax.errors import ConfigError, DataError
from art_jax.teacher.passage_pool import make_pool


@dataclasses.dataclass(frozen=True)
class Mmr:
    """How relevance is weighed against novelty.

    Attributes:
        relevance_weight: lambda, 0 to 1; 1 keeps the order that there was.
    """

    relevance_weight: float = 0.5

    def __post_init__(self):
        if not 0 <= self.relevance_weight <= 1:
            raise ConfigError(
                f"Mmr.relevance_weight is {self.relevance_weight}: it must be between "
                "0 and 1."
            )

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh | None = None
    ) -> Iterator[np.ndarray]:
        """Yields the marginal relevance of each question's candidates, [K] float64.

        Relevance is the candidates' score, from 0 for the worst of a question to 1
        for its best; two passages are as similar as the cosine of their tf-idf says.

        Args:
            ranked: the rankings.
            mesh: not used; all is done on the host.

        Raises:
            DataError: a candidate has no score.
        """
        del mesh
        pool = make_pool(ranked)
        texts = [f"{one.title} {one.text}" for one in pool.passages]
        tokenizer = train_words(texts)
        words = [np.array(ids, np.int64) for ids in tokenizer.encode_batch(texts)]
        num_passages = np.zeros(tokenizer.vocab_size)
        for ids in words:
            num_passages[np.unique(ids)] += 1
        weights = np.log((1 + len(words)) / (1 + num_passages))
        for one, rows in zip(ranked, pool.rows, strict=True):
            rows = rows[: len(one.candidates)]
            vectors = tf_idf([words[row] for row in rows], weights)
            yield marginal_relevance(
                relevance_of(one), vectors @ vectors.T, self.relevance_weight
            )


def relevance_of(one: RankedQuestion) -> np.ndarray:
    """Returns the scores of a question's candidates, [K], moved to 0 to 1.

    Raises:
        DataError: a candidate has no score.
    """
    scores = [candidate.score for candidate in one.candidates]
    if None in scores:
        raise DataError(
            f"a candidate of question {one.question.question_id!r} has no score, which "
            "MMR weighs: give a run with scores."
        )
    values = np.array(scores, np.float64)
    if not len(values):
        return values
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.ones_like(values)


def tf_idf(texts: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Returns a vector of length 1 for each text, [K, words of them all] float64.

    Args:
        texts: K lists of word ids; one without words, or with common ones alone, gets
            zeros.
        weights: [V], of each word.
    """
    flat = np.concatenate([*texts, np.zeros(0, np.int64)])
    vocabulary, columns = np.unique(flat, return_inverse=True)
    vectors = np.zeros((len(texts), len(vocabulary)))
    places = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    np.add.at(vectors, (places, columns), 1.0)
    vectors *= weights[vocabulary][None]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=vectors, where=lengths > 0)


def marginal_relevance(
    relevance: np.ndarray, similarity: np.ndarray, relevance_weight: float
) -> np.ndarray:
    """Returns what each passage was worth when it was chosen, [K] float64.

    Passages are chosen one after the other, the one of most relevance less similarity
    to its most similar predecessor; of equals the first. What is worth more was chosen
    earlier.

    Args:
        relevance: [K].
        similarity: [K, K].
        relevance_weight: lambda.
    """
    worth = np.zeros(len(relevance))
    nearest = np.full(len(relevance), -np.inf)
    is_left = np.ones(len(relevance), bool)
    for _ in range(len(relevance)):
        # Before anything is chosen there is nothing to repeat.
        repeated = np.where(np.isfinite(nearest), nearest, 0.0)
        values = relevance_weight * relevance - (1 - relevance_weight) * repeated
        chosen = int(np.argmax(np.where(is_left, values, -np.inf)))
        worth[chosen] = values[chosen]
        is_left[chosen] = False
        nearest = np.maximum(nearest, similarity[chosen])
    return worth
