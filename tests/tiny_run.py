"""A made-up corpus, tiny encoders and the parts of a run; fixture `tiny` gives it.

The conftests of the folders that use it load it by its path: tests are no package.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from art_jax.data import evidence, layouts, passages, questions, tokenizers
from art_jax.data.question_table import query_layout, question_table
from art_jax.errors import PreemptedError
from art_jax.evaluation import measures
from art_jax.index import refresh, retriever, rows
from art_jax.methods import workspace
from art_jax.models import bert, dual_encoder
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.training import loop, stage

NUM_PASSAGES = 40
MAX_QUERY_TOKENS = 10
MAX_PASSAGE_TOKENS = 28
WIDTH = 16
TEACHER = QueryLikelihoodTeacher(mu=50.0, max_passage_tokens=20, max_question_tokens=6)

SOME_PASSAGES = tuple(
    passages.Passage(
        str(i),
        f"word{i} thing{i % 7} is about word{i}. It also says other{i % 11} here.",
        f"t{i}",
    )
    for i in range(NUM_PASSAGES)
)
QUESTIONS = tuple(
    questions.Question(
        f"q{i}", f"about word{i}", relevant_ids=(str(i),), source_id=str(i)
    )
    for i in range(NUM_PASSAGES)
)


@dataclasses.dataclass(frozen=True)
class BagEncoder:
    """Embeds a text as the mean of its tokens' vectors; compiles at once.

    It has a dual encoder's methods. With a key each number of a result is dropped, or
    doubled, with probability a half.
    """

    vocab_size: int
    width: int = WIDTH
    shared: bool = False
    query_towers: tuple[str, ...] = ()

    def init(self, key):
        query_key, passage_key = jax.random.split(key)
        shape = (self.vocab_size, self.width)
        query = {"embedding": jax.random.normal(query_key, shape)}
        if self.shared:
            return {"shared": query}
        if self.query_towers:
            query = dual_encoder.stack_towers(query, len(self.query_towers))
        return {
            "query": query,
            "passage": {"embedding": jax.random.normal(passage_key, shape)},
        }

    def encode_query(self, params, tokens, *, key=None, tower=None):
        query = params["shared" if self.shared else "query"]
        if self.query_towers:
            query = dual_encoder.take_tower(query, tower)
        return self._encode(query, tokens, key)

    def encode_passage(self, params, tokens, *, key=None):
        return self._encode(params["shared" if self.shared else "passage"], tokens, key)

    def _encode(self, tower, tokens, key):
        mask = (tokens > 0).astype(jnp.float32)
        vectors = jnp.einsum("bl,bld->bd", mask, tower["embedding"][tokens])
        vectors = vectors / jnp.maximum(mask.sum(axis=1), 1)[:, None]
        if key is None:
            return vectors
        return jnp.where(jax.random.bernoulli(key, 0.5, vectors.shape), vectors * 2, 0)


@functools.cache
def made_tokenizers():
    """Returns the tokenisers of retriever and teacher, trained once."""
    texts = [f"{passage.title} {passage.text}" for passage in SOME_PASSAGES]
    return {
        "retriever": tokenizers.train_wordpiece(texts, 400),
        "teacher": TEACHER.make_tokenizer(texts),
    }


# One object each, since compiled functions are kept by the encoder's identity.
@functools.cache
def bag_encoder(**settings):
    return BagEncoder(made_tokenizers()["retriever"].vocab_size, **settings)


@functools.cache
def bert_encoder():
    """Returns a BERT of one layer whose towers start nearly at chance."""
    return dual_encoder.DualEncoder(
        bert.BertConfig(
            vocab_size=made_tokenizers()["retriever"].vocab_size,
            hidden_size=32,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            max_positions=MAX_PASSAGE_TOKENS,
            pre_layer_norm=True,
            embedding_layer_norm=False,
        ),
        pooling="mean",
    )


def build_evidence(directory, some_passages=SOME_PASSAGES):
    return evidence.build_evidence(some_passages, directory, made_tokenizers())


def make_workspace(
    evidence_store, mesh, encoder, *, stream_tokens=False, some=QUESTIONS
):
    tokenizer = made_tokenizers()["retriever"]
    layout = query_layout(tokenizer, MAX_PASSAGE_TOKENS)
    place = rows.stream_rows if stream_tokens else rows.place_rows
    return workspace.Workspace(
        mesh=mesh,
        encoder=encoder,
        evidence=evidence_store,
        tokenizers=made_tokenizers(),
        passage_layout=layout,
        query_layout=query_layout(tokenizer, MAX_QUERY_TOKENS),
        passages=place(evidence_store.token_tables["retriever"], layout, mesh),
        queries=question_table(some, tokenizer, MAX_QUERY_TOKENS),
        stream_tokens=stream_tokens,
    )


def make_refresher(space, **settings):
    tokens = space.evidence.token_tables["retriever"]
    return refresh.Refresher(
        encode=space.encoder.encode_passage,
        rows=space.passages,
        lengths=layouts.layout_lengths(
            space.passage_layout, tokens, np.arange(tokens.num_rows)
        ),
        width=space.encoder.width,
        mesh=space.mesh,
        evidence_digest=space.evidence.digest,
        dtype="float32",
        **settings,
    )


def init_params(space, seed=0):
    replicated = jax.sharding.NamedSharding(space.mesh, jax.sharding.PartitionSpec())
    return jax.jit(space.encoder.init, out_shardings=replicated)(jax.random.key(seed))


def make_evaluate(space):
    encode = retriever.build_encode_query(space.encoder)

    def evaluate(run):
        queries = retriever.encode_tokens(
            encode, run.train.params, space.queries.tokens, space.mesh
        )
        found = retriever.search_queries(run.table, queries, k=5)
        return measures.evaluate_questions(
            space.queries, found.rows, space.evidence.passage, (1, 5)
        )

    return evaluate


def run_stage(a_stage, space, directory, *, evaluate=None, params=None, **settings):
    """Runs a stage; returns its result and the lines it reported."""
    lines = []
    params = stage.run_stage(
        a_stage,
        space,
        init_params(space) if params is None else params,
        refresher=make_refresher(space, **settings),
        passage_side=workspace.passage_side,
        directory=directory,
        evaluate=evaluate,
        report=lines.append,
    )
    return params, lines


@dataclasses.dataclass(frozen=True)
class Pull:
    """A method that compiles at once; its steps depend on all that a run carries.

    Weights are pulled to a number of the batch, past noise, by more or less as the
    table in use says.
    """

    def bind(self, space, *, batch_size, seed, **_):
        def make_batch(step):
            target = np.random.default_rng([seed, step]).normal()
            return space.put_batch({"target": np.full(batch_size, target, np.float32)})

        def loss(params, batch, table, key):
            target = batch["target"].mean() + jax.random.normal(key)
            strength = 1 + jnp.abs(table).mean()
            leaves = jax.tree.leaves(params)
            loss = sum(jnp.square(leaf - target).mean() for leaf in leaves) * strength
            return loss, {"strength": strength}

        return loop.Problem(make_batch, loss, resources=lambda table: table.embeddings)


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A method before whose step `at` something happens; by default it is stopped."""

    method: object
    at: int
    happens: object = None

    def bind(self, space, **settings):
        problem = self.method.bind(space, **settings)

        def make_batch(step):
            if step == self.at:
                (self.happens or stop)()
            return problem.make_batch(step)

        return dataclasses.replace(problem, make_batch=make_batch)


def stop():
    raise PreemptedError("stopped by a test")


@contextlib.contextmanager
def counted_compilations():
    """Yields a list that grows by one with each program XLA compiles within."""
    from jax._src import monitoring

    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def quick_compilation():
    """Programs that run a few times: optimising them takes longer than that."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def assert_trees_equal(got, want):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        got,
        want,
    )
