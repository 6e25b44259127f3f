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
# Titles of pages that ORQA leaves out: how they begin, and how they end.
_LISTS = ("List of", "Index of", "Outline of")
_DISAMBIGUATION = "(disambiguation)"
_SHORTEST_CUT = 5


@dataclasses.dataclass(frozen=True)
class Ict:
    """ICT's settings; the defaults are ORQA's.

    remove_probability: how often the sentence is taken out of its passage; left in, it
        teaches word matching.
    title_probability: how often the title is asked for instead of a sentence; it stays
        in its passage.
    min_query_tokens: shorter sentences are asked for only where there is no other.
    max_query_tokens: longer ones lose their end.
    short_query_probability: how often a sentence is cut to a length drawn from 5 to
        `max_query_tokens`, special tokens aside.
    max_passage_tokens: of a training passage; None: the retriever's own length.
    with_titles: passages are read with their titles.
    around_sentence: a passage that is too long keeps whole sentences around the one
        asked for, taken from before and behind in turns, and not its beginning; for
        passages without titles.
    skip_lists: leave out pages that are lists, indexes, outlines or disambiguations,
        by their titles.
    symmetric: also let each passage find its sentence.
    mask_same_title: passages of one title are no negatives of each other.
    temperature: divides the dot products; None: the square root of the width.
    dropout: in the retriever.

    Source: Lee et al., arXiv:1906.00300, section 5, and Megatron's form of it, which
        has neither titles nor blocks. Differs in: a sentence is what stands between two
        tokens of `.!?`; there a sentence splitter is used. An epoch goes through all
        passages; Megatron draws them. As there, negatives are the passages of the whole
        batch, over all devices.
    """

    remove_probability: float = 0.9
    title_probability: float = 0.0
    min_query_tokens: int = 4
    max_query_tokens: int = 64
    short_query_probability: float = 0.0
    max_passage_tokens: int | None = None
    with_titles: bool = True
    around_sentence: bool = False
    skip_lists: bool = False
    symmetric: bool = False
    mask_same_title: bool = False
    temperature: float | None = None
    dropout: bool = True

    def __post_init__(self):
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(f"ICT's temperature is {self.temperature}: above 0.")
        if self.around_sentence and self.with_titles:
            raise ConfigError(
                "ICT's around_sentence is for passages without titles: set with_titles "
                "= False."
            )

    def check(self, workspace: Workspace, batch_size: int, num_chunks: int = 1) -> None:
        """Raises ConfigError where `bind` would for want of passages."""
        workspace.check_batch_size(batch_size, num_chunks)
        check_num_examples(len(self._rows(workspace)), batch_size)

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

        rows = self._rows(workspace)
        context_tokens = None
        if self.around_sentence:
            specials = len(passage_layout.prefix) + len(passage_layout.suffix)
            context_tokens = passage_layout.max_tokens - specials

        def make_batch(step: int) -> dict[str, jax.Array]:
            rng = np.random.Generator(np.random.PCG64([seed, step, 1]))
            queries, passages, is_removed = sample_pairs(
                tokens,
                rows[batch_rows(len(rows), batch_size, seed=seed, step=step)],
                end_ids,
                rng,
                remove_probability=self.remove_probability,
                title_probability=self.title_probability,
                min_query_tokens=self.min_query_tokens,
                context_tokens=context_tokens,
            )
            if self.short_query_probability:
                longest = query_layout.max_tokens - 2
                queries = shorten_some(
                    queries, rng, self.short_query_probability, longest
                )
            title_numbers = number_titles(passages)
            if not self.with_titles:
                passages = without_titles(passages)
            every_row = np.arange(batch_size)
            return workspace.put_batch(
                {
                    "query_tokens": layout_token_lists(query_layout, queries),
                    "passage_tokens": layout_rows(passage_layout, passages, every_row),
                    "title_numbers": title_numbers,
                    "is_removed": is_removed,
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
            batch: title_numbers [B], int32; is_removed [B] bool, whether the sentence
                is missing from its passage.

        Returns:
            The loss in nats, and metrics: of sentences taken out and of those left in
            the share whose passage is the nearest, 0 where there are none.
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
        scores_BB = contrastive.similarity_scores(queries_BD, passages_BD)
        is_best_B = contrastive.is_best(scores_BB, where_BB)
        for name, which_B in (
            ("masked", batch["is_removed"]),
            ("unmasked", ~batch["is_removed"]),
        ):
            count = jnp.maximum(which_B.sum(), 1).astype(jnp.float32)
            right = (is_best_B & which_B).sum().astype(jnp.float32)
            metrics[f"{name}_accuracy"] = right / count
        if self.symmetric:
            losses_B = (losses_B + nll(passages_BD, queries_BD)) / 2
        return losses_B.mean(), metrics

    def _rows(self, workspace: Workspace) -> np.ndarray:
        """Returns the rows of the evidence that are trained on, [n] int64."""
        tokens = workspace.evidence.token_tables[RETRIEVER]
        if not self.skip_lists:
            return np.arange(tokens.num_rows)
        encode = workspace.tokenizers[RETRIEVER].encode_batch
        is_list = np.zeros(tokens.num_rows, bool)
        for start in encode(_LISTS):
            is_list |= has_in_title(tokens, start, at_end=False)
        (end,) = encode([_DISAMBIGUATION])
        return np.flatnonzero(~(is_list | has_in_title(tokens, end, at_end=True)))


def sample_pairs(
    tokens: TokenTable,
    rows: np.ndarray,
    end_ids: np.ndarray,
    rng: np.random.Generator,
    *,
    remove_probability: float,
    title_probability: float,
    min_query_tokens: int,
    context_tokens: int | None = None,
) -> tuple[list[np.ndarray], TokenTable, np.ndarray]:
    """Returns a sentence of each passage, and the passages it may be missing from.

    Args:
        tokens: the evidence.
        rows: [n] int, the passages.
        end_ids: the tokens that end a sentence.
        rng: consumed.
        remove_probability: how often a sentence is taken out of its passage.
        title_probability: how often the title takes the sentence's place.
        min_query_tokens: shorter sentences are asked for only where there is no other.
        context_tokens: of a passage's text at most, around the sentence; None: the
            passage is left whole.

    Returns:
        n sentences or titles as token ids; the n passages as a table, titles kept
        whole; and [n] bool, whether the sentence is missing. A passage of one sentence
        keeps it.
    """
    queries, titles, texts = [], [], []
    is_removed = np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
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
        is_removed[place] = not is_all and rng.random() < remove_probability
        start, stop = 0, len(text)
        if context_tokens is not None:
            left = context_tokens - (0 if is_removed[place] else last - first)
            start, stop = surround(text, end_ids, first, last, left)
        if is_removed[place]:
            text = np.concatenate([text[start:first], text[last:stop]])
        else:
            text = text[start:stop]
        texts.append(text)
    return queries, make_token_table(titles, texts), is_removed


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
    edges = sentence_edges(text, end_ids)
    if len(edges) < 2:
        return 0, len(text)
    long_enough = np.flatnonzero(np.diff(edges) >= min_tokens)
    choices = long_enough if len(long_enough) else np.arange(len(edges) - 1)
    chosen = choices[rng.integers(len(choices))]
    return int(edges[chosen]), int(edges[chosen + 1])


def sentence_edges(text: np.ndarray, end_ids: np.ndarray) -> np.ndarray:
    """Returns where sentences start, and the length of the text at the end."""
    ends = np.flatnonzero(np.isin(text, end_ids)) + 1
    return np.unique(np.concatenate([[0], ends, [len(text)]]))


def surround(
    text: np.ndarray, end_ids: np.ndarray, first: int, last: int, max_tokens: int
) -> tuple[int, int]:
    """Returns where the whole sentences around one start and stop.

    They are taken in turns from before and from behind it, until neither side has one
    that still fits.

    Args:
        text: [n] token ids.
        end_ids: the tokens that end a sentence.
        first: where the sentence in the middle starts.
        last: where it stops.
        max_tokens: of all others.
    """
    edges = sentence_edges(text, end_ids).tolist()
    before = [edge for edge in edges if edge < first]
    behind = [edge for edge in reversed(edges) if edge > last]
    start, stop = first, last
    while before or behind:
        for is_before, side in ((True, before), (False, behind)):
            if not side:
                continue
            edge = side.pop()
            size = start - edge if is_before else edge - stop
            if size > max_tokens:
                side.clear()
                continue
            max_tokens -= size
            start, stop = (edge, stop) if is_before else (start, edge)
    return start, stop


def shorten_some(
    queries: list[np.ndarray], rng: np.random.Generator, probability: float, most: int
) -> list[np.ndarray]:
    """Returns queries of which some are cut to a length drawn from 5 to `most`."""
    short = rng.random(len(queries)) < probability
    lengths = rng.integers(_SHORTEST_CUT, most + 1, len(queries))
    return [
        query[:length] if is_short else query
        for query, length, is_short in zip(queries, lengths, short, strict=True)
    ]


def without_titles(passages: TokenTable) -> TokenTable:
    """Returns the passages with empty titles."""
    is_text = np.ones(len(passages.token_ids), bool)
    for start, length in zip(passages.offsets, passages.title_lengths, strict=False):
        is_text[start : start + length] = False
    offsets = passages.offsets.copy()
    offsets[1:] -= np.cumsum(passages.title_lengths)
    none = np.zeros_like(passages.title_lengths)
    return TokenTable(passages.token_ids[is_text], offsets, none)


def has_in_title(tokens: TokenTable, ids: np.ndarray, *, at_end: bool) -> np.ndarray:
    """Returns [N] bool, whether titles begin, or end, with some token ids."""
    long_enough = np.flatnonzero(tokens.title_lengths >= len(ids))
    first = tokens.offsets[long_enough]
    if at_end:
        first = first + tokens.title_lengths[long_enough] - len(ids)
    found = np.zeros(tokens.num_rows, bool)
    equal = np.ones(len(long_enough), bool)
    for place, wanted in enumerate(ids):
        equal &= np.asarray(tokens.token_ids[first + place]) == wanted
    found[long_enough] = equal
    return found


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
