"""ART against a slow NumPy twin, with stub encoder and teacher."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.batches import batch_rows
from art_jax.data.example_sets import ExampleSet
from art_jax.data.layouts import Layout, layout_lengths, layout_rows
from art_jax.data.passage_mix import PassageMix
from art_jax.errors import ConfigError
from art_jax.index.refresh import refresh
from art_jax.index.search_options import SearchOptions
from art_jax.index.table import search
from art_jax.methods.art import Art
from art_jax.methods.workspace import TEACHER, passage_side
from art_jax.models import bert, dual_encoder
from art_jax.training import loop, optimizers, update

K, BATCH, SEED = 5, 8, 3


@dataclasses.dataclass(frozen=True)
class StubTeacher:
    """A lambda behind the teacher's interface; it stops no gradient itself."""

    score: object

    def make_tokenizer(self, texts):
        raise NotImplementedError

    def passage_layout(self, tokenizer):
        return Layout((), (), (), 12, 0)

    def question_rows(self, tokenizer, questions):
        lengths = [len(text) for text in questions]
        return np.array(lengths, np.int32)[:, None]

    def load(self, tokens, tokenizer, mesh):
        return {"weight": jnp.float32(-0.3)}


def arbitrary_scores(xp, weight, questions, passages):
    """[B, K] scores from [B, 1] and [B, K, tokens], by `xp`, NumPy or JAX's."""
    remainders = (passages.sum(axis=-1) * 7 + questions) % 11
    return weight * remainders.astype(xp.float32)


STUB = StubTeacher(
    lambda params, questions, passages, passage_rows: arbitrary_scores(
        jnp, params["weight"], questions, passages
    )
)


DEFAULT = Art(STUB, num_passages=K, dropout=False)


@pytest.fixture(scope="module")
def space(tiny, tiny_evidence):
    return tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(1), tiny.bag_encoder()
    )


def make_table(tiny, space, seed):
    params = passage_side(tiny.init_params(space, seed))
    return refresh(tiny.make_refresher(space), params, step=0, generation=0)


@pytest.fixture(scope="module")
def table(tiny, space):
    # Stale: of other weights than those the loss is given.
    return make_table(tiny, space, 1)


@pytest.fixture(scope="module")
def params(tiny, space):
    return tiny.init_params(space, 0)


def loss_and_grads(problem, params, table):
    batch, resources = problem.make_batch(0), problem.resources(table)

    @jax.jit
    def grad_fn(params, batch, resources, key):
        batch = problem.prepare(params, batch, resources, key)
        grad_fn = jax.value_and_grad(problem.loss, has_aux=True)
        return grad_fn(params, batch, resources, key)

    (loss, metrics), grads = grad_fn(params, batch, resources, jax.random.key(0))
    return loss, metrics, grads


@pytest.fixture(scope="module")
def default_result(space, params, table):
    return loss_and_grads(
        DEFAULT.bind(space, batch_size=BATCH, seed=SEED), params, table
    )


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def numpy_mean_vectors(embedding, tokens):
    mask = (tokens > 0).astype(np.float64)
    total = (embedding[tokens] * mask[..., None]).sum(axis=-2)
    return total / np.maximum(mask.sum(axis=-1), 1)[..., None]


