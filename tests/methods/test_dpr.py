"""DPR: what a batch holds, the loss against a NumPy twin, and where gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.example_batches import PassageDraw
from art_jax.data.example_files import write_examples
from art_jax.data.example_sets import ExampleSet
from art_jax.data.example_table import build_example_table, read_example_table
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.layouts import layout_rows
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError
from art_jax.index.refresh import refresh
from art_jax.methods.dpr import Dpr
from art_jax.methods.workspace import passage_side
from art_jax.training import loop, optimizers, update

BATCH, SEED = 16, 3
A_SET = ExampleSet(path="train.json")


def candidates(passages):
    return tuple(map(Candidate, passages))


def make_examples(tiny):
    """A question about each passage; every third has no hard negatives."""
    passages = tiny.SOME_PASSAGES
    return [
        TrainingExample(
            Question(f"q{i}", f"about word{i}"),
            positives=candidates(passages[i : i + 2]),
            negatives=candidates([passages[(i + 5) % 40], passages[(i + 9) % 40]]),
            hard_negatives=candidates(
                [passages[(i + step) % 40] for step in (3, 7, 11)] if i % 3 else []
            ),
        )
        for i in range(39)
    ]


@pytest.fixture(scope="module")
def train_file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("dpr") / "train.json"
    write_examples(path, make_examples(tiny), "dpr")
    return str(path)


@pytest.fixture(scope="module")
def default(train_file):
    return Dpr(
        [ExampleSet(path=train_file)],
        num_hard_negatives=1,
        num_other_negatives=1,
        dropout=False,
    )


def make_space(tiny, tiny_evidence, num_devices=1, **encoder):
    return tiny.make_workspace(
        tiny_evidence, partitioning.make_mesh(num_devices), tiny.bag_encoder(**encoder)
    )


def one_step(
    tiny, space, method, *, num_chunks=1, batch_size=BATCH, step=0, table=None
):
    """Returns a step's metrics, its gradient, and the batch on the host."""
    problem = method.bind(
        space, batch_size=batch_size, seed=SEED, num_chunks=num_chunks
    )
    # Plain descent of rate 1: a parameter changes by its gradient.
    optimizer = optimizers.freeze(optax.sgd(1.0), problem.frozen)
    run = update.make_update(
        problem.loss, optimizer, prepare=problem.prepare, num_chunks=num_chunks
    )
    params = tiny.init_params(space)
    before = jax.device_get(params)
    batch = problem.make_batch(step)
    with tiny.quick_compilation():
        state, metrics = run(
            update.init_state(params, optimizer),
            batch,
            problem.resources(table),
            jax.random.key(0),
        )
    after = jax.device_get(state.params)
    grads = jax.tree.map(np.subtract, before, after)
    return jax.device_get(metrics), grads, jax.device_get(batch)


def mean_vectors(embedding, tokens):
    mask = (tokens > 0).astype(np.float64)
    total = (embedding.astype(np.float64)[tokens] * mask[..., None]).sum(axis=-2)
    return total / mask.sum(axis=-1)[..., None]


def numpy_twin(params, batch):
    """Returns loss, accuracy and gradients, question by question."""
    towers = {name: np.asarray(params[name]["embedding"]) for name in params}
    queries = mean_vectors(towers["query"], batch["query_tokens"])
    passages = mean_vectors(towers["passage"], batch["passage_tokens"])
    rows = batch["passage_rows"].reshape(-1)
    flat = passages.reshape(-1, passages.shape[-1])
    grads = {name: np.zeros_like(tower, np.float64) for name, tower in towers.items()}
    loss = accuracy = 0.0
    size, width = batch["passage_rows"].shape
    for i, query in enumerate(queries):
        scores = np.where(rows >= 0, flat @ query, -np.inf)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        loss -= np.log(shares[i * width]) / size
        accuracy += (scores.argmax() == i * width) / size
        shares[i * width] -= 1
        slopes = shares / size
        used = batch["query_tokens"][i][batch["query_tokens"][i] > 0]
        np.add.at(grads["query"], used, slopes @ flat / len(used))
        for slope, tokens in zip(
            slopes, batch["passage_tokens"].reshape(len(rows), -1), strict=True
        ):
            used = tokens[tokens > 0]
            np.add.at(grads["passage"], used, slope * query / len(used))
    return loss, accuracy, grads


