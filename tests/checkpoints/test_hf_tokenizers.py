import json
import pathlib

import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from art_jax.checkpoints import hf_tokenizers
from art_jax.data import tokenizers
from art_jax.errors import ConfigError, CorruptError, DataError

TEXTS = [
    "Who wrote On the Origin of Species?",
    "Das Café, gegenüber dem Rathaus, öffnet um 9:30.",
    "東京は日本の首都です。 naïve ##ing [unused1] <b>",
]
UNCASED = tokenizers.train_wordpiece(TEXTS * 2, 150, min_count=1)
CASED = tokenizers.train_wordpiece(TEXTS * 2, 150, min_count=1, lowercase=False)
CASES = pytest.mark.parametrize("tokenizer", [UNCASED, CASED], ids=["uncased", "cased"])
SPECIALS = set(tokenizers.WORDPIECE_SPECIALS)


def saved(folder, tokenizer=UNCASED):
    hf_tokenizers.save_tokenizer(folder, tokenizer, 32)
    return folder


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def changed(folder, name, change):
    value = read(folder, name)
    change(value)
    (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def their_ids(folder, *texts):
    """What transformers' fast tokenisers compute: this library, from this file."""
    backend = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return backend.encode(*texts)


@CASES
def test_a_vocabulary_survives_a_folder(tmp_path, tokenizer):
    assert hf_tokenizers.open_tokenizer(saved(tmp_path, tokenizer)) == tokenizer
    # Folders of before tokenizer.json have the words and the settings alone.
    (tmp_path / "tokenizer.json").unlink()
    assert hf_tokenizers.open_tokenizer(tmp_path) == tokenizer
    (tmp_path / "vocab.txt").unlink()
    assert hf_tokenizers.open_tokenizer(tmp_path) is None


@CASES
def test_a_tokenizer_json_alone_says_it_all(tmp_path, tokenizer):
    saved(tmp_path, tokenizer)
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    assert hf_tokenizers.open_tokenizer(tmp_path) == tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, tokenizer in (("uncased", UNCASED), ("cased", CASED)):
        made[name] = tmp_path_factory.mktemp(name)
        saved(made[name], tokenizer)
    return made


@given(
    text=st.text(max_size=30)
    | st.lists(st.sampled_from(" ".join(TEXTS).split() + list("äÉ\x00\n "))).map(
        "".join
    )
)
@settings(max_examples=200, deadline=None)
def test_their_ids_are_ours_between_cls_and_sep(folders, text):
    for name, tokenizer in (("uncased", UNCASED), ("cased", CASED)):
        (ours,) = tokenizer.encode_batch([text])
        theirs = their_ids(folders[name], text).ids
        assert theirs == [tokenizer.cls_id, *ours, tokenizer.sep_id]


def test_a_sep_inside_a_text_is_the_token_to_them(folders):
    theirs = their_ids(folders["uncased"], "who wrote [SEP] the origin").ids
    title, text = UNCASED.encode_batch(["who wrote", "the origin"])
    cls_id, sep_id = UNCASED.cls_id, UNCASED.sep_id
    assert theirs == [cls_id, *title, sep_id, *text, sep_id]
    (ours,) = UNCASED.encode_batch(["who wrote [SEP] the origin"])
    assert sep_id not in ours


def test_a_pair_is_laid_out_as_bert_does(folders):
    pair = their_ids(folders["uncased"], "who wrote", "the origin")
    title, text = UNCASED.encode_batch(["who wrote", "the origin"])
    cls_id, sep_id = UNCASED.cls_id, UNCASED.sep_id
    assert pair.ids == [cls_id, *title, sep_id, *text, sep_id]
    assert pair.type_ids == [0] * (len(title) + 2) + [1] * (len(text) + 1)


@CASES
def test_what_transformers_needs_beside_the_words_is_written(tmp_path, tokenizer):
    saved(tmp_path, tokenizer)
    config = read(tmp_path, "tokenizer_config.json")
    assert config["tokenizer_class"] == "BertTokenizer"
    assert config["do_lower_case"] == tokenizer.lowercase
    assert config["model_max_length"] == 32
    assert config["pad_token"] == "[PAD]"
    special = read(tmp_path, "special_tokens_map.json")
    assert set(special.values()) == SPECIALS
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert tuple(lines[:-1]) == tokenizer.pieces


def test_a_vocabulary_without_a_mask_has_none_there(tmp_path):
    pieces = tuple(piece for piece in UNCASED.pieces if piece != "[MASK]")
    saved(tmp_path, tokenizers.WordPieceTokenizer(pieces))
    assert read(tmp_path, "tokenizer_config.json")["mask_token"] is None
    assert "mask_token" not in read(tmp_path, "special_tokens_map.json")
    backend = hf.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert backend.get_vocab_size() == len(pieces)


def test_words_for_counting_are_not_transformers(tmp_path):
    with pytest.raises(ConfigError, match="no tokeniser of kind 'words'"):
        saved(tmp_path, tokenizers.train_words(TEXTS))


def test_tokenizer_config_comes_before_tokenizer_json(tmp_path):
    saved(tmp_path, CASED)
    changed(
        tmp_path,
        "tokenizer_config.json",
        lambda value: value.update(do_lower_case=True),
    )
    assert hf_tokenizers.open_tokenizer(tmp_path).lowercase
    changed(tmp_path, "tokenizer_config.json", lambda value: value.pop("do_lower_case"))
    assert not hf_tokenizers.open_tokenizer(tmp_path).lowercase


def test_a_vocabulary_alone_is_uncased_as_transformers_has_it(tmp_path):
    saved(tmp_path, CASED)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert hf_tokenizers.open_tokenizer(tmp_path).lowercase


def test_tokens_added_after_the_vocabulary_have_their_ids(tmp_path):
    extra = {"id": len(UNCASED.pieces), "content": "[QUERY]"}
    changed(
        saved(tmp_path), "tokenizer.json", lambda v: v["added_tokens"].append(extra)
    )
    assert hf_tokenizers.open_tokenizer(tmp_path).pieces == (*UNCASED.pieces, "[QUERY]")


def test_the_oldest_files_do_not_name_their_model(tmp_path):
    changed(saved(tmp_path), "tokenizer.json", lambda v: v["model"].pop("type"))
    assert hf_tokenizers.open_tokenizer(tmp_path) == UNCASED


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("normalizer", "type", "Lowercase"),
        ("normalizer", "clean_text", False),
        ("pre_tokenizer", "type", "Whitespace"),
        ("model", "unk_token", "<unk>"),
        ("model", "continuing_subword_prefix", "@@"),
        ("model", "max_input_chars_per_word", 200),
    ],
)
def test_a_tokeniser_that_cuts_otherwise_is_an_error(tmp_path, part, key, value):
    changed(saved(tmp_path), "tokenizer.json", lambda v: v[part].update({key: value}))
    with pytest.raises(ConfigError, match=rf"tokenizer\.json: {key} of its {part}"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_a_tokeniser_without_a_part_is_an_error(tmp_path, part):
    changed(saved(tmp_path), "tokenizer.json", lambda v: v.update({part: None}))
    with pytest.raises(ConfigError, match=f"of its {part} is None"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("tokenizer_config.json", "strip_accents", False),
        ("tokenizer_config.json", "tokenize_chinese_chars", False),
        ("tokenizer_config.json", "do_basic_tokenize", False),
    ],
)
def test_settings_that_are_not_computed_are_an_error(tmp_path, name, key, value):
    changed(saved(tmp_path), name, lambda v: v.update({key: value}))
    with pytest.raises(ConfigError, match=f"{key} (is )?False"):
        hf_tokenizers.open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=f"{key} (is )?False"):
        hf_tokenizers.open_tokenizer(tmp_path)