def numpy_twin(space, params, table, *, temperature, scale=1.0, k=K, given=None):
    """Returns loss, agreement and gradients of step 0, one question at a time.

    Those `given` [B, G] are candidates beside the best k.
    """
    query_table, passage_table = (
        np.asarray(params[name]["embedding"], np.float64)
        for name in ("query", "passage")
    )
    rows_B = batch_rows(space.queries.num_questions, BATCH, seed=SEED, step=0)
    stale = np.asarray(table.embeddings, np.float64)[: table.num_rows]
    passage_tokens = layout_rows(
        space.passage_layout,
        space.evidence.token_tables["retriever"],
        np.arange(table.num_rows),
    )
    teacher_tokens = layout_rows(
        STUB.passage_layout(None),
        space.evidence.token_tables[TEACHER],
        np.arange(table.num_rows),
    )
    query_grad, passage_grad = np.zeros_like(query_table), np.zeros_like(passage_table)
    loss = agreement = 0.0
    for place, question in enumerate(rows_B):
        tokens = space.queries.tokens[question]
        vector = numpy_mean_vectors(query_table, tokens)
        found = np.argsort(-(stale @ vector), kind="stable")[:k]
        if given is not None:
            more = [row for row in given[place] if row >= 0]
            found = np.array(list(dict.fromkeys([*found, *more])))
        passages = numpy_mean_vectors(passage_table, passage_tokens[found])
        student = passages @ vector
        length = np.array([len(space.queries.texts[question])], np.int32)
        teacher = scale * arbitrary_scores(np, -0.3, length, teacher_tokens[found])
        log_s, log_t = log_softmax(student / temperature), log_softmax(teacher)
        loss += np.sum(np.exp(log_t) * (log_t - log_s)) / BATCH
        agreement += (student.argmax() == teacher.argmax()) / BATCH
        slope = (np.exp(log_s) - np.exp(log_t)) / temperature / BATCH
        used = tokens[tokens > 0]
        np.add.at(query_grad, used, slope @ passages / len(used))
        for weight, row in zip(slope, found, strict=True):
            used = passage_tokens[row][passage_tokens[row] > 0]
            np.add.at(passage_grad, used, weight * vector / len(used))
    return loss, agreement, query_grad, passage_grad


def assert_equals_twin(result, want):
    loss, metrics, grads = result
    np.testing.assert_allclose(loss, want[0], rtol=1e-5)
    np.testing.assert_allclose(metrics["agreement"], want[1])
    # Sums of float32 products against float64: 1e-5 of the largest, about .01.
    np.testing.assert_allclose(grads["query"]["embedding"], want[2], atol=2e-7)
    np.testing.assert_allclose(grads["passage"]["embedding"], want[3], atol=2e-7)


def test_equals_a_slow_twin_at_the_square_root_of_the_width(
    space, params, table, default_result
):
    want = numpy_twin(space, params, table, temperature=16**0.5)
    assert_equals_twin(default_result, want)


def test_equals_a_slow_twin_at_other_scales(space, params, table):
    art = dataclasses.replace(DEFAULT, temperature=0.7, teacher_scale=2.5)
    result = loss_and_grads(art.bind(space, batch_size=BATCH, seed=SEED), params, table)
    want = numpy_twin(space, params, table, temperature=0.7, scale=2.5)
    assert_equals_twin(result, want)


@pytest.fixture(scope="module")
def example_file(tiny, tmp_path_factory):
    """Every other question with its right passage and three wrong ones."""
    records = [
        {
            "question": question.text,
            "answers": [],
            "positive_ctxs": [{"title": "", "text": "it", "passage_id": str(number)}],
            "hard_negative_ctxs": [
                {"title": "", "text": "it", "passage_id": str((number + step) % 40)}
                for step in (7, 14, 21)
            ],
        }
        for number, question in enumerate(tiny.QUESTIONS)
        if number % 2
    ]
    path = tmp_path_factory.mktemp("examples") / "train.json"
    path.write_text(json.dumps(records))
    return str(path)