@pytest.fixture(scope="module")
def plain_result(tiny, tiny_evidence, default):
    """A step of the default on one device, in one chunk."""
    return one_step(tiny, make_space(tiny, tiny_evidence), default)


@pytest.mark.parametrize(("num_devices", "num_chunks"), [(1, 16), (2, 1), (8, 2)])
def test_equals_a_slow_twin_on_any_devices_and_in_any_chunks(
    tiny, tiny_evidence, default, num_devices, num_chunks
):
    space = make_space(tiny, tiny_evidence, num_devices)
    metrics, grads, batch = one_step(tiny, space, default, num_chunks=num_chunks)
    loss, accuracy, want = numpy_twin(tiny.init_params(space), batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["in_batch_accuracy"], accuracy, rtol=1e-6)
    for name, grad in want.items():
        assert np.abs(grad).max() > 1e-3
        # Parameters up to 4 hold a difference to 5e-7.
        np.testing.assert_allclose(grads[name]["embedding"], grad, atol=6e-7)


def test_dropout_draws_the_same_on_any_devices(
    tiny, tiny_evidence, default, plain_result
):
    method = dataclasses.replace(default, dropout=True)
    results = [
        one_step(tiny, make_space(tiny, tiny_evidence, devices), method, num_chunks=2)
        for devices in (1, 8)
    ]
    (metrics, grads, _), (other_metrics, other_grads, _) = results
    np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=6e-7), grads, other_grads
    )
    assert abs(metrics["loss"] - plain_result[0]["loss"]) > 1e-3


def test_a_later_epoch_draws_other_passages_for_a_question(
    tiny, tiny_evidence, default
):
    space = make_space(tiny, tiny_evidence)
    problem = default.bind(space, batch_size=39, seed=SEED)

    def passages_of_questions(step):
        batch = jax.device_get(problem.make_batch(step))
        rows = zip(batch["query_tokens"], batch["passage_rows"], strict=True)
        return {tokens.tobytes(): row.tolist() for tokens, row in rows}

    first, second = passages_of_questions(0), passages_of_questions(1)
    assert first.keys() == second.keys()
    assert first != second
    assert first == passages_of_questions(0)


