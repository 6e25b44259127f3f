import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from art_jax.data.example_files import write_examples
from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.passages import Passage
from art_jax.data.prompts import PassagePrompt
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.methods.jpr.pointwise import Pointwise, find_word_tokens
from art_jax.methods.ranked_table import GIVEN, RankedSet
from art_jax.models import t5

METHOD = Pointwise(
    num_negatives=2,
    words=("yes", "no"),
    prompt=PassagePrompt("question: {q} context: {c} index:", 12),
    dropout=False,
)
BATCH = 8


def bind(space, table, **fields):
    method = dataclasses.replace(METHOD, **fields)
    return method.bind(space, batch_size=BATCH, seed=3, table=table)


def first_logits(space, params, tokens):
    rows = tokens.reshape(-1, tokens.shape[-1])
    logits = run_t5(space.config, params, rows)
    return np.asarray(logits, np.float64).reshape(*tokens.shape[:2], -1)


@functools.partial(jax.jit, static_argnums=0)
def run_t5(config, params, rows):
    """T5 as it is: no FiD."""
    encoded = t5.encode(params, config, rows)
    start = jnp.zeros((len(rows), 1), jnp.int32)
    return t5.decode(params, config, encoded, rows, start)[:, 0]


@pytest.mark.parametrize("over_vocabulary", [True, False])
def test_the_loss_is_of_the_word_that_is_right(
    make_space, table, params, tokenizer, over_vocabulary
):
    space = make_space()
    problem = bind(space, table, over_vocabulary=over_vocabulary)
    batch = problem.make_batch(0)
    assert batch["tokens"].shape == (BATCH, 3, 12)
    logits = first_logits(space, params, batch["tokens"])
    words = [tokenizer.names.index(word) for word in ("yes", "no")]
    pool = logits if over_vocabulary else logits[..., words]
    totals = np.log(np.exp(pool).sum(axis=-1))
    means = []
    for line in range(BATCH):
        losses = []
        for column in range(3):
            if batch["where"][line, column]:
                yes, no = logits[line, column, words]
                right = yes if batch["is_positive"][line, column] else no
                losses.append(totals[line, column] - right)
        means.append(np.mean(losses))
    loss, metrics = jax.jit(problem.loss)(params, batch, (), jax.random.key(0))
    np.testing.assert_allclose(loss, np.mean(means), rtol=1e-5)
    assert 0 <= float(metrics["accuracy"]) <= 1
    # One passage with an answer each, first, and never one among the others.
    assert batch["is_positive"].tolist() == [[True, False, False]] * BATCH


def test_scores_are_the_softmax_of_two_words(make_space, table, params, mesh):
    space = make_space(mesh)
    found = METHOD.log_likelihoods(params, space, table, batch_size=8)
    assert found.shape == table.rows.shape
    np.testing.assert_array_equal(found == -np.inf, table.rows < 0)
    problem = bind(space, table)
    batch = jax.device_get(problem.make_batch(0))
    logits = first_logits(space, params, batch["tokens"])
    yes, no = np.moveaxis(logits[..., [15, 16]], -1, 0)
    want = set(np.round(-np.log1p(np.exp(no - yes))[batch["where"]], 4).tolist())
    # Each passage of the batch is one of the rankings'.
    got = found[found > -np.inf]
    for score in want:
        assert np.abs(got - score).min() < 1e-3


def test_it_learns_from_judgments_whatever_texts_hold(make_space, tokenizer, tmp_path):
    # The wrong passages hold the answer, the right one does not.
    wrong = tuple(Candidate(Passage(name, f"w8 {name}")) for name in ("w2", "w3"))
    examples = [
        TrainingExample(
            Question(f"q{number}", "w1", ("w8",)),
            (Candidate(Passage("1", "w9")),),
            hard_negatives=wrong,
        )
        for number in range(BATCH)
    ]
    path = tmp_path / "train.json"
    write_examples(path, examples, "dpr")
    judged = RankedSet(path=str(path), file_format="dpr", match=GIVEN)
    batch = bind(make_space(), None, train_sets=(judged,)).make_batch(0)
    (right,) = tokenizer.encode_batch(["w9"])
    has_right = (np.asarray(batch["tokens"]) == right[0]).any(axis=2)
    np.testing.assert_array_equal(has_right, batch["is_positive"])
    assert batch["is_positive"].tolist() == [[True, False, False]] * BATCH
    assert batch["where"].all()


def test_words_are_one_token_each(tokenizer):
    assert find_word_tokens(tokenizer, ("yes", "no")) == (15, 16)
    for words in (("yes no", "no"), ("no", "no")):
        with pytest.raises(ConfigError, match="each must be one token"):
            find_word_tokens(tokenizer, words)


def test_what_does_not_fit_is_said(make_space):
    with pytest.raises(ConfigError, match="num_negatives is 0"):
        Pointwise(num_negatives=0)
    with pytest.raises(ConfigError, match="has {i}"):
        Pointwise(prompt=PassagePrompt())
    with pytest.raises(ConfigError, match="no train_sets"):
        METHOD.check(make_space(), BATCH)
    sets = [RankedSet(path="absent.json")]
    assert dataclasses.replace(METHOD, train_sets=sets).train_sets == tuple(sets)