@pytest.mark.parametrize(
    ("num_devices", "num_passages", "counts", "in_batch"),
    [
        (1, 0, (0, 0, 32), False),
        (2, 0, (1, 0, 6), False),
        (8, 0, (1, 1, 5), False),
        (1, 0, (1, 1, 0), True),
        (8, 0, (1, 1, 0), True),
        (2, K, (1, 1, 3), False),
    ],
    ids=["U", "P U", "P N U", "P N in batch", "on 8 devices", "with found ones"],
)
def test_other_passages_equal_a_slow_twin(
    tiny,
    tiny_evidence,
    params,
    example_file,
    num_devices,
    num_passages,
    counts,
    in_batch,
):
    right, wrong, uniform = counts
    sets = [ExampleSet(path=example_file)] if right else []
    mix = PassageMix(sets, right, wrong, uniform, in_batch)
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(num_devices), tiny.bag_encoder()
    )
    art = dataclasses.replace(DEFAULT, num_passages=num_passages, mix=mix)
    problem = art.bind(space, batch_size=BATCH, seed=SEED)
    given = np.asarray(problem.make_batch(0)["given_rows"])
    assert given.shape == (BATCH, art.num_candidates(BATCH) - num_passages)
    if right:
        # Only odd questions have examples, and a batch has both kinds.
        asked = batch_rows(space.queries.num_questions, BATCH, seed=SEED, step=0)
        want = np.where(asked % 2, asked, -1)
        own = given[0].reshape(BATCH, -1) if in_batch else given
        np.testing.assert_array_equal(own[:, 0], want)
    table = make_table(tiny, space, 1)
    result = loss_and_grads(
        problem, tiny.init_params(space, 0), table if num_passages else None
    )
    want = numpy_twin(
        space, params, table, temperature=4.0, k=num_passages, given=given
    )
    assert_equals_twin(result, want)


def test_a_source_is_left_out_of_given_passages_too(space, example_file):
    mix = PassageMix([ExampleSet(path=example_file)], num_positives=1)
    art = dataclasses.replace(DEFAULT, num_passages=0, mix=mix, exclude_source=True)
    problem = art.bind(space, batch_size=40, seed=SEED)
    batch = problem.make_batch(0)
    assert (np.asarray(batch["given_rows"]) >= 0).sum() == 20
    rows = art.candidates(space, None, batch, {}, jax.random.key(0))
    assert (np.asarray(rows) == -1).all()


def test_it_says_what_a_question_chooses_among(space, example_file):
    assert DEFAULT.describe(space) == "5 passages found"
    mix = PassageMix([ExampleSet(path=example_file)], num_positives=1)
    line = dataclasses.replace(DEFAULT, mix=mix).describe(space)
    assert line == ("5 passages found; 1 right (20 of 40 questions have any) passages")


def test_what_is_searched_for_needs_a_table(space):
    problem = DEFAULT.bind(space, batch_size=BATCH, seed=SEED)
    with pytest.raises(ConfigError, match="give it refresh_every_steps"):
        problem.resources(None)


def test_the_first_questions_alone_are_trained_on(space):
    art = dataclasses.replace(DEFAULT, num_questions=BATCH)
    problem = art.bind(space, batch_size=BATCH, seed=SEED)
    for step in range(3):
        asked = np.asarray(problem.make_batch(step)["questions"])
        assert sorted(asked.tolist()) == list(range(BATCH))
    too_few = dataclasses.replace(DEFAULT, num_questions=BATCH - 1)
    with pytest.raises(ConfigError, match="there are 7"):
        too_few.check(space, BATCH)


def test_no_gradient_into_the_teacher(space, params, table):
    problem = DEFAULT.bind(space, batch_size=BATCH, seed=SEED)
    batch, resources = problem.make_batch(0), problem.resources(table)
    key = jax.random.key(0)
    prepared = jax.jit(problem.prepare)(params, batch, resources, key)

    def loss(scores):
        batch = prepared | {"teacher_scores": scores}
        return problem.loss(params, batch, resources, key)[0]

    assert not np.asarray(jax.jit(jax.grad(loss))(prepared["teacher_scores"])).any()


@pytest.mark.parametrize("side", ["query", "passage"])
def test_a_frozen_tower_gets_no_gradient_and_no_decay(
    space, params, table, default_result, side
):
    other = {"query": "passage", "passage": "query"}[side]
    settings = {f"train_{side}_tower": False}
    problem = dataclasses.replace(DEFAULT, **settings).bind(
        space, batch_size=BATCH, seed=SEED
    )
    optimizer = optimizers.freeze(optax.adamw(0.1, weight_decay=0.1), problem.frozen)
    state = update.init_state(loop.copy_params(params), optimizer)
    step = update.make_update(problem.loss, optimizer, prepare=problem.prepare)
    batch, resources = problem.make_batch(0), problem.resources(table)
    state, metrics = step(state, batch, resources, jax.random.key(0))
    # The whole gradient is the other tower's, as it is where none is frozen.
    np.testing.assert_allclose(
        metrics["grad_norm"], optax.global_norm(default_result[2][other]), rtol=1e-5
    )
    np.testing.assert_array_equal(
        state.params[side]["embedding"], params[side]["embedding"]
    )
    assert not np.array_equal(
        state.params[other]["embedding"], params[other]["embedding"]
    )


