"""Tokenisers: ids by hand, nothing special in a text, one vocabulary every time."""

import collections
import io
import itertools
import json
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from art_jax.data import tokenizers
from art_jax.errors import ConfigError, CorruptError, DataError

VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "runn"),
    *("##ing", ",", "我", "cafe", "[", "]", "sep", "cl", "##s", "<", "/", "s", ">"),
    *("##a", "Café"),
]
SPECIAL_TEXTS = ["[SEP]", "[CLS]", "[PAD]", "[MASK]", "</s>", "<extra_id_0>", "<pad>"]
TEXTS = [
    "Dense retrieval finds passages by meaning; sparse retrieval finds them by words.",
    "The teacher scores passages: how likely is the question, given the passage?",
    "The retriever learns to agree with the teacher, from questions alone.",
    "def getHTTPResponse_v2(url): return urlopen(url)  # café",
]


@pytest.fixture
def wordpiece():
    return tokenizers.WordPieceTokenizer(tuple(VOCAB))


@pytest.fixture(scope="module")
def sentencepiece_model():
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=60,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(params=["wordpiece", "sentencepiece", "words"])
def tokenizer(request, sentencepiece_model):
    if request.param == "wordpiece":
        return tokenizers.train_wordpiece(TEXTS, 120)
    if request.param == "words":
        return tokenizers.train_words(TEXTS)
    return tokenizers.SentencePieceTokenizer(sentencepiece_model)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("UnAffable,running", ["un", "##aff", "##able", ",", "runn", "##ing"]),
        ("Café", ["cafe"]),
        ("Cafe\u0301", ["cafe"]),
        ("un我un", ["un", "我", "un"]),
        ("un zzz", ["un", "[UNK]"]),
        ("unzzz", ["[UNK]"]),
        ("[SEP]", ["[", "sep", "]"]),
        ("un [CLS] un", ["un", "[", "cl", "##s", "]", "un"]),
        ("</s>", ["<", "/", "s", ">"]),
        ("un" + "a" * 98, ["un"] + ["##a"] * 98),
        ("un" + "a" * 99, ["[UNK]"]),  # BERT gives up on words over 100 characters
        ("", []),
        (" \t\n", []),
        ("\u200b\0\ufeff", []),
        ("🙂", ["[UNK]"]),
    ],
)
def test_wordpiece_by_hand(wordpiece, text, want):
    (ids,) = wordpiece.encode_batch([text])
    assert [VOCAB[number] for number in ids] == want


def test_a_cased_vocabulary_keeps_case_and_accents(wordpiece):
    cased = tokenizers.WordPieceTokenizer(tuple(VOCAB), lowercase=False)
    ids = cased.encode_batch(["Café cafe CAFE [SEP]"])[0]
    assert [VOCAB[number] for number in ids] == [
        "Café",
        "cafe",
        "[UNK]",
        "[",
        "[UNK]",
        "]",
    ]
    assert cased.digest != wordpiece.digest


def test_special_ids_are_those_of_the_vocabulary(wordpiece):
    ids = wordpiece.pad_id, wordpiece.unk_id, wordpiece.cls_id, wordpiece.sep_id
    assert ids == (0, 1, 2, 3)
    assert wordpiece.vocab_size == len(VOCAB)


@hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=40,
)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.sampled_from([*SPECIAL_TEXTS, "##", " ", "passage"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        )
    ).map("".join)
)
def test_no_text_gives_a_special_id(tokenizer, text):
    special = {0, tokenizer.pad_id}
    if tokenizer.kind == "wordpiece":
        special |= {tokenizer.cls_id, tokenizer.sep_id, 4}
    if tokenizer.kind == "sentencepiece":
        special |= {tokenizer.eos_id}
    (ids,) = tokenizer.encode_batch([text])
    assert not special.intersection(ids)
    assert all(number < tokenizer.vocab_size for number in ids)


@pytest.mark.parametrize("text", SPECIAL_TEXTS)
def test_text_that_looks_special_is_kept_as_text(tokenizer, text):
    with_it, without = tokenizer.encode_batch([f"passages {text}", "passages"])
    assert with_it[: len(without)] == without
    assert len(with_it) > len(without)


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    assert tokenizer.encode_batch([]) == []
    one_by_one = [tokenizer.encode_batch([text])[0] for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == one_by_one


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizers.save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = tokenizers.load_tokenizer(tmp_path / "saved")
    assert loaded == tokenizer
    assert loaded.digest == tokenizer.digest
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert json.loads((tmp_path / "saved/tokenizer.json").read_text())["kind"] == (
        tokenizer.kind
    )


def test_a_changed_file_is_found_when_it_is_loaded(tokenizer, tmp_path):
    tokenizers.save_tokenizer(tokenizer, tmp_path)
    (vocabulary,) = (p for p in tmp_path.iterdir() if p.name != "tokenizer.json")
    vocabulary.write_bytes(vocabulary.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptError, match="have changed|can be read"):
        tokenizers.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "config", ["", "{}", "[]", '{"format": "art_jax.tokenizer", "kind": "pickle"}']
)
def test_what_is_no_tokenizer_is_refused(tmp_path, config):
    with pytest.raises(CorruptError, match="no tokeniser of art_jax"):
        tokenizers.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(config)
    with pytest.raises(CorruptError, match="no tokeniser of art_jax"):
        tokenizers.load_tokenizer(tmp_path)


