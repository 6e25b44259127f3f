import functools
import io
import pathlib

import numpy as np
import pytest
import sentencepiece

from art_jax import partitioning
from art_jax.checkpoints import t5x
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.layouts import layout_rows, make_token_table
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.methods import upr
from art_jax.methods.upr import Upr
from art_jax.teacher import t5_scoring
from art_jax.teacher.prompts import WholePrompt
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher

T5X = pathlib.Path(__file__).parents[1] / "golden/t5x/v1_1_f32/checkpoint_1234"

HERON = Passage("1", "The heron eats fish in the marsh.", "Heron")
OTTER = Passage("2", "Otters eat fish.", "Otter")
STONE = Passage("3", "Granite is a stone.", "")


def ranked(text, *passages):
    return RankedQuestion(Question(text, text), tuple(map(Candidate, passages)))


RANKED = [
    ranked("what eats fish in the marsh", STONE, HERON, OTTER),
    ranked("what is granite", OTTER, STONE),
    ranked("nothing was found for this"),
    ranked("do otters eat fish", HERON, STONE, OTTER),
]


def mesh_of(devices=1):
    return partitioning.make_mesh(devices)


def unigrams(**changes):
    teacher = QueryLikelihoodTeacher(mu=10.0, max_passage_tokens=32)
    return Upr(teacher, whole_prompt=None, **changes)


def test_scores_are_those_of_the_unigram_model_by_hand():
    scores = list(unigrams(aggregate="mean").score(RANKED[1:2], mesh_of()))
    # The run's passages are otter otter eat fish (4 words with the title) and granite
    # is a stone (4). Of the question's "what is granite", two words are known, each
    # once among 8.
    background = 10 / 8
    otter = np.log(background / 14)
    stone = np.log((1 + background) / 14)
    np.testing.assert_allclose(scores[0], [otter, stone], rtol=1e-5)
    sums = list(unigrams().score(RANKED[1:2], mesh_of()))
    np.testing.assert_allclose(sums[0], 2 * scores[0], rtol=1e-6)


def test_each_question_gets_as_many_scores_as_it_has_candidates():
    scores = list(unigrams().score(RANKED, mesh_of()))
    assert [len(row) for row in scores] == [3, 2, 0, 3]
    assert [int(np.argmax(row)) for row in scores if len(row)] == [1, 1, 2]
    assert list(unigrams().score([], mesh_of())) == []
    assert [len(row) for row in unigrams().score(RANKED[2:3], mesh_of())] == [0]


@pytest.mark.parametrize("pairs_a_call", [1, 3, 4, 1000])
def test_how_many_pairs_go_in_a_call_changes_nothing(pairs_a_call, mesh):
    want = list(unigrams().score(RANKED, mesh_of()))
    got = list(unigrams(pairs_a_call=pairs_a_call).score(RANKED, mesh))
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    asked = []
    build = upr.cached_scores.build_score_pairs

    def counted(*arguments, **options):
        score_pairs = build(*arguments, **options)

        def score(questions, rows):
            asked.extend(zip(questions.tolist(), rows.tolist(), strict=True))
            return score_pairs(questions, rows)

        return score

    monkeypatch.setattr(upr.cached_scores, "build_score_pairs", counted)
    method = unigrams(cache_dir=tmp_path / "scores", pairs_a_call=3)
    want = list(unigrams().score(RANKED, mesh_of()))
    asked.clear()
    started = method.score(RANKED, mesh_of())
    next(started), next(started)
    started.close()  # Killed after two questions.
    assert len(asked) == 5
    got = list(method.score(RANKED, mesh_of()))
    assert len(asked) == len(set(asked)) == 8
    for left, right in zip(got, want, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)
    assert list(map(len, method.score(RANKED, mesh_of()))) == [3, 2, 0, 3]
    assert len(asked) == 8


def test_scores_of_another_run_are_not_taken_for_this_one_s(tmp_path):
    method = unigrams(cache_dir=tmp_path)
    list(method.score(RANKED, mesh_of()))
    with pytest.raises(ConfigError, match="another questions"):
        list(method.score([*RANKED, ranked("why", OTTER)], mesh_of()))
    with pytest.raises(ConfigError, match="another .*passages"):
        list(method.score([ranked("what is granite", OTTER)], mesh_of()))


@functools.cache
def vocabulary():
    """The bytes of a SentencePiece model as T5's."""
    out = io.BytesIO()
    lines = ["Passage: Please write a question based on this passage."]
    lines += ["Question: what does the heron eat in the marsh?", "otters eat fish"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3),
        model_writer=out,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


def t5_teacher(tmp_path, **changes):
    path = tmp_path / "spiece.model"
    path.write_bytes(vocabulary())
    config, _ = t5x.open_t5(T5X, dtype="float32")
    return t5_scoring.T5Teacher(
        config,
        checkpoint_path=str(T5X),
        vocabulary=str(path),
        param_dtype="float32",
        chunk_size=4,
        length_buckets=(),
        question_buckets=(),
        max_question_tokens=40,
        **changes,
    )


@pytest.mark.parametrize("form", ["upr", "art"])
def test_a_t5_scores_what_the_prompt_makes_of_passages(form, tmp_path):
    # So short that UPR's prompt loses its instruction and ART's passage its end.
    teacher = t5_teacher(tmp_path, max_passage_tokens=48)
    prompt = WholePrompt() if form == "upr" else None
    method = Upr(teacher, whole_prompt=prompt, add_question_mark=True)
    scores = list(method.score(RANKED[:1], mesh_of()))
    tokenizer = teacher.make_tokenizer(())
    passages = [one.passage for one in RANKED[0].candidates]
    if form == "upr":
        ids = tokenizer.encode_batch([WholePrompt().text(one) for one in passages])
        assert max(map(len, ids)) > 48
        rows = np.zeros((3, 48), np.int32)
        for place, one in enumerate(ids):
            kept = [*one[:47], tokenizer.eos_id]
            rows[place, : len(kept)] = kept
    else:
        table = make_token_table(
            tokenizer.encode_batch([one.title for one in passages]),
            tokenizer.encode_batch([one.text for one in passages]),
        )
        rows = layout_rows(teacher.passage_layout(tokenizer), table, np.arange(3))
    (target,) = tokenizer.encode_batch(["Question: what eats fish in the marsh?"])
    target = np.array([[*target, tokenizer.eos_id]], np.int32)
    params = teacher.load(None, None, mesh_of())
    want = t5_scoring.score(params, teacher.config, rows[None], target, chunk_size=3)
    want = np.asarray(want)[0] * target.size
    np.testing.assert_allclose(scores[0], want, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "add", "want"),
    [
        ("who is it", False, "who is it"),
        ("who is it", True, "who is it?"),
        ("who is it?", True, "who is it?"),
        ("[CLS] who is it [SEP]", False, "who is it"),
        (" what is [SEP] in BERT ", True, "what is [SEP] in BERT?"),
    ],
)
def test_questions_are_said_as_upr_says_them(text, add, want):
    assert upr.question_text(text, add) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [({"aggregate": "max"}, "aggregate is 'max'"), ({"pairs_a_call": 0}, "is 0")],
)
def test_settings_that_do_not_exist_are_an_error(change, message):
    with pytest.raises(ConfigError, match=message):
        unigrams(**change)