def test_a_shared_tower_still_trains_from_its_other_side(tiny, tiny_evidence):
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(1), tiny.bag_encoder(shared=True)
    )
    params, table = tiny.init_params(space), make_table(tiny, space, 1)
    art = dataclasses.replace(DEFAULT, train_query_tower=False)
    problem = art.bind(space, batch_size=BATCH, seed=SEED)
    assert problem.frozen == ()
    _, _, grads = loss_and_grads(problem, params, table)
    assert np.asarray(grads["shared"]["embedding"]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_passages": 41}, "choose 1 to 40"),
        ({"num_passages": 40, "exclude_source": True}, "choose 1 to 39"),
        ({"num_passages": 0}, "choose 1 to 40"),
        ({"temperature": 0.0}, "must be positive"),
        ({"train_query_tower": False, "train_passage_tower": False}, "nothing is"),
    ],
)
def test_settings_that_do_not_fit_are_named(space, settings, message):
    with pytest.raises(ConfigError, match=message):
        Art(STUB, **settings).bind(space, batch_size=BATCH, seed=SEED)


def test_no_questions_or_too_few_are_named(space):
    art = Art(STUB, num_passages=K)
    with pytest.raises(ConfigError, match="give QUERIES"):
        art.bind(dataclasses.replace(space, queries=None), batch_size=BATCH, seed=SEED)
    with pytest.raises(ConfigError, match="takes 41 examples"):
        art.bind(space, batch_size=41, seed=SEED)


@pytest.mark.parametrize("stream_tokens", [False, True], ids=["placed", "streamed"])
def test_the_source_is_left_out_only_where_asked(
    tiny, tiny_evidence, params, table, stream_tokens
):
    # Each question's source is made the passage it finds first by default.
    some = [
        dataclasses.replace(question, source_id="" if i == 3 else question.source_id)
        for i, question in enumerate(tiny.QUESTIONS)
    ]
    mesh = partitioning.make_mesh(1)
    space = tiny.make_workspace(
        tiny_evidence, mesh, tiny.bag_encoder(), stream_tokens=stream_tokens, some=some
    )
    vectors = space.encoder.encode_query(params, space.queries.tokens)
    first = np.asarray(search(table, np.asarray(vectors), k=K + 1).rows)
    ids = [tiny_evidence.passage_id(row) for row in first[:, 0]]
    ids[3] = ""
    asked = tuple(
        dataclasses.replace(question, source_id=source_id)
        for question, source_id in zip(space.queries.questions, ids, strict=True)
    )
    space = dataclasses.replace(
        space, queries=dataclasses.replace(space.queries, questions=asked)
    )
    for exclude in (False, True):
        art = dataclasses.replace(DEFAULT, exclude_source=exclude)
        problem = art.bind(space, batch_size=40, seed=SEED)
        batch, resources = problem.make_batch(0), problem.resources(table)
        rows = jax.jit(functools.partial(art.retrieve, space))(
            params, batch, resources, jax.random.key(0)
        )
        asked = batch_rows(40, 40, seed=SEED, step=0)
        want = first[asked, :K]
        if exclude:
            want = first[asked, 1:]
            want[asked == 3] = first[3, :K]
        np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize("method", ["plain", "int8"])
