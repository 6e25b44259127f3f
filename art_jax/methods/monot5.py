"""monoT5: passages ranked again by a T5 that was trained to say which are relevant.

Source: Nogueira et al., arXiv:2003.06713; the wording is that of castorini's models.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.data.examples import RankedQuestion
from art_jax.data.layouts import Layout, make_token_table
from art_jax.data.tokenizers import find_single_tokens
from art_jax.errors import ConfigError
from art_jax.models import t5
from art_jax.models.t5 import T5Config
from art_jax.teacher import cached_scores
from art_jax.teacher.passage_pool import make_pool, tokens_digest
from art_jax.teacher.score_cache import ScoreCache
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.teacher.worklist import static_lengths
from art_jax.types import Params

# Between them the pieces of SentencePiece do not reach over a space, so that parts
# tokenised apart are the whole tokenised at once.
QUERY, DOCUMENT, RELEVANT = "Query: ", " Document:", " Relevant:"


@dataclasses.dataclass(frozen=True)
class MonoT5:
    """How candidates are scored: log p(relevant), of two words that may come first.

    The model reads `Query: {question} Document: {text} Relevant:`, without the title.

    Attributes:
        model: the T5, its vocabulary, its limits and how many passages it encodes at
            once; its prompts are not used.
        words: what it says of a relevant passage, and of another.
        cache_dir: keeps scores, so that a killed run goes on; None: none are kept.
        pairs_a_call: of a question and a passage, sorted by length together.

    Differs in: where a text is too long its end is cut, and never `Relevant:`.
    """

    model: T5Teacher
    words: tuple[str, str] = ("true", "false")
    cache_dir: pathlib.Path | None = None
    pairs_a_call: int = 1024

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh
    ) -> Iterator[np.ndarray]:
        """Yields the scores of each question's candidates, [K] float32, in nats.

        Args:
            ranked: the rankings.
            mesh: candidates are split over its data axis, weights over its model axis.

        Raises:
            ConfigError: the model's files, or the scores kept, are of another kind; a
                word is no piece of the vocabulary; or a question leaves no room.
        """
        tokenizer = self.model.make_tokenizer(())
        pool = make_pool(ranked)
        passages = tokenizer.encode_batch([one.text for one in pool.passages])
        texts = [one.question.text for one in ranked]
        rows_of = PairRows(
            tokenizer.encode_batch([QUERY + text + DOCUMENT for text in texts]),
            passages,
            (*tokenizer.encode_batch([RELEVANT])[0], tokenizer.eos_id),
            self.model.max_passage_tokens,
        )
        word_ids = find_single_tokens(tokenizer, self.words)
        cache = None
        if self.cache_dir is not None:
            table = make_token_table([()] * len(passages), passages)
            layout = Layout((), (), rows_of.tail, rows_of.max_tokens)
            key = {
                "teacher": f"monot5 {word_ids} {self.model.digest(tokenizer)}",
                "passages": tokens_digest(table, layout),
                "questions": cached_scores.questions_digest(texts),
            }
            cache = ScoreCache.open(self.cache_dir, key)
        score_pairs = functools.partial(
            _score_pairs,
            self.model,
            self.model.load(None, tokenizer, mesh),
            rows_of,
            word_ids,
            mesh,
        )
        scores = cached_scores.score_rankings(
            score_pairs, pool.rows, pairs_a_call=self.pairs_a_call, cache=cache
        )
        for one, row in zip(ranked, scores, strict=True):
            yield row[: len(one.candidates)]


@dataclasses.dataclass(frozen=True, eq=False)
class PairRows:
    """The rows that a model reads of a question and a passage: both texts in one.

    heads: of each question the ids before the passage's.
    bodies: of each passage its ids; cut where the row would be too long.
    tail: ids behind it.
    max_tokens: of a row.

    Raises:
        ConfigError: a question leaves no room for a passage.
    """

    heads: Sequence[Sequence[int]]
    bodies: Sequence[Sequence[int]]
    tail: tuple[int, ...]
    max_tokens: int

    def __post_init__(self):
        longest = max(map(len, self.heads), default=0)
        if longest + len(self.tail) >= self.max_tokens:
            raise ConfigError(
                f"a question of {longest} tokens leaves no room for a passage in "
                f"{self.max_tokens}: raise --max_passage_tokens."
            )

    def row(self, question: int, passage: int) -> list[int]:
        """Returns the ids of a pair."""
        head = self.heads[question]
        room = self.max_tokens - len(head) - len(self.tail)
        return [*head, *self.bodies[passage][:room], *self.tail]


def _score_pairs(
    model: T5Teacher,
    params: Params,
    rows_of: PairRows,
    word_ids: tuple[int, ...],
    mesh: Mesh,
    questions: np.ndarray,
    passages: np.ndarray,
) -> np.ndarray:
    """The scores of any number of pairs, [n] float32, the longest rows first."""
    pairs = zip(questions.tolist(), passages.tolist(), strict=True)
    rows = [rows_of.row(question, passage) for question, passage in pairs]
    lengths = np.array(static_lengths(rows_of.max_tokens, model.length_buckets))
    places = np.searchsorted(lengths, [len(row) for row in rows])
    data_size = mesh.shape[partitioning.DATA_AXIS]
    size = -(-model.chunk_size // data_size) * data_size
    sharding = partitioning.batch_sharding(mesh)
    scores = np.zeros(len(rows), np.float32)
    # A chunk is as long as its longest row's bucket, so that few lengths compile.
    order = np.argsort(-places, kind="stable")
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        tokens = np.zeros((size, lengths[places[chunk[0]]]), np.int32)
        for line, place in zip(tokens, chunk, strict=False):
            line[: len(rows[place])] = rows[place]
        found = _log_probability(
            params, model.config, partitioning.put_global(tokens, sharding), word_ids
        )
        scores[chunk] = partitioning.to_host(found)[: len(chunk)]
    return scores


@functools.partial(jax.jit, static_argnames=("config", "word_ids"))
def _log_probability(
    params: Params, config: T5Config, tokens: jax.Array, word_ids: tuple[int, ...]
) -> jax.Array:
    """Log-likelihoods of the first word, of the words alone, as first token; [n]."""
    encoded = t5.encode(params, config, tokens)
    start = jnp.zeros((len(tokens), 1), jnp.int32)
    logits = t5.decode(params, config, encoded, tokens, start)[:, 0]
    chosen = jnp.stack([logits[:, word] for word in word_ids], axis=1)
    return jax.nn.log_softmax(chosen)[:, 0]
