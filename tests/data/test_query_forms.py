"""How questions of a task are read: markers, suffixes, single pieces, windows."""

import numpy as np
import pytest

from art_jax.data import query_forms
from art_jax.data.mention_windows import window_draw
from art_jax.data.query_forms import QueryForm
from art_jax.data.questions import Question
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError

UNUSED = tuple(f"[unused{number}]" for number in range(6))
PIECES = ("[PAD]", *UNUSED, "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("who", "wrote", "it", "?", "[", "]", "sep", "start", "_", "ent", "end")
TOKENIZER = WordPieceTokenizer(PIECES + WORDS)
SEP, WHO, WROTE, IT, MARK = (
    TOKENIZER.pieces.index(piece) for piece in ("[SEP]", "who", "wrote", "it", "?")
)


def encode(text, max_tokens=32, question_id="q", **settings):
    form = QueryForm(**settings)
    (ids,) = query_forms.encode_queries(
        [Question(question_id, text)],
        form,
        tokenizer=TOKENIZER,
        special_ids=query_forms.find_special_ids([form], TOKENIZER),
        max_tokens=max_tokens,
    )
    return ids


def test_a_plain_form_is_the_tokenisers():
    assert encode("who wrote it") == [WHO, WROTE, IT]
    assert encode("it [SEP]") == TOKENIZER.encode_batch(["it [SEP]"])[0]
    assert len(encode("it [SEP]")) == 4


def test_markers_stand_on_unused_rows_in_front():
    # [START_ENT] [END_ENT] [Q] [R] [F] [D] are [unused0] to [unused5], here ids 1 to 6.
    for place, marker in enumerate(query_forms.MARKERS):
        assert encode("who", marker=marker) == [1 + place, WHO]
    assert encode("who", marker="[unused4]") == [5, WHO]


def test_a_suffix_is_added_once():
    assert encode("who wrote it", suffix="?") == [WHO, WROTE, IT, MARK]
    assert encode("who wrote it?", suffix="?") == [WHO, WROTE, IT, MARK]
    assert query_forms.query_text("who’s", "") == "who's"


def test_special_texts_are_one_piece_wherever_they_stand():
    assert encode("who [SEP] wrote", special=["[SEP]"]) == [WHO, SEP, WROTE]
    text = "[START_ENT] it [END_ENT][END_ENT]who"
    special = ("[START_ENT]", "[END_ENT]")
    assert encode(text, special=special) == [1, IT, 2, 2, WHO]


def test_many_questions_are_as_one_by_one():
    texts = ["who [SEP] it", "", "[SEP]", "wrote"]
    form = QueryForm(special=("[SEP]",), marker="[Q]")
    ids = query_forms.find_special_ids([form], TOKENIZER)
    many = query_forms.encode_queries(
        [Question(str(n), text) for n, text in enumerate(texts)],
        form,
        tokenizer=TOKENIZER,
        special_ids=ids,
        max_tokens=9,
    )
    assert many == [encode(t, special=("[SEP]",), marker="[Q]") for t in texts]


@pytest.mark.parametrize("special", [(), ("[START_ENT]", "[END_ENT]")])
def test_of_a_long_document_the_part_with_the_mention_is_read(special):
    text = "who " * 100 + "[START_ENT] it [END_ENT]" + " wrote" * 9
    got = encode(text, 17, "q7", keep_mention=True, special=special, marker="[R]")
    start = [1] if special else TOKENIZER.encode_batch(["[START_ENT]"])[0]
    # A window of 16, since the marker takes one: 8 before, and up to 2 more or less.
    before = 8 + int((window_draw("q7") - 0.5) * 8 / 2)
    assert got[: 1 + before + len(start)] == [4] + [WHO] * before + start
    # One whose mention is read anyway stays as it is.
    assert encode("who [START_ENT] it", 17, keep_mention=True, special=special)[0] == (
        WHO
    )


def test_rows_that_a_vocabulary_lacks():
    bare = WordPieceTokenizer(PIECES[:1] + PIECES[-4:] + WORDS)
    form = QueryForm(marker="[F]")
    with pytest.raises(ConfigError, match=r"'\[F\]' has the row of '\[unused4\]'"):
        query_forms.find_special_ids([form], bare)
    grown = query_forms.with_unused_pieces(bare, [form])
    assert grown.pieces == bare.pieces + UNUSED
    ids = query_forms.find_special_ids([form, QueryForm(special=["[SEP]"])], grown)
    assert ids == {"[F]": bare.vocab_size + 4, "[SEP]": 3}
    for unmarked in (QueryForm(suffix="?"), QueryForm(special=["[SEP]"])):
        assert query_forms.with_unused_pieces(bare, [unmarked]) is bare
    with pytest.raises(ConfigError, match=r"'\[X\]' is neither a piece"):
        query_forms.find_special_ids([QueryForm(marker="[X]")], grown)
    # Rows are added behind all others: ids of before stay.
    np.testing.assert_array_equal(
        bare.encode_batch(["who wrote it"]), grown.encode_batch(["who wrote it"])
    )


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("kilt_nq", "nq"),
        ("multikilt_nq_1024", "nq"),
        ("kilt_trex_100k", "trex"),
        ("nq", "nq"),
        ("kilt_zeroshot_re", "zeroshot_re"),
        ("nq_open", None),
        ("kilt_wned", None),
    ],
)
def test_tasks_are_told_by_the_names_of_seqio(name, want):
    forms = dict.fromkeys(["re", "nq", "trex", "zeroshot_re"], QueryForm())
    assert query_forms.find_task(name, forms) == want