def test_digests_differ_by_kind_and_vocabulary(wordpiece):
    others = [
        tokenizers.WordPieceTokenizer(tuple(VOCAB[:-1])),
        tokenizers.WordPieceTokenizer(tuple(VOCAB), lowercase=False),
        tokenizers.WordTokenizer(tuple(VOCAB)),
    ]
    assert len({wordpiece.digest, *(other.digest for other in others)}) == 4
    # printf '["wordpiece", {"lowercase": true}]\0[PAD]\n' | sha256sum
    assert tokenizers.WordPieceTokenizer(("[PAD]",)).digest == (
        "54f9b22a5257451485ccc8000e361b4e0183f6b5b45713fda32a6c8d1e74f409"
    )


# vocab.txt


def test_a_vocabulary_file_is_read_line_by_line(tmp_path):
    pieces = [*VOCAB[:5], "a\u2028b", "\x85", "c"]
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(pieces).encode())
    assert tokenizers.load_wordpiece(path).pieces == tuple(pieces)
    path.write_bytes("\n".join(pieces).encode() + b"\n")
    assert tokenizers.load_wordpiece(path).pieces == tuple(pieces)


@pytest.mark.parametrize(
    ("pieces", "line", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]"], None, r"'\[SEP\]' is missing"),
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]"], 1, r"must be '\[PAD\]'"),
        ([*VOCAB[:4], "a", "b", "a"], 7, "'a' is there twice, first on line 5"),
        (["\udce9"], None, "not UTF-8"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, pieces, line, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\n".join(pieces).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message) as caught:
        tokenizers.load_wordpiece(path)
    assert caught.value.line == line


def test_missing_files_are_named(tmp_path):
    for load in (tokenizers.load_wordpiece, tokenizers.load_sentencepiece):
        with pytest.raises(DataError, match="gone: cannot be read: No such file"):
            load(tmp_path / "gone")


# Training WordPiece


def test_pairs_are_joined_by_hand():
    # hug 5, pug 3, bun 2. Pairs: u+g 8 (##u ##g), h+u 5, p+u 3, b+u and u+n 2.
    texts = ["hug " * 5, "pug Pug PUG", "bun bun"]
    learned = tokenizers.train_wordpiece(texts, 100).pieces[5 + 2 * 6 :]
    # After ##ug (8): h+##ug 5, p+##ug 3, then b+##u before ##u+##n, by lower ids.
    assert learned == ("##ug", "hug", "pug", "bu", "bun")


def slow_pairs(words, pieces, vocab_size, min_count):
    """Counts all pairs anew for every join."""
    pieces = list(pieces)
    spelled = {word: [word[0]] + ["##" + c for c in word[1:]] for word, _ in words}
    while len(pieces) < vocab_size:
        counts = collections.Counter()
        for word, count in words:
            for pair in itertools.pairwise(spelled[word]):
                counts[pair] += count
        if not counts:
            break
        key = {pair: tuple(map(pieces.index, pair)) for pair in counts}
        best = min(counts, key=lambda pair: (-counts[pair], key[pair]))
        if counts[best] < min_count:
            break
        joined = best[0] + best[1][2:]
        assert joined not in pieces
        pieces.append(joined)
        for word, spelling in spelled.items():
            new = []
            while spelling:
                taken = 2 if tuple(spelling[:2]) == best else 1
                new.append(joined if taken == 2 else spelling[0])
                spelling = spelling[taken:]
            spelled[word] = new
    return pieces


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9)),
    st.integers(6, 30),
    st.integers(1, 3),
)
def test_joining_pairs_equals_counting_them_anew(counts, vocab_size, min_count):
    pieces = ["a", "b", "c", "##a", "##b", "##c"]
    words = sorted(counts.items())
    assert tokenizers._join_pairs(words, pieces, vocab_size, min_count) == slow_pairs(
        words, pieces, vocab_size, min_count
    )


