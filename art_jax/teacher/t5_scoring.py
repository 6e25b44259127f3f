"""The T5 teacher: the log-likelihood of a question given each of its passages."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from art_jax.checkpoints import formats, t5_params, tensors
from art_jax.data.layouts import Layout, TokenTable
from art_jax.data.tokenizers import SentencePieceTokenizer, load_sentencepiece
from art_jax.errors import ConfigError
from art_jax.models import layers, t5
from art_jax.models.t5 import T5Config
from art_jax.teacher import prompts, scoring_loop
from art_jax.teacher.scoring_loop import WorkDone
from art_jax.types import Params

# Fields of T5Config that no score depends on.
_FIELDS_WITHOUT_EFFECT = ("param_dtype", "dropout_rate", "remat")


@dataclasses.dataclass(frozen=True)
class T5Teacher:
    """A frozen T5 as ART's teacher; `load` reads its parameters, `score` takes them.

    Attributes:
        config: of the T5.
        chunk_size: how many passages are encoded, and pairs scored, at once, at most,
            by all devices of the mesh's data axis together. Memory grows with it.
        max_passage_tokens: the most tokens of a passage, prompt and EOS included.
        max_question_tokens: T at most, the question's head and EOS included.
        checkpoint_path: a T5 in any format of `checkpoints.formats.open_t5`.
        vocabulary: its SentencePiece model, a file; None: the one that lies beside
            the weights.
        param_dtype: in which its parameters are held.
        prompt: the texts around passage and question.
        length_buckets: tokens that a chunk of passages is cut to where they are no
            longer than that; each costs a compilation of encoder and decoder, and
            saves padding. (): all are as long as the layout.
        question_buckets: the same of the questions' tokens.
        encoded_bytes: the most memory of a device that encoded passages take while
            their pairs are scored: 2 * tokens * D bytes each in bfloat16. Less means
            more waves, each of which ends with a chunk that may not be full.
        logits_bytes: the most memory of a device that float32 logits take, of one
            position of a chunk's pairs at least.
    """

    config: T5Config
    chunk_size: int = 16
    max_passage_tokens: int = 512
    max_question_tokens: int = 128
    checkpoint_path: str | None = None
    vocabulary: str | None = None
    param_dtype: str = "bfloat16"
    prompt: prompts.Prompt = prompts.ART
    length_buckets: tuple[int, ...] = (96, 160, 192, 256)
    question_buckets: tuple[int, ...] = (32,)
    encoded_bytes: int = 1 << 30
    logits_bytes: int = 1 << 27

    def __post_init__(self):
        layers.check_dtype("T5Teacher.param_dtype", self.param_dtype)
        sizes = (self.chunk_size, self.max_passage_tokens, self.max_question_tokens)
        if min(sizes) < 1:
            raise ConfigError(
                "T5Teacher: chunk_size, max_passage_tokens and max_question_tokens are "
                f"{sizes}: each must be at least 1."
            )
        for name in ("length_buckets", "question_buckets"):
            lengths = tuple(getattr(self, name))  # gin gives lists too
            if min(lengths, default=1) < 1:
                raise ConfigError(
                    f"T5Teacher.{name} is {lengths}: each must be at least 1."
                )
            object.__setattr__(self, name, lengths)

    def make_tokenizer(self, texts: Iterable[str]) -> SentencePieceTokenizer:
        """Returns the tokeniser of `vocabulary`; `texts` are not read.

        Raises:
            ConfigError: there is no vocabulary or, found here before hours of work, no
                checkpoint, or its model is too small for the vocabulary.
            DataError: the file is no SentencePiece model.
        """
        del texts
        vocabulary = self._open().vocabulary
        if self.vocabulary is not None:
            vocabulary = pathlib.Path(self.vocabulary)
        if vocabulary is None or not vocabulary.is_file():
            raise ConfigError(
                f"T5Teacher.vocabulary is {self.vocabulary!r}, and no file, and none "
                f"lies beside the weights in {self.checkpoint_path}: set "
                "TEACHER_VOCABULARY (rerank: --vocabulary) to the teacher's "
                "SentencePiece model, which T5 calls sentencepiece.model and Hugging "
                "Face spiece.model."
            )
        tokenizer = load_sentencepiece(vocabulary)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise ConfigError(
                f"{vocabulary} has {tokenizer.vocab_size} pieces, but the teacher "
                f"has embeddings for {self.config.vocab_size}: it is another model's."
            )
        return tokenizer

    def passage_layout(self, tokenizer: SentencePieceTokenizer) -> Layout:
        """Returns how a passage is laid out; see `prompts.passage_layout`."""
        return prompts.passage_layout(tokenizer, self.max_passage_tokens, self.prompt)

    def question_rows(
        self, tokenizer: SentencePieceTokenizer, questions: Sequence[str]
    ) -> np.ndarray:
        """Returns what is scored, [n, T] int32; see `prompts.question_targets`."""
        return prompts.question_targets(
            tokenizer, questions, self.max_question_tokens, self.prompt
        )

    def num_scored_tokens(self, question_rows: np.ndarray) -> np.ndarray:
        """Returns how many tokens of each row are scored, EOS among them, [n] int."""
        return np.count_nonzero(question_rows, axis=1)

    def load(
        self, tokens: TokenTable, tokenizer: SentencePieceTokenizer, mesh: Mesh
    ) -> Params:
        """Returns the parameters of `checkpoint_path`, in `param_dtype`, on the mesh.

        They are split over the mesh's model axis as T5X splits them, and whole on
        every device where it has one place. They go to the devices one after the
        other: host memory holds one of them, however large the model is.

        Args:
            tokens: of the evidence; not read.
            tokenizer: of the evidence; not read.
            mesh: where to.

        Raises:
            ConfigError: there is no checkpoint, in neither form; it is of another
                model than `config`; or the model axis does not divide its sizes.
            CorruptError: a file is missing or damaged.
        """
        del tokens, tokenizer
        found = self._open()
        t5_params.require_same_sizes(
            found.config, self.config, self.checkpoint_path, "the teacher's config"
        )
        return t5_params.place_params(found.params, self.config, mesh, self.param_dtype)

    def describe(self) -> str:
        """Returns what `checkpoint_path` was recognised as, for people."""
        return f"{self.checkpoint_path}: {self._open().format}"

    def _open(self) -> formats.PretrainedT5:
        """Returns what lies at `checkpoint_path`, unread."""
        if self.checkpoint_path is None:
            raise ConfigError(
                "T5Teacher.checkpoint_path is None: set TEACHER_CHECKPOINT_PATH to a "
                "T5X checkpoint (checkpoint_<step>), or to a folder of Hugging Face, "
                "on this machine's disk."
            )
        return formats.open_t5(self.checkpoint_path)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters in T5X's tree: for tests, and for shapes to load into."""
        return t5.init_params(self.config, key)

    def digest(self, tokenizer: SentencePieceTokenizer) -> str:
        """Returns a digest of what scores depend on: weights, texts, limits, dtypes.

        The weights count as they are held, in `param_dtype`, so the same ones give
        the same digest from whatever format. All of them are read for it, one tensor
        in memory at a time: call it once a run (see docs/performance.md).

        Raises:
            ConfigError: there is no checkpoint, in neither form.
            CorruptError: a file is missing or damaged.
        """
        facts = {
            "teacher": "t5",
            "config": {
                name: value
                for name, value in dataclasses.asdict(self.config).items()
                if name not in _FIELDS_WITHOUT_EFFECT
            },
            "weights": _digest_of_weights(self._open().params, self.param_dtype),
            "prompt": dataclasses.asdict(self.prompt),
            "max_passage_tokens": self.max_passage_tokens,
            "max_question_tokens": self.max_question_tokens,
            "tokenizer": tokenizer.digest,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def score(
        self,
        params: Params,
        question_tokens: jax.Array,
        passage_tokens: jax.Array,
        passage_rows: jax.Array | None = None,
    ) -> jax.Array:
        """The mean log-likelihood of a question token given each passage.

        Args:
            params: of the T5.
            question_tokens: [B, T] int32, as `prompts.question_targets` makes them.
            passage_tokens: [B, K, tokens] int32, as `prompts.passage_layout` does.
            passage_rows: [B, K] int32, rows of the table, -1 for no passage; see
                `Teacher.score`.

        Returns:
            [B, K] float32, in nats; 0 where there is no passage. The same batch gives
            the same bits; in another batch a pair's chunk may be of another static
            length, and its score differ by rounding.

        Raises:
            ConfigError: rows are longer than the teacher's limits.
        """
        return self.score_counted(
            params, question_tokens, passage_tokens, passage_rows
        )[0]

    def score_counted(
        self,
        params: Params,
        question_tokens: jax.Array,
        passage_tokens: jax.Array,
        passage_rows: jax.Array | None = None,
    ) -> tuple[jax.Array, WorkDone]:
        """What `score` returns, and how many chunks of which lengths it took."""
        for name, tokens, limit in (
            ("max_question_tokens", question_tokens, self.max_question_tokens),
            ("max_passage_tokens", passage_tokens, self.max_passage_tokens),
        ):
            if tokens.shape[-1] > limit:
                raise ConfigError(
                    f"T5Teacher.{name} is {limit}, and rows of {tokens.shape[-1]} "
                    "tokens came in: lay them out shorter, or raise it."
                )
        shape = passage_tokens.shape[:2]
        if passage_rows is None:
            passage_rows = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
        return _score_counted(
            self, params, question_tokens, passage_tokens, passage_rows
        )


@functools.partial(jax.jit, static_argnums=0)
def _score_counted(
    teacher: T5Teacher,
    params: Params,
    question_tokens: jax.Array,
    passage_tokens: jax.Array,
    passage_rows: jax.Array,
) -> tuple[jax.Array, WorkDone]:
    config = teacher.config
    params = jax.lax.stop_gradient(params)
    groups = scoring_loop.num_groups(question_tokens, passage_tokens, passage_rows)
    sizes = scoring_loop.LoopSizes(
        chunk_size=max(1, teacher.chunk_size // groups),
        passage_lengths=teacher.length_buckets,
        question_lengths=teacher.question_buckets,
        encoded_bytes=teacher.encoded_bytes,
    )

    def encode(tokens: jax.Array) -> jax.Array:
        return t5.encode(params, config, tokens)

    def score_pairs(encoded, tokens, targets) -> jax.Array:
        hidden = t5.decode_hidden(
            params, config, encoded, tokens, t5.shift_right(targets)
        )
        position_bytes = 4 * config.vocab_size * max(1, len(targets) // groups)
        return mean_log_likelihoods(
            params,
            config,
            hidden,
            targets,
            positions=max(1, teacher.logits_bytes // position_bytes),
        )

    return scoring_loop.score_slots(
        encode, score_pairs, passage_tokens, question_tokens, passage_rows, sizes
    )


def mean_log_likelihoods(
    params: Params,
    config: T5Config,
    hidden: jax.Array,
    targets: jax.Array,
    *,
    positions: int,
) -> jax.Array:
    """The mean log-likelihood of each row's targets, logits never made whole.

    Args:
        params: of the T5.
        config: of the T5.
        hidden: [n, T, D], what `t5.decode_hidden` returns.
        targets: [n, T] int32; 0 is padding and not scored.
        positions: targets of a row whose logits are made at once: [n, positions, V]
            float32.

    Returns:
        [n] float32, in nats; 0 for a row without targets.
    """
    num_rows, length = targets.shape
    positions = min(positions, length)
    num_blocks = -(-length // positions)
    rest = num_blocks * positions - length

    def blocks(array: jax.Array) -> jax.Array:
        array = jnp.pad(array, ((0, 0), (0, rest), *((0, 0),) * (array.ndim - 2)))
        array = array.reshape(num_rows, num_blocks, positions, *array.shape[2:])
        return jnp.moveaxis(array, 1, 0)

    def total(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        hidden, targets = block  # [n, positions, D], [n, positions]
        logits = t5.logits(params, config, hidden)
        # A sum, since a gather from a vocabulary split over devices would join it.
        is_target = jnp.arange(config.vocab_size)[None, None] == targets[..., None]
        chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
        log_likelihoods = chosen - jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum(jnp.where(targets > 0, log_likelihoods, 0.0), axis=-1)

    totals = jax.lax.map(total, (blocks(hidden), blocks(targets)))
    num_tokens = jnp.sum((targets > 0).astype("float32"), axis=-1)
    return jnp.sum(totals, axis=0) / jnp.maximum(num_tokens, 1.0)


@functools.partial(jax.jit, static_argnames=("config", "chunk_size"))
def score(
    params: Params,
    config: T5Config,
    passage_tokens: jax.Array,
    question_targets: jax.Array,
    chunk_size: int,
) -> jax.Array:
    """The mean log-likelihood of a question token given each passage, the plain way.

    What `T5Teacher.score` gives with fewer operations and less memory: its twin in
    tests and benchmarks. Each slot's passage is encoded once. Softmax and mean are
    float32 whatever `config.dtype` is. No gradient flows into anything. A chunk takes
    passages of as many queries as it can, so with B sharded over devices each has its
    share of every chunk: give a chunk_size that B divides.

    Args:
        params: of the T5.
        config: of the T5.
        passage_tokens: [B, K, tokens] int32, 0 is padding. A slot without a passage
            may hold anything; its score means nothing, but is finite.
        question_targets: [B, T] int32, 0 is padding and not scored; prompt and EOS
            are.
        chunk_size: how many passages are scored at once, at most.

    Returns:
        [B, K] float32, in nats, <= 0; 0 for a question without tokens.

    Source: arXiv:2206.10658, equation 3, with the mean over the question's head and
    EOS too, as in the official code. Differs in: nothing.
    """
    params = jax.lax.stop_gradient(params)
    num_queries, num_passages = passage_tokens.shape[:2]
    queries = min(num_queries, chunk_size)
    passages = min(num_passages, chunk_size // queries)

    def chunked(tokens: jax.Array, passages: int) -> jax.Array:
        return _to_chunks(tokens, queries, passages)

    def score_chunk(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
        passage_tokens, targets = chunk  # [queries, passages, tokens], [queries, 1, T]
        targets = jnp.repeat(targets, passages, axis=1)
        scores = score_pairs(params, config, _flat(passage_tokens), _flat(targets))
        return scores.reshape(queries, passages)

    passage_chunks = chunked(passage_tokens, passages)
    num_chunks = passage_chunks.shape[0]
    target_chunks = chunked(question_targets[:, None], 1)
    target_chunks = jnp.repeat(
        target_chunks, num_chunks // target_chunks.shape[0], axis=0
    )
    scores = jax.lax.map(score_chunk, (passage_chunks, target_chunks))
    scores = _from_chunks(scores, -(-num_queries // queries))
    return scores[:num_queries, :num_passages]


def _digest_of_weights(params: Params, dtype: str) -> str:
    """A digest of the names, shapes and values, in `dtype`, of a tree of tensors."""

    def digest(leaf) -> str:
        held = tensors.to_host(leaf, dtype)
        # bfloat16 has no buffer of its own to hash.
        values = hashlib.sha256(held.reshape(-1).view(np.uint8))
        return f"{held.shape} {values.hexdigest()}"

    digests = tensors.map_by_source(digest, params)
    leaves, _ = jax.tree_util.tree_flatten_with_path(digests)
    lines = [f"{jax.tree_util.keystr(path)} {line}" for path, line in leaves]
    return hashlib.sha256("\n".join([dtype, *lines]).encode()).hexdigest()


def score_pairs(
    params: Params,
    config: T5Config,
    passage_tokens: jax.Array,
    targets: jax.Array,
) -> jax.Array:
    """Scores passages, [n, tokens], against a target each, [n, T]; [n] float32."""
    encoded = t5.encode(params, config, passage_tokens)
    inputs = t5.shift_right(targets)
    logits = t5.decode(params, config, encoded, passage_tokens, inputs)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_likelihoods = chosen - jax.nn.logsumexp(logits, axis=-1)
    weights = (targets > 0).astype("float32")
    num_tokens = jnp.sum(weights, axis=-1)
    total = jnp.sum(log_likelihoods * weights, axis=-1)
    return total / jnp.maximum(num_tokens, 1.0)


def _to_chunks(tokens: jax.Array, queries: int, passages: int) -> jax.Array:
    """[B, K, t] as [chunks, queries, passages, t], filled up with zeros.

    Queries of a chunk lie apart by the number of chunks, so that the axis of
    queries keeps the sharding of B. Chunks of the same queries are neighbours.
    """
    num_queries, num_passages, length = tokens.shape
    rows, columns = -(-num_queries // queries), -(-num_passages // passages)
    tokens = jnp.pad(
        tokens,
        (
            (0, queries * rows - num_queries),
            (0, columns * passages - num_passages),
            (0, 0),
        ),
    )
    tokens = tokens.reshape(queries, rows, columns, passages, length)
    tokens = tokens.transpose(1, 2, 0, 3, 4)
    return tokens.reshape(rows * columns, queries, passages, length)


def _from_chunks(scores: jax.Array, rows: int) -> jax.Array:
    """[chunks, queries, passages] as [B, K], both still filled up."""
    chunks, queries, passages = scores.shape
    scores = scores.reshape(rows, chunks // rows, queries, passages)
    scores = scores.transpose(2, 0, 1, 3)
    return scores.reshape(queries * rows, -1)


def _flat(tokens: jax.Array) -> jax.Array:
    return tokens.reshape(-1, tokens.shape[-1])
