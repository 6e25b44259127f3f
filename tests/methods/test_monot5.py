import dataclasses
import functools
import io
import pathlib

import jax
import numpy as np
import pytest
import sentencepiece

from art_jax import partitioning
from art_jax.checkpoints import t5x
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.methods import monot5
from art_jax.methods.monot5 import MonoT5, PairRows
from art_jax.models import t5
from art_jax.teacher.t5_scoring import T5Teacher

T5X = pathlib.Path(__file__).parents[1] / "golden/t5x/v1_1_f32/checkpoint_1234"
HERON = Passage("1", "herons eat fish", "Heron")
OTTER = Passage("2", "otters eat fish in the river and on the land and in the sea")


@functools.cache
def vocabulary():
    """The bytes of a SentencePiece model as T5's, with pieces for true and false."""
    out = io.BytesIO()
    lines = ["Query: what do herons eat Document: herons eat fish Relevant: true false"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 9),
        model_writer=out,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=["\u2581true", "\u2581false"],
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(vocabulary())
    config, _ = t5x.open_t5(T5X, dtype="float32")
    return T5Teacher(
        config,
        checkpoint_path=str(T5X),
        vocabulary=str(path),
        param_dtype="float32",
        chunk_size=2,
        max_passage_tokens=72,
        length_buckets=(56,),
    )


def ranked(text, *passages):
    return RankedQuestion(Question(text, text), tuple(map(Candidate, passages)))


RANKED = [
    ranked("what do herons eat", OTTER, HERON),
    ranked("nothing was found"),
    ranked("who eats fish", HERON, OTTER, Passage("3", "fish")),
]


def test_scores_are_of_two_words_at_the_first_step(model, mesh):
    scores = list(MonoT5(model).score(RANKED, mesh))
    assert [len(row) for row in scores] == [2, 0, 3]
    tokenizer = model.make_tokenizer(())
    params = model.load(None, tokenizer, partitioning.make_mesh(1))
    true, false = (tokenizer.encode_batch([word])[0][0] for word in ("true", "false"))
    for question, passages in ((0, [OTTER, HERON]), (2, [HERON, OTTER])):
        text = RANKED[question].question.text
        for place, passage in enumerate(passages):
            whole = f"Query: {text} Document: {passage.text} Relevant:"
            (ids,) = tokenizer.encode_batch([whole])
            (tail,) = tokenizer.encode_batch([" Relevant:"])
            if len(ids) > 71:
                assert passage is OTTER
                ids = [*ids[: 71 - len(tail)], *tail]
            logits = first_logits(model.config, params, np.array([[*ids, 1]]))
            want = logits[true] - np.logaddexp(logits[true], logits[false])
            np.testing.assert_allclose(scores[question][place], want, atol=1e-5)


def first_logits(config, params, tokens):
    tokens = np.pad(tokens, ((0, 0), (0, 72 - tokens.shape[1]))).astype(np.int32)
    return np.asarray(_run(config, params, tokens))[0, 0]


@functools.partial(jax.jit, static_argnums=0)
def _run(config, params, tokens):
    encoded = t5.encode(params, config, tokens)
    return t5.decode(params, config, encoded, tokens, np.zeros((1, 1), np.int32))


def test_kept_scores_are_not_asked_for_again(model, tmp_path, monkeypatch):
    method = MonoT5(model, cache_dir=tmp_path / "scores")
    mesh = partitioning.make_mesh(1)
    want = list(method.score(RANKED, mesh))

    def refuse(*arguments):
        raise AssertionError("all scores are known")

    monkeypatch.setattr(monot5, "_score_pairs", refuse)
    for left, right in zip(method.score(RANKED, mesh), want, strict=True):
        np.testing.assert_array_equal(left, right)
    other = dataclasses.replace(method, words=("false", "true"))
    with pytest.raises(ConfigError, match="another teacher"):
        list(other.score(RANKED, mesh))


@pytest.mark.parametrize("max_tokens", [5, 6, 7, 8])
def test_a_long_passage_is_cut_and_the_end_is_kept(max_tokens):
    rows = PairRows([[3, 4]], [[5, 6, 7]], (8, 1), max_tokens)
    kept = [5, 6, 7][: max_tokens - 4]
    assert rows.row(0, 0) == [3, 4, *kept, 8, 1]


def test_a_question_that_fills_the_row_is_an_error():
    with pytest.raises(ConfigError, match="2 tokens leaves no room .* in 4"):
        PairRows([[3], [3, 4]], [[5]], (8, 1), 4)


def test_words_must_be_pieces_of_the_vocabulary(model):
    with pytest.raises(ConfigError, match="cuts 'herons and fish' into"):
        MonoT5(model, words=("true", "herons and fish")).score(
            RANKED, partitioning.make_mesh(1)
        ).__next__()