def test_the_same_texts_give_the_same_vocabulary_in_any_order_and_process():
    texts = TEXTS + [text.upper() for text in TEXTS[:2]]
    here = tokenizers.train_wordpiece(texts, 150)
    assert tokenizers.train_wordpiece(reversed(texts), 150) == here
    code = (
        "from art_jax.data import tokenizers\n"
        f"print(tokenizers.train_wordpiece({texts!r}, 150).digest)\n"
        f"print(tokenizers.train_words({texts!r}).digest)\n"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        want = [here.digest, tokenizers.train_words(texts).digest]
        assert done.stdout.split() == want


def test_training_and_encoding_cut_words_alike():
    text = "a$b c’d e+f (g) – h_i x²\x1fy café 我 j\tk\u00a0l U.S. n’t“quote”"
    trained = tokenizers.train_wordpiece([text] * 3, 500)
    (ids,) = trained.encode_batch([text])
    words = [trained.pieces[number] for number in ids]
    # Each word of a text seen this often is one piece, so no "##" is left.
    assert not [word for word in words if word.startswith("##")]
    assert trained.unk_id not in ids


def test_control_characters_are_no_letters():
    trained = tokenizers.train_wordpiece(["a\x07b a\x07b"], 30)
    assert trained.pieces[5:] == ("a", "b", "##a", "##b", "ab")


def test_rare_characters_and_small_vocabularies():
    texts = ["zz zy " * 9, "ж", "a"]
    trained = tokenizers.train_wordpiece(texts, 30, max_characters=2)
    assert trained.pieces[5:9] == ("y", "z", "##y", "##z")
    assert trained.encode_batch(["ж"]) == [[trained.unk_id]]
    with pytest.raises(ConfigError, match="4 characters need 13"):
        tokenizers.train_wordpiece(texts, 12)
    # Nothing is seen twice, so nothing but the alphabet is learned.
    assert tokenizers.train_wordpiece(["ab cd"], 30).vocab_size == 5 + 2 * 4


# SentencePiece


def test_sentencepiece_ids(sentencepiece_model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model)
    loaded = tokenizers.load_sentencepiece(tmp_path / "spiece.model")
    assert (loaded.pad_id, loaded.eos_id, loaded.vocab_size) == (0, 1, 60)
    assert loaded.encode_batch([""]) == [[]]
    # No end of text is added: that is the layout's.
    assert loaded.eos_id not in loaded.encode_batch([TEXTS[0]])[0]


def test_sentencepiece_ids_are_read_back(sentencepiece_model):
    tokenizer = tokenizers.SentencePieceTokenizer(sentencepiece_model)
    rows = tokenizer.encode_batch(TEXTS)
    # A model may say its end, padding, and ids behind the vocabulary's.
    said = [[*ids, tokenizer.eos_id, 0, 99_999] for ids in rows]
    normal = [" ".join(text.split()) for text in TEXTS]
    assert tokenizer.decode_batch(said) == tokenizer.decode_batch(rows) == normal
    assert tokenizer.decode_batch([[]]) == [""]


def test_what_is_no_sentencepiece_model_is_refused(tmp_path):
    import sentencepiece

    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        tokenizers.load_sentencepiece(tmp_path / "bad.model")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, minloglevel=2
    )
    (tmp_path / "unpadded.model").write_bytes(model.getvalue())
    with pytest.raises(DataError, match="padding and end-of-text ids are"):
        tokenizers.load_sentencepiece(tmp_path / "unpadded.model")


# Words


def test_words_by_hand():
    tokenizer = tokenizers.train_words(["getHTTPResponse_v2", "responses get Getting"])
    # get 3, respons 2, then those seen once, alphabetically.
    assert tokenizer.words == ("[PAD]", "[UNK]", "get", "respons", "http", "v2")
    ids = tokenizer.encode_batch(["HTTP_response: [PAD] unseen", "  ", "responding"])
    assert ids == [[4, 3, 1, 1], [], [1]]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("camelCase", ["camel", "case"]),
        ("HTMLParser", ["html", "parser"]),
        ("jax.numpy.float32", ["jax", "numpi", "float32"]),
        ("__init__", ["init"]),
        ("v2Beta", ["v2", "beta"]),
        ("U.S. 3.5%", ["u", "s", "3", "5"]),
        ("naïve Cafe\u0301", ["naïv", "café"]),
        ("ÉcoleÉlite", ["école", "élite"]),
        ("日本語", ["日本語"]),
    ],
)
def test_words_are_split_and_stemmed(text, want):
    tokenizer = tokenizers.train_words([text])
    (ids,) = tokenizer.encode_batch([text])
    assert [tokenizer.words[number] for number in ids] == want


def test_only_the_most_frequent_words_are_kept():
    texts = ["b b b c c a a d"]
    assert tokenizers.train_words(texts, 2).words[2:] == ("b", "a")
    assert tokenizers.train_words(texts, min_count=2).words[2:] == ("b", "a", "c")


def test_forgetting_known_words_changes_nothing(monkeypatch):
    tokenizer = tokenizers.train_words(TEXTS)
    want = tokenizer.encode_batch(TEXTS)
    monkeypatch.setattr(tokenizers, "_MAX_CACHED_WORDS", 1)
    assert [tokenizer.encode_batch([text])[0] for text in TEXTS] == want


def test_single_tokens_of_words_are_found_or_the_word_is_named():
    tokenizer = tokenizers.WordPieceTokenizer(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "true", "no")
    )
    assert tokenizers.find_single_tokens(tokenizer, ("no", "true")) == (5, 4)
    for word, pieces in (("no true", 2), ("", 0)):
        with pytest.raises(ConfigError, match=f"'{word}' into {pieces} pieces"):
            tokenizers.find_single_tokens(tokenizer, ("no", word))
