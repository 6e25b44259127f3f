"""ICT, the inverse cloze task: a passage is found from a sentence of it.

Needs passages alone, so it warms a retriever up from scratch before ART takes over.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.data.batches import batch_rows, check_num_examples
from art_jax.data.layouts import (
    TokenTable,
    layout_rows,
    layout_token_lists,
    make_token_table,
)
from art_jax.errors import ConfigError
from art_jax.losses import contrastive
from art_jax.methods.workspace import RETRIEVER, Workspace
from art_jax.models.dual_encoder import DualEncoder
from art_jax.training import grad_cache
from art_jax.training.loop import Problem
from art_jax.types import Params

_SENTENCE_ENDS = (".", "!", "?")


@dataclasses.dataclass(frozen=True)
class Ict:
    """ICT's settings; the defaults are ORQA's.

    remove_probability: how often the sentence is taken out of its passage; left in, it
        teaches word matching.
    title_probability: how often the title is asked for instead of a sentence; it stays
        in its passage.
    min_query_tokens: shorter sentences are asked for only where there is no other.
    max_query_tokens: longer ones lose their end.
    max_passage_tokens: of a training passage; None: the retriever's own length.
    symmetric: also let each passage find its sentence.
    mask_same_title: passages of one title are no negatives of each other.
    temperature: divides the dot products; None: the square root of the width.
    dropout: in the retriever.

    Source: Lee et al., arXiv:1906.00300, section 5. Differs in: a sentence is what
        stands between two tokens of `.!?`; there a sentence splitter is used. As
        there, negatives are the passages of the whole batch, over all devices.
    """

    remove_probability: float = 0.9
    title_probability: float = 0.0
    min_query_tokens: int = 4
    max_query_tokens: int = 64
    max_passage_tokens: int | None = None
    symmetric: bool = False
    mask_same_title: bool = False
    temperature: float | None = None
    dropout: bool = True

    def __post_init__(self):
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(f"ICT's temperature is {self.temperature}: above 0.")

    def check(self, workspace: Workspace, batch_size: int, num_chunks: int = 1) -> None:
        """Raises ConfigError where `bind` would for want of passages."""
        workspace.check_batch_size(batch_size, num_chunks)
        check_num_examples(workspace.evidence.num_passages, batch_size)

    def bind(
        self,
        workspace: Workspace,
        *,
        batch_size: int,
        seed: int,
        num_chunks: int = 1,
        directory: pathlib.Path | None = None,
    ) -> Problem:
        """Returns the batches and the loss of a run.

        Args:
            workspace: the parts of the run.
            batch_size: passages a step.
            seed: of the batches.
            num_chunks: parts of a batch that are embedded one after the other; every
                passage of the batch stays a negative, see `training.grad_cache`.
            directory: not used.

        Raises:
            ConfigError: there are fewer passages than a batch takes, or the mesh and
                the chunks do not divide it.
        """
        del directory
        self.check(workspace, batch_size, num_chunks)
        tokens = workspace.evidence.token_tables[RETRIEVER]
        tokenizer = workspace.tokenizers[RETRIEVER]
        end_ids = np.concatenate(tokenizer.encode_batch(_SENTENCE_ENDS))
        passage_layout = workspace.passage_layout
        if self.max_passage_tokens is not None:
            passage_layout = dataclasses.replace(
                passage_layout, max_tokens=self.max_passage_tokens
            )
        query_layout = dataclasses.replace(
            workspace.query_layout,
            max_tokens=min(self.max_query_tokens, workspace.query_layout.max_tokens),
        )

        def make_batch(step: int) -> dict[str, jax.Array]:
            rows = batch_rows(tokens.num_rows, batch_size, seed=seed, step=step)
            queries, passages = sample_pairs(
                tokens,
                rows,
                end_ids,
                np.random.Generator(np.random.PCG64([seed, step, 1])),
                remove_probability=self.remove_probability,
                title_probability=self.title_probability,
                min_query_tokens=self.min_query_tokens,
            )
            every_row = np.arange(batch_size)
            return workspace.put_batch(
                {
                    "query_tokens": layout_token_lists(query_layout, queries),
                    "passage_tokens": layout_rows(passage_layout, passages, every_row),
                    "title_numbers": number_titles(passages),
                }
            )

        encoder = workspace.encoder
        prepare, loss = grad_cache.build_loss(
            lambda params, batch, _, key: self.embed(encoder, params, batch, key),
            lambda embeddings, batch, _: self.loss(encoder, embeddings, batch),
            num_chunks=num_chunks,
        )
        return Problem(make_batch, loss, prepare)

    def embed(
        self, encoder: DualEncoder, params: Params, batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns embeddings of sentences and passages, each [B, D] float32.

        Args:
            encoder: the retriever.
            params: its parameters.
            batch: query_tokens [B, Q], passage_tokens [B, L]; int32.
            key: consumed, for dropout.
        """
        keys = jax.random.split(key) if self.dropout else (None, None)
        queries_BD = encoder.encode_query(params, batch["query_tokens"], key=keys[0])
        return queries_BD, encoder.encode_passage(
            params, batch["passage_tokens"], key=keys[1]
        )

    def loss(
        self, encoder: DualEncoder, embeddings: tuple[jax.Array, jax.Array], batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the mean loss of finding passages among those of the batch.

        Args:
            encoder: the retriever.
            embeddings: of sentences and passages, from `embed`.
            batch: title_numbers [B], int32.

        Returns:
            The loss in nats, and metrics.
        """
        queries_BD, passages_BD = embeddings
        where_BB = None
        if self.mask_same_title:
            titles_B = batch["title_numbers"]
            is_other_BB = titles_B[:, None] != titles_B[None, :]
            where_BB = is_other_BB | jnp.eye(len(titles_B), dtype=bool)
        temperature = self.temperature
        nll = functools.partial(
            contrastive.in_batch_nll,
            temperature=encoder.width**0.5 if temperature is None else temperature,
            where=where_BB,
        )
        losses_B = nll(queries_BD, passages_BD)
        metrics = {"query_loss": losses_B.mean()}
        if self.symmetric:
            losses_B = (losses_B + nll(passages_BD, queries_BD)) / 2
        return losses_B.mean(), metrics


def sample_pairs(
    tokens: TokenTable,
    rows: np.ndarray,
    end_ids: np.ndarray,
    rng: np.random.Generator,
    *,
    remove_probability: float,
    title_probability: float,
    min_query_tokens: int,
) -> tuple[list[np.ndarray], TokenTable]:
    """Returns a sentence of each passage, and the passages it may be missing from.

    Args:
        tokens: the evidence.
        rows: [n] int, the passages.
        end_ids: the tokens that end a sentence.
        rng: consumed.
        remove_probability: how often a sentence is taken out of its passage.
        title_probability: how often the title takes the sentence's place.
        min_query_tokens: shorter sentences are asked for only where there is no other.

    Returns:
        n sentences or titles as token ids, and the n passages as a table, titles kept
        whole. A passage of one sentence keeps it.
    """
    queries, titles, texts = [], [], []
    for row in rows:
        start, stop = tokens.offsets[row], tokens.offsets[row + 1]
        title_end = start + tokens.title_lengths[row]
        title, text = (
            tokens.token_ids[start:title_end],
            tokens.token_ids[title_end:stop],
        )
        titles.append(title)
        if len(title) and rng.random() < title_probability:
            queries.append(title)
            texts.append(text)
            continue
        first, last = choose_sentence(text, end_ids, rng, min_query_tokens)
        queries.append(text[first:last])
        is_all = last - first == len(text)
        if not is_all and rng.random() < remove_probability:
            text = np.concatenate([text[:first], text[last:]])
        texts.append(text)
    return queries, make_token_table(titles, texts)


def choose_sentence(
    text: np.ndarray, end_ids: np.ndarray, rng: np.random.Generator, min_tokens: int
) -> tuple[int, int]:
    """Returns where a sentence starts and stops, drawn from those long enough.

    Args:
        text: [n] token ids.
        end_ids: the tokens that end a sentence.
        rng: consumed.
        min_tokens: shorter ones are drawn only where there is no other.
    """
    ends = np.flatnonzero(np.isin(text, end_ids)) + 1
    edges = np.unique(np.concatenate([[0], ends, [len(text)]]))
    if len(edges) < 2:
        return 0, len(text)
    long_enough = np.flatnonzero(np.diff(edges) >= min_tokens)
    choices = long_enough if len(long_enough) else np.arange(len(edges) - 1)
    chosen = choices[rng.integers(len(choices))]
    return int(edges[chosen]), int(edges[chosen + 1])


def number_titles(passages: TokenTable) -> np.ndarray:
    """Returns [n] int32, equal where titles are; no title is equal to no other."""
    numbers: dict[bytes, int] = {}
    out = np.empty(passages.num_rows, np.int32)
    for row in range(passages.num_rows):
        start = passages.offsets[row]
        title = passages.token_ids[start : start + passages.title_lengths[row]]
        key = title.tobytes() or str(row).encode()
        out[row] = numbers.setdefault(key, row)
    return out
