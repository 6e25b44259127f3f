"""ICT, the inverse cloze task: a passage is found from a sentence of it.

Needs passages alone, so it warms a retriever up from scratch before ART takes over.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.data.batches import batch_rows
from art_jax.data.layouts import (
    TokenTable,
    layout_rows,
    layout_token_lists,
    make_token_table,
)
from art_jax.losses import contrastive
from art_jax.methods.workspace import RETRIEVER, Workspace
from art_jax.training.loop import Problem

_SENTENCE_ENDS = (".", "!", "?")


@dataclasses.dataclass(frozen=True)
class Ict:
    """ICT's settings.

    remove_probability: how often the sentence is taken out of its passage; left in, it
        teaches word matching.
    min_query_tokens: shorter sentences are not asked for.
    temperature: divides the dot products; None: the square root of the width.
    dropout: in the retriever.

    Source: Lee et al., arXiv:1906.00300, section 5. Differs in: a sentence is what
        stands between two tokens of `.!?`; there a sentence splitter is used. As
        there, negatives are the passages of the whole batch, over all devices.
    """

    remove_probability: float = 0.9
    min_query_tokens: int = 3
    temperature: float | None = None
    dropout: bool = True

    def bind(self, workspace: Workspace, *, batch_size: int, seed: int) -> Problem:
        """Returns the batches and the loss of a run.

        Raises:
            ConfigError: there are fewer passages than a batch takes, or the mesh does
                not divide it.
        """
        workspace.check_batch_size(batch_size)
        tokens = workspace.evidence.token_tables[RETRIEVER]
        tokenizer = workspace.tokenizers[RETRIEVER]
        end_ids = np.concatenate(tokenizer.encode_batch(_SENTENCE_ENDS))

        def make_batch(step: int) -> dict[str, jax.Array]:
            rows = batch_rows(tokens.num_rows, batch_size, seed=seed, step=step)
            queries, passages = sample_pairs(
                tokens,
                rows,
                end_ids,
                np.random.Generator(np.random.PCG64([seed, step, 1])),
                remove_probability=self.remove_probability,
                min_query_tokens=self.min_query_tokens,
            )
            return workspace.put_batch(
                {
                    "query_tokens": layout_token_lists(workspace.query_layout, queries),
                    "passage_tokens": layout_rows(
                        workspace.passage_layout, passages, np.arange(batch_size)
                    ),
                }
            )

        def loss(params, batch, resources, key):
            query_key, passage_key = (
                jax.random.split(key) if self.dropout else (None, None)
            )
            encoder = workspace.encoder
            queries_BD = encoder.encode_query(
                params, batch["query_tokens"], key=query_key
            )
            passages_BD = encoder.encode_passage(
                params, batch["passage_tokens"], key=passage_key
            )
            losses_B = contrastive.in_batch_nll(
                queries_BD,
                passages_BD,
                temperature=self.temperature or encoder.width**0.5,
            )
            # Right where the own passage wins: its loss is then below log 2.
            metrics = {"accuracy_bound": (losses_B < jnp.log(2.0)).mean()}
            return losses_B.mean(), metrics

        return Problem(make_batch, loss)


def sample_pairs(
    tokens: TokenTable,
    rows: np.ndarray,
    end_ids: np.ndarray,
    rng: np.random.Generator,
    *,
    remove_probability: float,
    min_query_tokens: int,
) -> tuple[list[np.ndarray], TokenTable]:
    """Returns a sentence of each passage, and the passages it may be missing from.

    Args:
        tokens: the evidence.
        rows: [n] int, the passages.
        end_ids: the tokens that end a sentence.
        rng: consumed.
        remove_probability: how often a sentence is taken out of its passage.
        min_query_tokens: shorter sentences are asked for only where there is no other.

    Returns:
        n sentences as token ids, and the n passages as a table, titles kept whole. A
        passage of one sentence keeps it.
    """
    queries, titles, texts = [], [], []
    for row in rows:
        start, stop = tokens.offsets[row], tokens.offsets[row + 1]
        title_end = start + tokens.title_lengths[row]
        text = tokens.token_ids[title_end:stop]
        ends = np.flatnonzero(np.isin(text, end_ids)) + 1
        edges = np.unique(np.concatenate([[0], ends, [len(text)]]))
        long_enough = np.flatnonzero(np.diff(edges) >= min_query_tokens)
        choices = long_enough if len(long_enough) else np.arange(len(edges) - 1)
        chosen = choices[rng.integers(len(choices))]
        first, last = edges[chosen], edges[chosen + 1]
        is_removed = rng.random() < remove_probability and len(edges) > 2
        queries.append(text[first:last])
        titles.append(tokens.token_ids[start:title_end])
        texts.append(
            np.concatenate([text[:first], text[last:]]) if is_removed else text
        )
    return queries, make_token_table(titles, texts)