def test_how_the_table_is_searched_changes_no_row(tiny, space, params, method):
    found = []
    for search_method in ("auto", method):
        searched = dataclasses.replace(space, search=SearchOptions(search_method))
        refresher = tiny.make_refresher(space, int8=search_method == "int8")
        side = passage_side(tiny.init_params(space, 1))
        table = refresh(refresher, side, step=0, generation=0)
        problem = DEFAULT.bind(searched, batch_size=BATCH, seed=SEED)
        batch, resources = problem.make_batch(0), problem.resources(table)
        assert (resources["int8_rows"] is not None) == (search_method == "int8")
        retrieve = jax.jit(functools.partial(DEFAULT.retrieve, searched))
        found.append(retrieve(params, batch, resources, jax.random.key(0)))
    np.testing.assert_array_equal(*found)


def test_slots_without_a_passage_are_as_if_they_were_not_there(space, params):
    rng = np.random.default_rng(0)
    batch = {
        "query_tokens": jnp.asarray(space.queries.tokens[:2]),
        "teacher_questions": jnp.array([[3], [4]], jnp.int32),
        "rows": jnp.array([[4, 9, 2], [1, 7, 5]], jnp.int32),
        "passage_tokens": jnp.asarray(rng.integers(1, 90, (2, 3, 6)), jnp.int32),
        "teacher_tokens": jnp.asarray(rng.integers(1, 90, (2, 3, 6)), jnp.int32),
    }
    filler = {
        "rows": -1,
        "passage_tokens": 7,  # Tokens that would score, were they looked at.
        "teacher_tokens": 7,
    }
    padded = batch | {
        name: jnp.pad(
            batch[name],
            [(0, 0), (0, 2)] + [(0, 0)] * (batch[name].ndim - 2),
            constant_values=value,
        )
        for name, value in filler.items()
    }
    resources = {"teacher_params": STUB.load(None, None, None)}

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def grad_fn(params, batch):
        batch = DEFAULT.score(batch, resources)
        return DEFAULT.loss(space.encoder, params, batch, jax.random.key(0))

    (loss, metrics), grads = grad_fn(params, batch)
    (padded_loss, padded_metrics), padded_grads = grad_fn(params, padded)
    np.testing.assert_allclose(padded_loss, loss, rtol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(padded_metrics[name], value, rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-8), padded_grads, grads
    )


@pytest.mark.parametrize("num_chunks", [1, 2, 4])
def test_the_question_is_searched_with_as_the_loss_sees_it(
    space, params, table, num_chunks
):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Recorder(type(space.encoder)):
        def encode_query(self, params, tokens, *, key=None):
            vectors = super().encode_query(params, tokens, key=key)
            jax.debug.callback(lambda v: seen.append(np.asarray(v)), vectors)
            return vectors

    encoder = Recorder(space.encoder.vocab_size)
    recorded = dataclasses.replace(space, encoder=encoder)
    problem = Art(STUB, num_passages=K).bind(
        recorded, batch_size=BATCH, seed=SEED, num_chunks=num_chunks
    )
    optimizer = optax.sgd(0.5)
    step = update.make_update(
        problem.loss, optimizer, prepare=problem.prepare, num_chunks=num_chunks
    )
    batch, resources = problem.make_batch(0), problem.resources(table)
    state = update.init_state(loop.copy_params(params), optimizer)
    step(state, batch, resources, jax.random.key(8))
    jax.effects_barrier()
    assert len(seen) == 2 * num_chunks
    searched_with, in_loss = seen[:num_chunks], seen[num_chunks:]
    np.testing.assert_array_equal(searched_with, in_loss)
    without = space.encoder.encode_query(params, batch["query_tokens"][::num_chunks])
    assert not np.allclose(in_loss[0], without)