def test_slots_without_a_passage_are_as_if_they_were_not_there(
    tiny, tiny_evidence, default
):
    space = make_space(tiny, tiny_evidence)
    params = tiny.init_params(space)
    problem = default.bind(space, batch_size=8, seed=SEED)
    batch = jax.device_get(problem.make_batch(0))
    rows = batch["passage_rows"].copy()
    rows[:, 2] = -1
    tokens = batch["passage_tokens"].copy()
    tokens[:, 2] = 7  # Tokens that would score, were they looked at.

    @jax.jit
    def loss_of_batch(params, batch):
        embeddings = default.embed(space.encoder, params, batch, None)
        return default.in_batch_loss(embeddings, batch)

    def loss_of(**arrays):
        with tiny.quick_compilation():
            return loss_of_batch(params, batch | arrays)

    got = loss_of(passage_rows=rows, passage_tokens=tokens)
    want = loss_of(
        passage_rows=rows[:, :2],
        passage_tokens=batch["passage_tokens"][:, :2],
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    assert float(got[1]["in_batch_accuracy"]) == float(want[1]["in_batch_accuracy"])


def by_hand(method, rows):
    queries = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    passages = jnp.array([[[2.0, 0.0], [1.0, 1.0]], [[0.0, 3.0], [1.0, 0.0]]])
    batch = {"passage_rows": jnp.array(rows, jnp.int32)}
    return jax.jit(method.in_batch_loss)((queries, passages), batch)


def test_the_loss_by_hand():
    # Scores [[2, 1, 0, 1], [0, 1, 3, 0]].
    losses, metrics = by_hand(Dpr([A_SET]), [[0, 1], [2, 3]])
    np.testing.assert_allclose(losses.mean(), 0.418760, atol=1e-6)
    assert float(metrics["in_batch_accuracy"]) == 1.0
    losses, _ = by_hand(Dpr([A_SET], temperature=2.0), [[0, 1], [2, 3]])
    want = np.log(np.exp(1) + 2 * np.exp(0.5) + 1) - 1
    np.testing.assert_allclose(losses[0], want, rtol=1e-6)


def test_similarities_and_the_triplet_loss_by_hand():
    losses, _ = by_hand(Dpr([A_SET], similarity="cosine"), [[0, 1], [2, 3]])
    want = np.log(np.exp(1) + np.exp(0.5**0.5) + 1 + np.exp(1)) - 1
    np.testing.assert_allclose(losses[0], want, rtol=1e-6)
    method = Dpr([A_SET], objective="triplet", margin=1.5)
    losses, _ = by_hand(method, [[0, 1], [2, 3]])
    np.testing.assert_allclose(losses, [(0.5 + 0.0 + 0.5) / 3, 0.0])


def test_a_second_copy_of_the_right_passage_may_be_masked():
    # The first question's right passage is the second's hard negative.
    losses, _ = by_hand(Dpr([A_SET]), [[0, 1], [2, 0]])
    np.testing.assert_allclose(losses[0], 0.626523, atol=1e-6)
    losses, _ = by_hand(Dpr([A_SET], mask_same_passage=True), [[0, 1], [2, 0]])
    want = np.log(np.exp(2) + np.exp(1) + 1) - 2
    np.testing.assert_allclose(losses[0], want, rtol=1e-6)


def test_loss_and_gradient_can_be_scaled(tiny, tiny_evidence, default, plain_result):
    half = dataclasses.replace(default.train_sets[0], loss_scale=0.5)
    method = dataclasses.replace(default, train_sets=[half], gradient_scale=1 / 8)
    got_metrics, got, _ = one_step(tiny, make_space(tiny, tiny_evidence), method)
    metrics, grads, _ = plain_result
    np.testing.assert_allclose(got_metrics["loss"], metrics["loss"] / 2, rtol=1e-6)
    np.testing.assert_allclose(
        got_metrics["grad_norm"], metrics["grad_norm"] / 16, rtol=1e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b / 16, atol=6e-7), got, grads
    )


@pytest.mark.parametrize("side", ["query", "passage"])
def test_a_frozen_tower_stays_as_it_is(
    tiny, tiny_evidence, default, plain_result, side
):
    space = make_space(tiny, tiny_evidence)
    method = dataclasses.replace(default, **{f"train_{side}_tower": False})
    assert method.bind(space, batch_size=8, seed=0).frozen == (side,)
    _, grads, _ = one_step(tiny, space, method, num_chunks=2)
    other = {"query": "passage", "passage": "query"}[side]
    assert not grads[side]["embedding"].any()
    np.testing.assert_allclose(
        grads[other]["embedding"], plain_result[1][other]["embedding"], atol=6e-7
    )


def test_batches_are_of_one_set_each_and_carry_its_scale(tiny, tiny_evidence, tmp_path):
    examples = make_examples(tiny)
    sets = []
    for name, part, settings in (
        ("a", examples[:24], {}),
        ("b", examples[24:32], {"sampling_rate": 2.0, "loss_scale": 0.25}),
    ):
        path = tmp_path / f"{name}.json"
        write_examples(path, part, "dpr")
        sets.append(ExampleSet(path=str(path), **settings))
    space = make_space(tiny, tiny_evidence)
    problem = Dpr(sets, dropout=False).bind(space, batch_size=8, seed=SEED)
    tokenizer = tiny.made_tokenizers()["retriever"]
    known = build_example_table([A_SET], [examples], tokenizer)
    rows = layout_rows(space.query_layout, known.questions, np.arange(32))
    seen = []
    for step in range(10):
        batch = jax.device_get(problem.make_batch(step))
        numbers = [
            int(np.flatnonzero((rows == one).all(axis=1))[0])
            for one in batch["query_tokens"]
        ]
        is_b = numbers[0] >= 24
        assert all((number >= 24) == is_b for number in numbers)
        np.testing.assert_array_equal(batch["loss_scales"], 0.25 if is_b else 1.0)
        seen += numbers
    # Two epochs of 3 batches of the first and 2 of the second, which has one batch.
    counts = np.bincount(seen, minlength=32)
    assert counts[:24].tolist() == [2] * 24
    assert counts[24:].tolist() == [4] * 8