def test_accents_may_be_stripped_in_so_many_words(tmp_path):
    changed(
        saved(tmp_path), "tokenizer_config.json", lambda v: v.update(strip_accents=True)
    )
    assert hf_tokenizers.open_tokenizer(tmp_path) == UNCASED


def test_a_case_that_is_none_is_damage(tmp_path):
    changed(
        saved(tmp_path), "tokenizer_config.json", lambda v: v.update(do_lower_case="no")
    )
    with pytest.raises(CorruptError, match="do_lower_case is 'no'"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["RobertaTokenizer", "BertJapaneseTokenizer", "MPNetTokenizer", 3]
)
def test_another_class_of_tokeniser_is_an_error(tmp_path, name):
    changed(
        saved(tmp_path),
        "tokenizer_config.json",
        lambda v: v.update(tokenizer_class=name),
    )
    with pytest.raises(ConfigError, match=f"tokenizer_class is {name!r}"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("BertTokenizer", "BertTokenizerFast", "DPRContextEncoderTokenizerFast"),
        *("PreTrainedTokenizerFast", "TokenizersBackend", None),
    ],
)
def test_classes_that_hold_a_wordpiece_are_read(tmp_path, name):
    changed(
        saved(tmp_path),
        "tokenizer_config.json",
        lambda v: v.update(tokenizer_class=name),
    )
    assert hf_tokenizers.open_tokenizer(tmp_path) == UNCASED


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["model"].update(vocab=None),
        lambda v: v["model"].update(vocab=["[PAD]"]),
        lambda v: v["model"]["vocab"].update({"who": 0}),
        lambda v: v["model"]["vocab"].update({"who": 10**12}),
        lambda v: v["model"]["vocab"].update({"who": -1}),
        lambda v: v["model"]["vocab"].update({"who": "7"}),
        lambda v: v["model"]["vocab"].update({"who": 7.5}),
        lambda v: v.update(added_tokens=[{"content": "a"}]),
        lambda v: v.update(added_tokens=[3]),
        lambda v: v.update(added_tokens=3),
        lambda v: v.update(added_tokens=[{"content": ["a"], "id": 3}]),
    ],
)
def test_a_vocabulary_with_wrong_ids_is_damage(tmp_path, change):
    changed(saved(tmp_path), "tokenizer.json", change)
    with pytest.raises(CorruptError, match=r"tokenizer\.json: its vocabulary"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize("piece", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_of_no_bert_is_an_error(tmp_path, piece):
    def rename(value):
        vocab = value["model"]["vocab"]
        vocab["<other>"] = vocab.pop(piece)
        value["added_tokens"] = []

    changed(saved(tmp_path), "tokenizer.json", rename)
    with pytest.raises(ConfigError, match="not the vocabulary of a BERT"):
        hf_tokenizers.open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n")
    with pytest.raises(DataError, match=r"vocab\.txt"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_no_json_is_damage(tmp_path, name):
    (saved(tmp_path) / name).write_text("{")
    with pytest.raises(CorruptError, match=name.replace(".", r"\.")):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "model", [{"type": "BPE"}, {"type": "Unigram"}, {"type": 3}, {}, None, "WordPiece"]
)
def test_a_model_that_is_not_read_here_is_an_error(tmp_path, model):
    changed(saved(tmp_path), "tokenizer.json", lambda v: v.update(model=model))
    with pytest.raises(ConfigError, match=r"tokenizer\.json .* spiece\.model"):
        hf_tokenizers.open_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    stem = tmp_path_factory.mktemp("t5") / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(stem),
        vocab_size=80,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        minloglevel=2,
    )
    return tokenizers.load_sentencepiece(f"{stem}.model")


def test_t5s_tokeniser_survives_a_folder(tmp_path, sentencepiece_tokenizer):
    saved(tmp_path, sentencepiece_tokenizer)
    assert hf_tokenizers.open_tokenizer(tmp_path) == sentencepiece_tokenizer
    config = read(tmp_path, "tokenizer_config.json")
    assert config["tokenizer_class"] == "T5Tokenizer"
    assert (config["extra_ids"], config["eos_token"]) == (100, "</s>")
    assert read(tmp_path, "special_tokens_map.json")["pad_token"] == "<pad>"
    # Beside what transformers makes of it, spiece.model is what is read.
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    assert hf_tokenizers.open_tokenizer(tmp_path) == sentencepiece_tokenizer


def test_a_spiece_model_that_is_none_is_an_error(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"no model")
    with pytest.raises(DataError, match=r"spiece\.model"):
        hf_tokenizers.open_tokenizer(tmp_path)


def test_a_folder_without_a_tokeniser_has_none(tmp_path):
    assert hf_tokenizers.open_tokenizer(pathlib.Path(tmp_path)) is None