def train_three_steps(tiny, tiny_evidence, num_devices, stream_tokens):
    """Returns parameters and metrics of a run with one table, dropout on."""
    mesh = partitioning.make_mesh(num_devices)
    space = tiny.make_workspace(
        tiny_evidence, mesh, tiny.bag_encoder(), stream_tokens=stream_tokens
    )
    problem = Art(STUB, num_passages=K).bind(space, batch_size=BATCH, seed=SEED)
    # Adam would blow up the rounding of gradients near zero.
    optimizer = optax.sgd(0.5)
    state, step = start(tiny, space, problem, optimizer)
    losses = []
    run = loop.run_steps(
        loop.RunState(state, make_table(tiny, space, 1)),
        problem,
        step,
        train_steps=3,
        key=jax.random.key(1),
        observers=[lambda step, metrics: losses.append(metrics)],
    )
    return jax.device_get((run.train.params, losses))


def start(tiny, space, problem, optimizer, num_chunks=1):
    replicated = partitioning.replicated(space.mesh)
    state = jax.jit(
        lambda params: update.init_state(params, optimizer), out_shardings=replicated
    )(tiny.init_params(space))
    return state, update.make_update(
        problem.loss,
        optimizer,
        prepare=problem.prepare,
        num_chunks=num_chunks,
        state_sharding=replicated,
    )


@pytest.fixture(scope="module")
def one_device_result(tiny, tiny_evidence):
    return train_three_steps(tiny, tiny_evidence, 1, False)


@pytest.mark.parametrize(
    ("num_devices", "stream_tokens"), [(1, True), (2, False), (8, False)]
)
def test_devices_and_streaming_change_no_number(
    tiny, tiny_evidence, one_device_result, num_devices, stream_tokens
):
    got = train_three_steps(tiny, tiny_evidence, num_devices, stream_tokens)
    # Over several devices the batch is summed in another order, and streaming makes the
    # search a program of its own: in both XLA may round the last bit another way.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
        got,
        one_device_result,
    )


@pytest.mark.parametrize(
    ("num_devices", "num_chunks"), [(1, 2), (1, 4), (2, 4), (8, 2)]
)
def test_chunks_of_a_batch_give_its_gradient(
    tiny, tiny_evidence, space, params, table, default_result, num_devices, num_chunks
):
    batch_size, want = BATCH, default_result
    if num_devices == 8:  # of which each chunk takes one question a device
        batch_size = 16
        want = loss_and_grads(
            DEFAULT.bind(space, batch_size=16, seed=SEED), params, table
        )
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(num_devices), tiny.bag_encoder()
    )
    problem = DEFAULT.bind(
        space, batch_size=batch_size, seed=SEED, num_chunks=num_chunks
    )
    state, step = start(tiny, space, problem, optax.sgd(1.0), num_chunks=num_chunks)
    before = jax.device_get(state.params)
    resources = problem.resources(make_table(tiny, space, 1))
    state, metrics = step(state, problem.make_batch(0), resources, jax.random.key(0))
    loss, want_metrics, grads = want
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for name, value in want_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    got = jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params)
    # Parameters of size 1 hold a gradient of about .01 to 1e-7.
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=3e-7), got, grads)


def test_what_a_step_embedded_is_written_back(tiny, space, params):
    art = dataclasses.replace(DEFAULT, write_back=True)
    problem = art.bind(space, batch_size=BATCH, seed=SEED, num_chunks=2)
    state, step = start(tiny, space, problem, optax.sgd(0.5), num_chunks=2)
    table = make_table(tiny, space, 1)
    before = np.asarray(table.embeddings)
    batch, resources = problem.make_batch(0), problem.resources(table)
    found = jax.jit(functools.partial(art.retrieve, space))(
        params, batch, resources, jax.random.key(0)
    )
    fresh = np.asarray(make_table(tiny, space, 0).embeddings)
    state, metrics = step(state, batch, resources, jax.random.key(0))
    table, metrics = problem.write_back(table, metrics)
    want = before.copy()
    rows = np.unique(found)
    want[rows] = fresh[rows]  # by the weights that the step was given
    assert len(rows) < len(before)
    np.testing.assert_allclose(table.embeddings, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        np.delete(table.embeddings, rows, axis=0), np.delete(before, rows, axis=0)
    )
    assert all(value.ndim == 0 for value in metrics.values())