def test_all_passages_as_negatives_equal_a_plain_softmax(
    tiny, tiny_evidence, train_file
):
    space = make_space(tiny, tiny_evidence, 8)
    method = Dpr(
        [ExampleSet(path=train_file)],
        negatives="all_passages",
        train_passage_tower=False,
        temperature=2.0,
        dropout=False,
    )
    params = tiny.init_params(space)
    table = refresh(
        tiny.make_refresher(space), passage_side(params), step=0, generation=0
    )
    metrics, grads, batch = one_step(tiny, space, method, num_chunks=2, table=table)
    assert set(batch) == {"query_tokens", "loss_scales", "own_rows"}
    tower = np.asarray(params["query"]["embedding"])
    rows = np.asarray(table.embeddings, np.float64)[: table.num_rows]
    loss, want = 0.0, np.zeros_like(tower, np.float64)
    for tokens, own in zip(batch["query_tokens"], batch["own_rows"], strict=True):
        scores = rows @ mean_vectors(tower, tokens) / 2.0
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        loss -= np.log(shares[own]) / BATCH
        shares[own] -= 1
        used = tokens[tokens > 0]
        np.add.at(want, used, shares @ rows / 2.0 / BATCH / len(used))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(grads["query"]["embedding"], want, atol=6e-7)
    assert not grads["passage"]["embedding"].any()


def test_right_passages_are_looked_up_in_the_evidence(tiny, tiny_evidence, tmp_path):
    elsewhere = Passage("x1", "of another corpus")
    examples = [
        TrainingExample(Question("1", "one"), candidates([elsewhere])),
        TrainingExample(
            Question("2", "two"), candidates([elsewhere, tiny.SOME_PASSAGES[7]])
        ),
    ]
    path = tmp_path / "some.json"
    write_examples(path, examples, "dpr")
    method = Dpr(
        [ExampleSet(path=str(path))],
        negatives="all_passages",
        train_passage_tower=False,
    )
    space = make_space(tiny, tiny_evidence)
    problem = method.bind(space, batch_size=1, seed=0)
    assert problem.make_batch(0)["own_rows"].tolist() == [7]
    assert "(1 without a right passage left out)" in method.describe(space)
    with pytest.raises(ConfigError, match="give it refresh_every_steps"):
        problem.resources(None)
    write_examples(tmp_path / "none.json", examples[:1], "dpr")
    none = dataclasses.replace(
        method, train_sets=[ExampleSet(path=str(tmp_path / "none.json"))]
    )
    with pytest.raises(DataError, match="are its passage_ids those of PASSAGES"):
        none.check(space, 1)


def test_held_out_examples_are_ranked(tiny, tiny_evidence, default):
    space = make_space(tiny, tiny_evidence)
    params = tiny.init_params(space)
    state = update.init_state(params, optax.sgd(1.0))
    assert default.bind(space, batch_size=8, seed=0).evaluate is None
    method = dataclasses.replace(
        default, dev_sets=default.train_sets, dev_max_questions=10
    )
    problem = method.bind(space, batch_size=12, seed=0, num_chunks=2)
    with tiny.quick_compilation():
        measures = problem.evaluate(loop.RunState(state))
    assert list(measures) == ["average_rank", "nll"]
    assert 0 < measures["average_rank"] < 40
    # In three batches of 12 questions, as training has them, and one of three.
    table = read_example_table(method.dev_sets, tiny.made_tokenizers()["retriever"])
    host, total = jax.device_get(params), 0.0
    for start in (0, 12, 24, 36):
        examples = np.arange(start, min(start + 12, 39))
        rows = PassageDraw(1, 1).rows(
            table, examples, shuffle_positives=False, seed=(0, start)
        )
        batch = {
            "query_tokens": layout_rows(space.query_layout, table.questions, examples),
            "passage_tokens": layout_rows(
                space.passage_layout, table.passages, np.maximum(rows, 0)
            ),
            "passage_rows": rows,
        }
        total += len(examples) * numpy_twin(host, batch)[0]
    np.testing.assert_allclose(measures["nll"], total / 39, rtol=1e-5)


