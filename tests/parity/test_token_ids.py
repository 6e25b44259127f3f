"""Token ids of every passage of a corpus, against transformers' tokenisers.

ART_JAX_PARITY_PASSAGES      the corpus, as `data.passages` reads it
ART_JAX_PARITY_BERT_VOCAB    vocab.txt of bert-base-uncased
ART_JAX_PARITY_T5_SPIECE     spiece.model of T5, its tokenizer.json beside it,
                             under this name or as <any>tokenizer.json
"""

import itertools
import os
import pathlib
import shutil

import pytest

transformers = pytest.importorskip(
    "transformers", reason="pip install 'art-jax[parity]'"
)

from art_jax.checkpoints import hf_tokenizers  # noqa: E402
from art_jax.data import passages, tokenizers  # noqa: E402

BATCH = 512


def path_of(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return pathlib.Path(value)


def batches():
    corpus = passages.read_passages(path_of("ART_JAX_PARITY_PASSAGES"))
    while batch := list(itertools.islice(corpus, BATCH)):
        yield batch


def whole_text(passage):
    return f"{passage.title} [SEP] {passage.text}" if passage.title else passage.text


def whole_ids(tokenizer, batch):
    """Our ids of `[CLS] title [SEP] text [SEP]`."""
    titles = tokenizer.encode_batch([passage.title for passage in batch])
    texts = tokenizer.encode_batch([passage.text for passage in batch])
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    return [
        [cls, *title, sep, *text, sep] if passage.title else [cls, *text, sep]
        for passage, title, text in zip(batch, titles, texts, strict=True)
    ]


@pytest.fixture(scope="module")
def bert():
    return tokenizers.load_wordpiece(path_of("ART_JAX_PARITY_BERT_VOCAB"))


def theirs_from_vocabulary(folder, bert):
    vocabulary = path_of("ART_JAX_PARITY_BERT_VOCAB")
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    return transformers.BertTokenizer.from_pretrained(folder)


def theirs_from_export(folder, bert):
    hf_tokenizers.save_tokenizer(folder, bert, 512)
    return transformers.AutoTokenizer.from_pretrained(folder)


def compare(batch, ours, theirs):
    """The passages whose ids differ."""
    return [
        (passage, one, other)
        for passage, one, other in zip(batch, ours, theirs, strict=True)
        if one != other
    ]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", [theirs_from_vocabulary, theirs_from_export])
def test_bert_ids_are_theirs(tmp_path, record, bert, make):
    theirs = make(tmp_path, bert)
    assert theirs.is_fast
    num_passages, differing = 0, []
    for batch in batches():
        num_passages += len(batch)
        ids = theirs([whole_text(passage) for passage in batch]).input_ids
        differing += compare(batch, whole_ids(bert, batch), ids)
    what = make.__name__.removeprefix("theirs_").replace("_", " ")
    record(
        f"BERT's ids {what}: passages that differ",
        len(differing),
        0,
        f"of {num_passages}",
    )


@pytest.mark.timeout(3600)
def test_ids_of_the_python_tokeniser(record, bert):
    """It lower-cases words whole, so that a final Greek sigma stays a final one.

    The fast one, which transformers 5 uses, lower-cases letter by letter, as we do.
    """
    legacy = pytest.importorskip(
        "transformers.models.bert.tokenization_bert_legacy",
        reason="this version of transformers has none",
    )
    theirs = legacy.BertTokenizerLegacy(str(path_of("ART_JAX_PARITY_BERT_VOCAB")))
    num_passages, differing = 0, []
    for batch in batches():
        num_passages += len(batch)
        ids = [theirs(whole_text(passage)).input_ids for passage in batch]
        differing += compare(batch, whole_ids(bert, batch), ids)
    unexplained = [
        passage for passage, *_ in differing if "Σ" not in whole_text(passage)
    ]
    record(
        "BERT's ids by the Python tokeniser: differ, without a capital sigma",
        len(unexplained),
        0,
        f"of {num_passages}; with one: {len(differing) - len(unexplained)}",
    )


@pytest.mark.timeout(3600)
def test_t5_ids_are_theirs(tmp_path, record):
    """Where they differ, both are best: two splits of one score, such as 4 44 and 44 4.

    Ours are those of Google's sentencepiece, as T5X has them; transformers' fast
    tokeniser breaks such ties the other way.
    """
    model = path_of("ART_JAX_PARITY_T5_SPIECE")
    ours = tokenizers.load_sentencepiece(model)
    (whole,) = model.parent.glob("*tokenizer.json")
    shutil.copyfile(model, tmp_path / "spiece.model")
    shutil.copyfile(whole, tmp_path / "tokenizer.json")
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    num_passages, differing = 0, []
    for batch in batches():
        num_passages += len(batch)
        for field in ("title", "text"):
            texts = [getattr(passage, field) for passage in batch]
            ids = theirs(texts, add_special_tokens=False).input_ids
            differing += compare(batch, ours.encode_batch(texts), ids)

    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=ours.model)

    def score(ids):
        return sum(processor.get_score(i) for i in ids)

    unequal = [
        passage
        for passage, one, other in differing
        if abs(score(one) - score(other)) > 1e-3
    ]
    record(
        "T5's ids: passages that differ in more than a tie",
        len(unequal),
        0,
        f"of {num_passages}; ties: {len(differing) - len(unequal)}",
    )