def test_remat_keeps_less_and_replays_the_dropout_it_drew(tiny):
    art = dataclasses.replace(DEFAULT, dropout=True)

    def make(remat):
        config = bert.BertConfig(
            vocab_size=40,
            hidden_size=8,
            num_layers=1,
            num_heads=2,
            intermediate_size=16,
            max_positions=12,
            dropout_rate=0.3,
            attention_dropout_rate=0.3,
            remat=remat,
        )
        encoder = dual_encoder.DualEncoder(config, pooling="mean", shared=True)
        return functools.partial(art.loss, encoder), encoder

    rng = np.random.default_rng(0)
    batch = {
        "query_tokens": jnp.asarray(rng.integers(1, 40, (2, 6)), jnp.int32),
        "rows": jnp.zeros((2, 3), jnp.int32),
        "passage_tokens": jnp.asarray(rng.integers(1, 40, (2, 3, 12)), jnp.int32),
        "teacher_scores": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
    }
    (plain, encoder), (remat, _) = make(False), make(True)
    params, key = jax.jit(encoder.init)(jax.random.key(0)), jax.random.key(1)
    plain = functools.partial(plain, batch=batch, key=key)
    remat = functools.partial(remat, batch=batch, key=key)

    def bytes_kept(loss):
        pulled = jax.eval_shape(lambda p: jax.vjp(loss, p, has_aux=True)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pulled))

    # What JAX keeps for the backward pass. XLA on a CPU joins both passes again, so
    # that memory_analysis shows no difference there.
    assert bytes_kept(remat) < bytes_kept(plain) / 3
    with tiny.quick_compilation():
        (loss, _), grads = jax.jit(jax.value_and_grad(plain, has_aux=True))(params)
        (got_loss, _), got = jax.jit(jax.value_and_grad(remat, has_aux=True))(params)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), got, grads)


def test_chunks_take_less_memory(tiny, tiny_evidence, space, params, table):
    temporary = []
    for num_chunks in (1, 4):
        problem = DEFAULT.bind(space, batch_size=40, seed=SEED, num_chunks=num_chunks)
        state, step = start(tiny, space, problem, optax.sgd(1.0), num_chunks)
        inputs = (problem.make_batch(0), problem.resources(table), jax.random.key(0))
        analysis = step.lower(state, *inputs).compile().memory_analysis()
        temporary.append(analysis.temp_size_in_bytes)
    assert temporary[1] < temporary[0] / 2


def test_compiles_once_across_steps_and_refreshes(tiny, tiny_evidence):
    space = tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(2), tiny.bag_encoder()
    )
    traces, programs = [], []

    def score(*args, **settings):
        traces.append(1)
        return STUB.score(*args, **settings)

    problem = Art(StubTeacher(score), num_passages=K).bind(
        space, batch_size=BATCH, seed=SEED
    )
    refresher = tiny.make_refresher(space)

    def refresh_every_two(run, step):
        if step % 2:
            return run
        params = loop.copy_params(passage_side(run.train.params))
        table = refresh(refresher, params, step=step, generation=step // 2)
        return dataclasses.replace(run, table=table)

    state, step = start(tiny, space, problem, optax.sgd(0.5))
    with tiny.counted_compilations() as compiled:
        loop.run_steps(
            loop.RunState(state),
            problem,
            step,
            train_steps=6,
            key=jax.random.key(0),
            hooks=[refresh_every_two],
            observers=[lambda step, metrics: programs.append(len(compiled))],
        )
    assert len(traces) == 1
    # A layout that changed would compile again without tracing again.
    assert programs[0] > 0
    assert set(programs) == {programs[0]}


def test_lengths_of_the_corpus_are_below_the_layout(tiny, space):
    # Otherwise the twin would lay rows out as the code under test does.
    tokens = space.evidence.token_tables["retriever"]
    layout = dataclasses.replace(space.passage_layout, max_tokens=99)
    lengths = layout_lengths(layout, tokens, np.arange(tokens.num_rows))
    assert lengths.max() <= tiny.MAX_PASSAGE_TOKENS