def two_towers(train_file):
    sets = [
        ExampleSet(path=train_file, query_task=name, tower=name) for name in ("a", "b")
    ]
    return Dpr(sets, num_other_negatives=1, dropout=False)


def test_questions_go_through_the_tower_of_their_set(
    tiny, tiny_evidence, train_file, default
):
    space = make_space(tiny, tiny_evidence, query_towers=("b", "a"))
    plain = make_space(tiny, tiny_evidence)
    method = two_towers(train_file)
    problem = method.bind(space, batch_size=BATCH, seed=SEED)
    assert problem.stacked == {"query": 2}
    sets = [int(problem.make_batch(step)["towers"][0]) for step in range(4)]
    assert sorted(sets) == [0, 0, 1, 1]
    tower = sets[0]
    metrics, grads, batch = one_step(tiny, space, method)
    # The other set has the same examples, which are drawn alike.
    want_metrics, want, want_batch = one_step(tiny, plain, default)
    np.testing.assert_array_equal(batch["query_tokens"], want_batch["query_tokens"])
    np.testing.assert_allclose(metrics["loss"], want_metrics["loss"], rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, grads["passage"], want["passage"])
    jax.tree.map(lambda got, w: close(got[tower], w), grads["query"], want["query"])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(want["query"])) > 1e-3
    assert not any(leaf[1 - tower].any() for leaf in jax.tree.leaves(grads["query"]))


def test_sets_name_a_tower_that_there_is(tiny, tiny_evidence, train_file, default):
    one_tower = make_space(tiny, tiny_evidence)
    with pytest.raises(ConfigError, match="tower 'a', but DualEncoder.query_towers"):
        two_towers(train_file).check(one_tower, 8)
    several = make_space(tiny, tiny_evidence, query_towers=("a", "c"))
    for method, missing in ((two_towers(train_file), "b"), (default, "")):
        with pytest.raises(ConfigError, match=f"through the tower '{missing}'"):
            method.check(several, 8)


def test_what_the_retriever_must_know_of_questions(train_file):
    method = two_towers(train_file)
    assert [form.tower for form in method.query_forms.values()] == ["a", "b"]
    other = ExampleSet(path=train_file, query_task="a", marker="[Q]", tower="a")
    with pytest.raises(ConfigError, match="reads questions of query_task 'a' in"):
        dataclasses.replace(method, dev_sets=[other])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_sets": []}, "no train_sets"),
        ({"negatives": "all"}, "choose of in_batch, all_passages"),
        ({"similarity": "l1"}, "choose of dot, cosine, l2"),
        ({"objective": "hinge"}, "choose of nll, triplet"),
        ({"num_hard_negatives": -1}, "0 or more each"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"gradient_scale": 0.0}, "must be above 0"),
        ({"train_query_tower": False, "train_passage_tower": False}, "nothing is"),
        ({"negatives": "all_passages"}, "set train_passage_tower = False"),
        (
            {
                "negatives": "all_passages",
                "train_passage_tower": False,
                "objective": "triplet",
            },
            "'dot' and objective 'nll' alone",
        ),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        Dpr(**{"train_sets": [A_SET], **settings})


def test_sizes_that_do_not_fit(tiny, tiny_evidence, default):
    space = make_space(tiny, tiny_evidence)
    with pytest.raises(ConfigError, match=r"train.json: a batch takes 40 examples"):
        default.check(space, 40)
    with pytest.raises(ConfigError, match="NUM_MICROBATCHES is 3"):
        default.check(space, 8, 3)
    shared = make_space(tiny, tiny_evidence, shared=True)
    full = Dpr(default.train_sets, negatives="all_passages", train_passage_tower=False)
    with pytest.raises(ConfigError, match="one tower for both sides"):
        full.check(shared, 8)
    missing = Dpr([ExampleSet(path="nowhere.json")])
    with pytest.raises(DataError, match=r"nowhere.json"):
        missing.check(space, 8)
