"""UPR: passages ranked again by how likely a teacher finds the question, untrained.

Source: Sachan et al., arXiv:2204.07496, and its official code.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from art_jax.data.examples import RankedQuestion
from art_jax.data.layouts import Layout, TokenTable, layout_lengths, make_token_table
from art_jax.data.passages import Passage
from art_jax.errors import ConfigError
from art_jax.index.rows import stream_rows
from art_jax.teacher import cached_scores
from art_jax.teacher.interface import Teacher
from art_jax.teacher.passage_pool import make_pool, tokens_digest
from art_jax.teacher.prompts import WholePrompt
from art_jax.teacher.score_cache import ScoreCache

AGGREGATES = ("sum", "mean")
# Around questions that somebody decoded from BERT's tokens.
_WRAPPERS = ("[CLS]", "[SEP]")


@dataclasses.dataclass(frozen=True)
class Upr:
    """How candidates are scored; the defaults are UPR's.

    Attributes:
        teacher: scores a question given a passage.
        whole_prompt: passage and prompt are one text, as in UPR; None: the teacher's
            own layout, as in ART, whose instruction is never cut, or without a prompt.
        aggregate: "sum" of the log-likelihoods of the question's tokens, or their
            "mean"; the order is the same.
        add_question_mark: end each question with "?" where it has none. UPR does so
            for Natural Questions and EfficientQA, whose questions have none.
        cache_dir: keeps scores, so that a killed run goes on; None: none are kept.
        pairs_a_call: of a question and a passage, that the teacher is asked for at
            once; whole questions together where they have fewer.
    """

    teacher: Teacher
    whole_prompt: WholePrompt | None = WholePrompt()
    aggregate: str = "sum"
    add_question_mark: bool = False
    cache_dir: pathlib.Path | None = None
    pairs_a_call: int = 1024

    def __post_init__(self):
        if self.aggregate not in AGGREGATES:
            raise ConfigError(
                f"Upr.aggregate is {self.aggregate!r}: it must be one of "
                f"{', '.join(AGGREGATES)}."
            )
        if self.pairs_a_call < 1:
            raise ConfigError(
                f"Upr.pairs_a_call is {self.pairs_a_call}: it must be at least 1."
            )

    def score(
        self, ranked: Sequence[RankedQuestion], mesh: Mesh
    ) -> Iterator[np.ndarray]:
        """Yields the scores of each question's candidates, [K] float32, in nats.

        Args:
            ranked: the rankings; a passage that is in several is encoded once a call.
            mesh: candidates are split over its data axis, weights over its model axis.

        Raises:
            ConfigError: the teacher's files, or the scores kept, are of another kind.
        """
        pool = make_pool(ranked)
        if not pool.passages:
            yield from (np.zeros(0, np.float32) for _ in ranked)
            return
        texts = (part for one in pool.passages for part in (one.title, one.text))
        tokenizer = self.teacher.make_tokenizer(texts)
        tokens, layout = self._read_passages(pool.passages, tokenizer)
        questions = [
            question_text(one.question.text, self.add_question_mark) for one in ranked
        ]
        question_rows = self.teacher.question_rows(tokenizer, questions)
        cache = None
        if self.cache_dir is not None:
            key = {
                "teacher": self.teacher.digest(tokenizer),
                "passages": tokens_digest(tokens, layout),
                "questions": cached_scores.questions_digest(questions),
            }
            cache = ScoreCache.open(self.cache_dir, key)
        # Every call's arrays are as long as the longest passage, and no longer.
        longest = layout_lengths(layout, tokens, np.arange(tokens.num_rows)).max()
        least = len(layout.prefix) + len(layout.suffix) + 1
        layout = dataclasses.replace(layout, max_tokens=max(int(longest), least))
        score_pairs = cached_scores.build_score_pairs(
            self.teacher,
            self.teacher.load(tokens, tokenizer, mesh),
            question_rows,
            stream_rows(tokens, layout, mesh),
            pairs_a_call=min(self.pairs_a_call, pool.rows.size),
        )
        factors = np.ones(len(ranked), np.float32)
        if self.aggregate == "sum":
            factors = self.teacher.num_scored_tokens(question_rows).astype(np.float32)
        means = cached_scores.score_rankings(
            score_pairs, pool.rows, pairs_a_call=self.pairs_a_call, cache=cache
        )
        for one, factor, row in zip(ranked, factors, means, strict=True):
            yield row[: len(one.candidates)] * factor

    def _read_passages(
        self, passages: Sequence[Passage], tokenizer
    ) -> tuple[TokenTable, Layout]:
        if self.whole_prompt is None:
            layout = self.teacher.passage_layout(tokenizer)
            titles = tokenizer.encode_batch([one.title for one in passages])
            texts = tokenizer.encode_batch([one.text for one in passages])
            return make_token_table(titles, texts), layout
        max_tokens = self.teacher.max_passage_tokens
        layout = self.whole_prompt.layout(tokenizer, max_tokens)
        texts = tokenizer.encode_batch(list(map(self.whole_prompt.text, passages)))
        return make_token_table([()] * len(texts), texts), layout


def question_text(text: str, add_question_mark: bool = False) -> str:
    """Returns a question as the teacher is to say it.

    Args:
        text: as the file has it; "[CLS]" and "[SEP]" around it are left out.
        add_question_mark: end it with "?" where it does not.
    """
    head, tail = _WRAPPERS
    text = text.strip().removeprefix(head).removesuffix(tail).strip()
    return text + "?" if add_question_mark and not text.endswith("?") else text
