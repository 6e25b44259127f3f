"""What a batch holds, the loss against a plain twin, answers that no batch changes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.data.answer_targets import AnswerCodec, TargetRules
from art_jax.data.example_files import write_examples
from art_jax.data.prompts import PassagePrompt
from art_jax.errors import ConfigError
from art_jax.generation.beam import BeamRules
from art_jax.generation.steps import Decoded
from art_jax.methods.ranked_table import RankedSet
from art_jax.methods.reading import fid_reader
from art_jax.methods.reading.fid_reader import READER_TEMPLATE, Answers, FidReader
from art_jax.methods.reading.reader_table import build_reader_table, table_of_passages
from art_jax.models import fid
from art_jax.training import loop, update

BATCH, SEED = 8, 3
LENGTH, TARGET = 12, 6
READER = FidReader(
    targets=TargetRules("sequence", separator="index:", max_tokens=TARGET),
    prompt=PassagePrompt(READER_TEMPLATE, LENGTH),
    dropout=False,
)


@pytest.fixture(scope="module")
def reader_table(rankings, tokenizer):
    return build_reader_table(rankings, tokenizer, READER.targets)


def one_batch(space, table, step=0, reader=READER):
    problem = reader.bind(space, batch_size=BATCH, seed=SEED, table=table)
    return jax.device_get(problem.make_batch(step))


def test_a_batch_is_passages_with_what_they_hold(make_space, reader_table, tokenizer):
    batch = one_batch(make_space(), reader_table)
    assert batch["tokens"].shape == (BATCH, 6, LENGTH)
    fruits = set(tokenizer.encode_batch(["apple pear plum"])[0])
    (separator,) = tokenizer.encode_batch(["index:"])[0]
    for passages, target in zip(batch["tokens"], batch["targets"], strict=True):
        said = target[: target.tolist().index(tokenizer.eos_id)]
        assert not target[len(said) + 1 :].any()
        assert set(said[1::2].tolist()) <= {separator}
        # The order in which the passages hold them.
        held = [token for token in passages.reshape(-1).tolist() if token in fruits]
        assert said[0::2].tolist() == list(dict.fromkeys(held))
    total = np.count_nonzero(batch["targets"])
    np.testing.assert_allclose(batch["scales"], BATCH / total, rtol=1e-6)


def test_batches_are_of_seed_and_step_alone(make_space, reader_table):
    space = make_space()
    first, again, next_one = (
        one_batch(space, reader_table, step) for step in (5, 5, 6)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert (first["tokens"] != next_one["tokens"]).any()


@functools.partial(jax.jit, static_argnums=0)
def next_logits(config, params, tokens, inputs):
    encoded, mask = fid.encode(params, config, tokens)
    return fid.decode(params, config, encoded, mask, inputs)


def test_the_loss_equals_a_plain_twin(tiny, make_space, reader_table, params):
    space = make_space()
    batch = one_batch(space, reader_table)
    with tiny.quick_compilation():
        loss, metrics = jax.jit(functools.partial(READER.loss, space.config))(
            params, batch, jax.random.key(0)
        )
    nats, right = [], []
    for tokens, target in zip(batch["tokens"], batch["targets"], strict=True):
        inputs = np.concatenate([[0], target[:-1]])
        logits = np.float64(
            next_logits(space.config, params, tokens[None], inputs[None])[0]
        )
        for each, token in zip(logits, target.tolist(), strict=True):
            if token:
                nats.append(np.log(np.exp(each).sum()) - each[token])
                right.append(each.argmax() == token)
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
    np.testing.assert_allclose(metrics["token_accuracy"], np.mean(right), rtol=1e-5)


def one_step(tiny, reader, space, table, params, num_chunks=1):
    """Returns the loss, and the weights after a step of plain descent."""
    problem = reader.bind(
        space, batch_size=BATCH, seed=SEED, table=table, num_chunks=num_chunks
    )
    optimizer = optax.sgd(0.1)
    step = update.make_update(problem.loss, optimizer, num_chunks=num_chunks)
    state = update.init_state(jax.tree.map(jnp.array, params), optimizer)
    with tiny.quick_compilation():
        state, metrics = step(state, problem.make_batch(0), (), jax.random.key(0))
    return float(metrics["loss"]), jax.device_get(state.params)


def test_devices_chunks_and_passages_at_once_learn_the_same(
    tiny, make_space, reader_table, params
):
    want = one_step(tiny, READER, make_space(), reader_table, params)
    space = make_space(partitioning.make_mesh(2))
    reader = dataclasses.replace(READER, passages_at_once=4)
    found = one_step(tiny, reader, space, reader_table, params, num_chunks=2)
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        found[1],
        want[1],
    )


def test_dropout_is_of_the_steps_key(tiny, make_space, reader_table, params):
    space = make_space()
    config = dataclasses.replace(space.config, dropout_rate=0.5)
    batch = one_batch(space, reader_table)

    @jax.jit
    def loss(key):
        reader = dataclasses.replace(READER, dropout=True)
        return reader.loss(config, params, batch, key)[0]

    with tiny.quick_compilation():
        one, same, other = (float(loss(jax.random.key(seed))) for seed in (0, 0, 1))
    assert one == same != other


def say(tiny, space, params, ranked, reader=READER, **options):
    with tiny.quick_compilation():
        options = {"batch_size": BATCH, **options}
        return list(reader.read(params, space, ranked, **options))


def assert_answers_agree(found, want):
    assert [one.texts for one in found] == [one.texts for one in want]
    np.testing.assert_allclose(
        [one.log_likelihood for one in found],
        [one.log_likelihood for one in want],
        rtol=1e-4,
    )


@pytest.fixture(scope="module")
def said(tiny, make_space, rankings, params):
    return say(tiny, make_space(), params, rankings)


def test_the_likeliest_token_is_said_each_time(
    make_space, rankings, tokenizer, params, said
):
    """Against decoding again from the start for every token, question by question."""
    space = make_space()
    table = table_of_passages(rankings[:4], tokenizer)
    for (_, tokens), one in zip(READER._batches(space, table, 1), said, strict=False):
        ids, nats = [], 0.0
        while len(ids) < TARGET and ids[-1:] != [tokenizer.eos_id]:
            inputs = np.zeros((1, TARGET), np.int32)
            inputs[0, 1 : len(ids) + 1] = ids[: TARGET - 1]
            logits = np.float64(next_logits(space.config, params, tokens, inputs)[0])
            each = logits[len(ids)]
            nats += each.max() - np.log(np.exp(each).sum())
            ids.append(int(each.argmax()))
        codec = AnswerCodec(tokenizer, READER.targets)
        assert one.texts == codec.texts(ids)
        np.testing.assert_allclose(one.log_likelihood, nats, rtol=1e-4)


def test_answers_are_the_same_on_any_devices(
    tiny, make_space, rankings, params, said, mesh
):
    # The whole batch is of 8 questions, the last of 20 of 4.
    reader = dataclasses.replace(READER, passages_at_once=4)
    found = say(tiny, make_space(mesh), params, rankings, reader)
    assert_answers_agree(found, said)
    assert len({one.texts for one in said}) > 1


def test_beams_find_what_is_likelier(tiny, make_space, rankings, params, said):
    count = fid_reader._read_and_say._cache_size()
    rules = BeamRules(beams=4, alpha=0.0)
    wide = say(tiny, make_space(), params, rankings, beams=rules)
    for one, greedy in zip(wide, said, strict=True):
        assert one.log_likelihood >= greedy.log_likelihood - 1e-4
    assert [one.texts for one in wide] != [one.texts for one in said]
    # Three batches, one program.
    assert fid_reader._read_and_say._cache_size() == count + 1


def test_the_best_of_the_beams_is_said(monkeypatch):
    nats = np.array([[-1.0, -2.0]])
    decoded = Decoded(np.array([[[5, 1], [6, 1]]]), nats, nats)
    monkeypatch.setattr(fid_reader, "generate", lambda *_, **__: decoded)
    monkeypatch.setattr(fid_reader.fid, "encode", lambda *_, **__: (None, None))
    options = {"max_tokens": 2, "eos_id": 1, "passages_at_once": None}
    said = fid_reader._read_and_say.__wrapped__
    tokens, found = said(None, None, None, beams=BeamRules(2), **options)
    assert (tokens.tolist(), found.tolist()) == ([[5, 1]], [-1.0])


def test_nothing_is_said_of_nothing(tiny, make_space, rankings, params, said):
    silent = dataclasses.replace(rankings[1], candidates=())
    found = say(tiny, make_space(), params, [rankings[0], silent, *rankings[2:]])
    assert found[1] == Answers((), -math.inf)
    assert_answers_agree([found[0], *found[2:]], [said[0], *said[2:]])
    assert say(tiny, make_space(), params, [silent] * 2) == [found[1]] * 2
    short = say(tiny, make_space(), params, rankings, max_tokens=1)
    assert max(len(one.texts) for one in short) <= 1


def test_attention_is_what_the_decoder_looks_at(
    tiny, make_space, rankings, tokenizer, params
):
    space = make_space(partitioning.make_mesh(2))
    with tiny.quick_compilation():
        found = READER.attention(params, space, rankings, batch_size=BATCH)
    table = table_of_passages(rankings, tokenizer)
    np.testing.assert_array_equal(found == -np.inf, table.rows < 0)
    ((_, tokens),) = READER._batches(
        make_space(), table_of_passages(rankings[:1], tokenizer), 1
    )

    @jax.jit
    def attend(tokens):
        encoded, mask = fid.encode(params, space.config, tokens)
        start = jnp.zeros((1, 1), jnp.int32)
        return fid.passage_attention(
            params, space.config, encoded, mask, start, num_passages=6
        )

    with tiny.quick_compilation():
        want = attend(tokens)
    np.testing.assert_allclose(found[:1], want, rtol=1e-4, atol=1e-6)


@pytest.fixture
def ranked_file(rankings, tmp_path):
    # One answer each, which DPR's format can hold; the first question's is nowhere.
    path = tmp_path / "ranked.json"
    bare = [
        dataclasses.replace(
            one,
            question=dataclasses.replace(
                one.question,
                answers=("kiwi",) if place == 0 else one.question.answers[:1],
                answer_groups=(),
            ),
        )
        for place, one in enumerate(rankings)
    ]
    write_examples(path, bare, "dpr-results")
    return RankedSet(path=str(path))


def test_it_reads_its_sets_and_measures_held_out_ones(
    tiny, make_space, params, ranked_file
):
    space = make_space()
    reader = dataclasses.replace(
        READER,
        train_sets=[ranked_file],
        dev_sets=[ranked_file],
        dev_max_questions=9,
        targets=dataclasses.replace(READER.targets, form="one"),
    )
    reader.check(space, BATCH)
    assert reader.describe(space).startswith("19 ranked questions with")
    assert "(1 without an answer to say left out)" in reader.describe(space)
    problem = reader.bind(space, batch_size=BATCH, seed=SEED)
    assert problem.make_batch(0)["tokens"].shape == (BATCH, 6, LENGTH)
    run = loop.RunState(update.init_state(params, optax.sgd(0.1)))
    with tiny.quick_compilation():
        measures = problem.evaluate(run)
    assert measures.keys() == {"exact_match", "token_f1"}
    with pytest.raises(ConfigError, match="a batch takes 80 examples"):
        reader.check(space, 80)


def test_what_does_not_fit_is_said(make_space):
    with pytest.raises(ConfigError, match="has {i}: a reader names no passage"):
        FidReader(prompt=PassagePrompt())
    with pytest.raises(ConfigError, match="no train_sets"):
        READER.check(make_space(), BATCH)
    with pytest.raises(ConfigError, match="BATCH_SIZE is 3"):
        READER.bind(make_space(partitioning.make_mesh(2)), batch_size=3, seed=0)
