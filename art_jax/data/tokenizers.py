"""Tokenisers: text to ids, without special tokens, and nothing in a text is special.

Three kinds share one interface (`Tokenizer`): BERT's WordPiece and T5's SentencePiece
feed models; plain stemmed words feed the query-likelihood teacher. Special ids are
added by `layouts`, so the text "[SEP]" or "</s>" in a passage is only ever text.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from art_jax.errors import ConfigError, CorruptError, DataError

if TYPE_CHECKING:
    # Imported where they are used: a training step, which needs no text, must run on a
    # machine that has JAX and Flax alone.
    import regex
    import tokenizers as hf_tokenizers

WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD_SPECIALS = ("[PAD]", "[UNK]")

_CONFIG_FILE = "tokenizer.json"
_CONFIG_FORMAT = "art_jax.tokenizer"
_CONTINUING = "##"
# BERT's word boundaries: white space, and every punctuation mark on its own, with the
# ASCII symbols that Unicode does not call punctuation.
_BERT_WORD = r"[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+")  # what _WORD finds in ASCII, faster
_WORD = r"[\p{L}\p{N}\p{M}]+"
_HUMP = r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})"
_MAX_CACHED_WORDS = 1_000_000


class Tokenizer(Protocol):
    """What every tokeniser offers: frozen, comparable, the same ids everywhere.

    kind: "wordpiece", "sentencepiece" or "words".
    """

    kind: ClassVar[str]

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills up rows."""
        ...

    @property
    def digest(self) -> str:
        """The SHA-256 of all that decides the ids."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, no special tokens added."""
        ...


@dataclasses.dataclass(frozen=True)
class WordPieceTokenizer:
    """BERT's tokeniser: greedy longest pieces of lower-cased words.

    pieces: the vocabulary by id, "[PAD]" first.
    lowercase: lower-case and strip accents, as the uncased models want.
    """

    kind: ClassVar[str] = "wordpiece"
    pieces: tuple[str, ...] = dataclasses.field(repr=False)
    lowercase: bool = True
    pad_id: ClassVar[int] = 0

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        return len(self.pieces)

    @functools.cached_property
    def unk_id(self) -> int:
        """The id of a word that no pieces spell."""
        return self.pieces.index("[UNK]")

    @functools.cached_property
    def cls_id(self) -> int:
        """The id of "[CLS]"."""
        return self.pieces.index("[CLS]")

    @functools.cached_property
    def sep_id(self) -> int:
        """The id of "[SEP]"."""
        return self.pieces.index("[SEP]")

    @property
    def eos_id(self) -> int:
        """The id of the end of a text, "[SEP]", for a T5 with this vocabulary."""
        return self.sep_id

    @functools.cached_property
    def digest(self) -> str:
        """See `Tokenizer`."""
        return _digest(self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    @functools.cached_property
    def _backend(self) -> "hf_tokenizers.Tokenizer":
        import tokenizers as hf_tokenizers

        # No token is registered as special, so none is looked for in a text.
        backend = hf_tokenizers.Tokenizer(
            hf_tokenizers.models.WordPiece(
                {piece: number for number, piece in enumerate(self.pieces)},
                unk_token="[UNK]",
                max_input_chars_per_word=100,
            )
        )
        backend.normalizer = _bert_normalizer(self.lowercase)
        backend.pre_tokenizer = hf_tokenizers.pre_tokenizers.BertPreTokenizer()
        return backend


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """T5's tokeniser, from a serialised SentencePiece model.

    model: the bytes of the `.model` file.
    """

    kind: ClassVar[str] = "sentencepiece"
    model: bytes = dataclasses.field(repr=False)

    @property
    def vocab_size(self) -> int:
        """The number of pieces; a model's embedding may have more rows."""
        return self._processor.get_piece_size()

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return self._processor.pad_id()

    @property
    def eos_id(self) -> int:
        """The id of the end of a text, "</s>"."""
        return self._processor.eos_id()

    @functools.cached_property
    def digest(self) -> str:
        """See `Tokenizer`."""
        return _digest(self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`."""
        return self._processor.encode(list(texts), out_type=int)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids; those without a piece are passed over."""
        size = self.vocab_size
        known = [[one for one in row if 0 <= one < size] for row in rows]
        return [self._processor.decode(row) if row else "" for row in known]

    @functools.cached_property
    def _processor(self):
        import sentencepiece  # here, since most runs need none

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Words for counting: lower-cased, stemmed, one id each.

    Words are runs of letters, digits and marks, split again at the humps of camelCase,
    so `getHTTPResponse_v2` is get, http, respons, v2. Stems are Snowball's English.

    words: the vocabulary by id, "[PAD]" and "[UNK]" first.
    """

    kind: ClassVar[str] = "words"
    words: tuple[str, ...] = dataclasses.field(repr=False)
    pad_id: ClassVar[int] = 0
    unk_id: ClassVar[int] = 1

    @property
    def vocab_size(self) -> int:
        """The number of words, the two special ones included."""
        return len(self.words)

    @functools.cached_property
    def digest(self) -> str:
        """See `Tokenizer`."""
        return _digest(self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Tokenizer`; a word outside the vocabulary is `unk_id`."""
        found = [_raw_words(text) for text in texts]
        known = self._ids_of_raw_words
        if len(known) > _MAX_CACHED_WORDS:
            known.clear()
        new = set(itertools.chain.from_iterable(found)).difference(known)
        for raw, stems in _stems(new).items():
            known[raw] = [self._id_of_word.get(stem, self.unk_id) for stem in stems]
        return [
            list(itertools.chain.from_iterable(map(known.__getitem__, raw_words)))
            for raw_words in found
        ]

    @functools.cached_property
    def _id_of_word(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @functools.cached_property
    def _ids_of_raw_words(self) -> dict[str, list[int]]:
        return {}


def load_wordpiece(
    vocab_txt: str | os.PathLike, *, lowercase: bool = True
) -> WordPieceTokenizer:
    """The tokeniser of a BERT `vocab.txt`: one piece a line, its id the line's place.

    Raises:
        DataError: the file cannot be read, a piece is there twice, "[PAD]" is not
            the first, or "[UNK]", "[CLS]" or "[SEP]" is missing.
    """
    pieces = _read_vocabulary(vocab_txt)
    for piece in WORDPIECE_SPECIALS[:4]:
        if piece not in pieces:
            raise DataError(
                f"the piece {piece!r} is missing. Is this the vocab.txt of a BERT "
                "model?",
                vocab_txt,
            )
    if pieces[0] != "[PAD]":
        raise DataError(
            f"the first piece is {pieces[0]!r}; it must be '[PAD]', since padding "
            "is id 0.",
            vocab_txt,
            1,
        )
    return WordPieceTokenizer(pieces, lowercase)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    min_count: int = 2,
    max_characters: int = 1000,
    lowercase: bool = True,
) -> WordPieceTokenizer:
    """A WordPiece tokeniser whose pieces are those frequent in `texts`.

    Starts from single characters and joins the pair that is most frequent inside
    words, again and again. Equal counts go to the pair of lower ids, so the same
    texts, in any order, give the same vocabulary on every machine.

    Args:
        texts: read once.
        vocab_size: of the result, special pieces included; fewer where the texts do
            not hold so many pieces.
        min_count: words and pairs seen less often teach nothing.
        max_characters: how many characters the alphabet keeps, the most frequent
            ones; a word with another is "[UNK]".
        lowercase: as for `WordPieceTokenizer`.

    Raises:
        ConfigError: `vocab_size` has no room for the alphabet.

    Source: the pair-joining of Sennrich et al., arXiv:1508.07909, with WordPiece's
        "##". BERT's own vocabulary was made by code that was never published.
    """
    counts = _bert_word_counts(texts, lowercase)
    alphabet = _alphabet(counts, max_characters)
    pieces = list(WORDPIECE_SPECIALS) + alphabet
    pieces += [_CONTINUING + letter for letter in alphabet]
    if len(pieces) > vocab_size:
        raise ConfigError(
            f"a vocabulary of {vocab_size} has no room for the alphabet of the texts: "
            f"{len(alphabet)} characters need {len(pieces)}. Raise vocab_size or lower "
            "max_characters."
        )
    known = set(alphabet)
    words = [
        (word, count)
        for word, count in counts.items()
        if count >= min_count and known.issuperset(word)
    ]
    return WordPieceTokenizer(
        tuple(_join_pairs(words, pieces, vocab_size, min_count)), lowercase
    )


def load_sentencepiece(model_file: str | os.PathLike) -> SentencePieceTokenizer:
    """The tokeniser of a SentencePiece `.model` file, such as T5's `spiece.model`.

    Raises:
        DataError: the file cannot be read, is no SentencePiece model, or has no
            padding or no end-of-text id.
    """
    try:
        model = pathlib.Path(model_file).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", model_file) from error
    tokenizer = SentencePieceTokenizer(model)
    try:
        ids = tokenizer.pad_id, tokenizer.eos_id
    except RuntimeError as error:
        raise DataError("is not a SentencePiece model.", model_file) from error
    if min(ids) < 0:
        raise DataError(
            f"the model's padding and end-of-text ids are {ids}; both must be there "
            "(T5's are 0 and 1).",
            model_file,
        )
    return tokenizer


def find_tokenizer(path: str | os.PathLike, *, lowercase: bool = True) -> Tokenizer:
    """The tokeniser at a path, whatever its form.

    Args:
        path: a SentencePiece `.model`, a BERT's vocab.txt, or a folder of
            `save_tokenizer`.
        lowercase: of a vocab.txt.

    Raises:
        ConfigError: there is nothing.
        CorruptError: a folder holds no tokeniser, or a damaged one.
        DataError: a file is neither.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist: give a SentencePiece .model, a vocab.txt, or the "
            "folder in which a run keeps a tokeniser."
        )
    if path.is_dir():
        return load_tokenizer(path)
    if path.suffix == ".model":
        return load_sentencepiece(path)
    return load_wordpiece(path, lowercase=lowercase)


def train_words(
    texts: Iterable[str], max_words: int = 65_000, *, min_count: int = 1
) -> WordTokenizer:
    """A word tokeniser that knows the most frequent words of `texts`.

    Args:
        texts: read once.
        max_words: the most words to keep; 65,000 lets ids fit 16 bits. Words of equal
            count are kept in alphabetical order.
        min_count: words seen less often are left out.
    """
    raw_counts = collections.Counter()
    for text in texts:
        raw_counts.update(_raw_words(text))
    counts = collections.Counter()
    for raw, stems in _stems(raw_counts).items():
        for stem in stems:
            counts[stem] += raw_counts[raw]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [word for word, count in ordered[:max_words] if count >= min_count]
    return WordTokenizer(WORD_SPECIALS + tuple(words))


def find_single_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[int, ...]:
    """The tokens of words that are one token each, such as a model's "true".

    Raises:
        ConfigError: a word is several tokens, or none.
    """
    found = tokenizer.encode_batch(list(words))
    for word, ids in zip(words, found, strict=True):
        if len(ids) != 1:
            raise ConfigError(
                f"the vocabulary cuts {word!r} into {len(ids)} pieces, but of these "
                "words each must be one token: choose others, or the model's own "
                "vocabulary."
            )
    return tuple(ids[0] for ids in found)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
    """Writes a tokeniser as plain files: its vocabulary and `tokenizer.json`."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    name, content, options = _parts(tokenizer)
    (directory / name).write_bytes(content)
    config = {
        "format": _CONFIG_FORMAT,
        "kind": tokenizer.kind,
        "vocabulary": name,
        "options": options,
        "digest": tokenizer.digest,
    }
    text = json.dumps(config, indent=2) + "\n"
    (directory / _CONFIG_FILE).write_text(text, encoding="utf-8")


def load_tokenizer(directory: str | os.PathLike) -> Tokenizer:
    """The tokeniser that `save_tokenizer` wrote.

    Raises:
        CorruptError: there is none, it is of an unknown kind, or its files no longer
            have the digest they were saved with.
    """
    directory = pathlib.Path(directory)
    try:
        config = json.loads((directory / _CONFIG_FILE).read_text(encoding="utf-8"))
        kind, options, digest = (config[key] for key in ("kind", "options", "digest"))
        if config["format"] != _CONFIG_FORMAT:
            raise KeyError("format")
        tokenizer = _load_kind(kind, options, directory)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptError(
            f"{directory}: no tokeniser of art_jax can be read there ({error!r}). Save "
            "it again with save_tokenizer()."
        ) from error
    if tokenizer.digest != digest:
        raise CorruptError(
            f"{directory}: the tokeniser's files have changed since they were saved "
            f"(digest {tokenizer.digest[:12]}, was {digest[:12]}). Restore them."
        )
    return tokenizer


def _load_kind(
    kind: str, options: Mapping[str, Any], directory: pathlib.Path
) -> Tokenizer:
    if kind == WordPieceTokenizer.kind:
        pieces = _read_vocabulary(directory / "vocab.txt")
        return WordPieceTokenizer(pieces, bool(options["lowercase"]))
    if kind == SentencePieceTokenizer.kind:
        return SentencePieceTokenizer((directory / "spiece.model").read_bytes())
    if kind == WordTokenizer.kind:
        return WordTokenizer(_read_vocabulary(directory / "vocab.txt"))
    raise KeyError(f"unknown kind {kind!r}")


def _parts(tokenizer: Tokenizer) -> tuple[str, bytes, dict[str, Any]]:
    """A tokeniser's vocabulary file, its bytes, and the options beside it."""
    if tokenizer.kind == SentencePieceTokenizer.kind:
        return "spiece.model", tokenizer.model, {}
    if tokenizer.kind == WordTokenizer.kind:
        return "vocab.txt", _lines(tokenizer.words), {"stemmer": "english", "rules": 1}
    return "vocab.txt", _lines(tokenizer.pieces), {"lowercase": tokenizer.lowercase}


def _digest(tokenizer: Tokenizer) -> str:
    _, content, options = _parts(tokenizer)
    head = json.dumps([tokenizer.kind, options], sort_keys=True)
    return hashlib.sha256(head.encode() + b"\0" + content).hexdigest()


def _lines(pieces: Iterable[str]) -> bytes:
    return "".join(f"{piece}\n" for piece in pieces).encode("utf-8")


def _read_vocabulary(path: str | os.PathLike) -> tuple[str, ...]:
    """The lines of a vocabulary file, which must differ from each other."""
    try:
        text = pathlib.Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}.", path) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8.", path) from error
    # Not splitlines(): U+2028 and its like are pieces of some vocabularies.
    pieces = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    first_lines: dict[str, int] = {}
    for number, piece in enumerate(pieces, 1):
        first = first_lines.setdefault(piece, number)
        if first != number:
            raise DataError(
                f"the piece {piece!r} is there twice, first on line {first}, so it "
                "would have two ids.",
                path,
                number,
            )
    return tuple(pieces)


@functools.cache
def _compiled(pattern: str) -> "regex.Pattern":
    """The pattern, of properties of Unicode, which `re` does not know."""
    import regex

    return regex.compile(pattern)


def _bert_normalizer(lowercase: bool) -> "hf_tokenizers.normalizers.Normalizer":
    import tokenizers as hf_tokenizers

    return hf_tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=lowercase,
        lowercase=lowercase,
    )


def _bert_word_counts(
    texts: Iterable[str], lowercase: bool
) -> collections.Counter[str]:
    """How often each word occurs, cut as BERT cuts before it looks for pieces."""
    normalizer = _bert_normalizer(lowercase)
    find_words = _compiled(_BERT_WORD).findall
    counts = collections.Counter()
    for text in texts:
        if text.isascii() and not _CONTROL.search(text):
            text = text.lower() if lowercase else text  # the same, ten times faster
        else:
            text = normalizer.normalize_str(text)
        counts.update(find_words(text))
    return counts


def _alphabet(counts: Mapping[str, int], max_characters: int) -> list[str]:
    letters = collections.Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    ordered = sorted(letters, key=lambda letter: (-letters[letter], letter))
    return sorted(ordered[:max_characters])


def _join_pairs(
    words: Sequence[tuple[str, int]],
    pieces: list[str],
    vocab_size: int,
    min_count: int,
) -> list[str]:
    """Adds to `pieces` the joins of the most frequent pairs, up to `vocab_size`.

    Args:
        words: each with its count, spelled by single characters in `pieces`.
        pieces: the vocabulary so far; pairs are of their places in it.
        vocab_size: stop there.
        min_count: a pair seen less often is not joined.
    """
    pieces = list(pieces)
    spelled, pair_counts, homes = _count_pairs(words, pieces)
    queue = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(queue)
    while queue and len(pieces) < vocab_size:
        count, pair = heapq.heappop(queue)
        if pair_counts[pair] != -count:
            # The count has fallen since it was queued; rises are queued anew.
            heapq.heappush(queue, (-pair_counts[pair], pair))
            continue
        if -count < min_count:
            break
        # New each time: how a piece is joined does not depend on what is around it.
        joined = len(pieces)
        pieces.append(pieces[pair[0]] + pieces[pair[1]].removeprefix(_CONTINUING))
        risen = set()
        for place in homes.pop(pair):
            old, word_count = spelled[place], words[place][1]
            new = spelled[place] = _join_in_word(old, pair, joined)
            for old_pair in itertools.pairwise(old):
                pair_counts[old_pair] -= word_count
            for new_pair in itertools.pairwise(new):
                pair_counts[new_pair] += word_count
                if joined in new_pair:
                    homes[new_pair].add(place)
                    risen.add(new_pair)
        for new_pair in risen:
            heapq.heappush(queue, (-pair_counts[new_pair], new_pair))
    return pieces


def _count_pairs(
    words: Sequence[tuple[str, int]], pieces: Sequence[str]
) -> tuple[
    list[list[int]],
    collections.Counter[tuple[int, int]],
    collections.defaultdict[tuple[int, int], set[int]],
]:
    """Each word's pieces, how often each pair of them occurs, and in which words."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    spelled = [
        [ids[word[0]]] + [ids[_CONTINUING + letter] for letter in word[1:]]
        for word, _ in words
    ]
    pair_counts = collections.Counter()
    homes = collections.defaultdict(set)
    for place, (spelling, (_, count)) in enumerate(zip(spelled, words, strict=True)):
        for pair in itertools.pairwise(spelling):
            pair_counts[pair] += count
            homes[pair].add(place)
    return spelled, pair_counts, homes


def _join_in_word(spelling: list[int], pair: tuple[int, int], joined: int) -> list[int]:
    """The spelling with each occurrence of `pair`, from the left, as one piece."""
    out = []
    place = 0
    while place < len(spelling):
        if tuple(spelling[place : place + 2]) == pair:
            out.append(joined)
            place += 2
        else:
            out.append(spelling[place])
            place += 1
    return out


def _raw_words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return _compiled(_WORD).findall(unicodedata.normalize("NFC", text))


def _stems(raw_words: Iterable[str]) -> dict[str, list[str]]:
    """The stems of each raw word: several where it is camelCase."""
    import Stemmer

    hump_edge = _compiled(_HUMP)
    humps = {
        raw: [hump.lower() for hump in hump_edge.sub(" ", raw).split(" ")]
        for raw in raw_words
    }
    stemmer = Stemmer.Stemmer("english")
    return {raw: stemmer.stemWords(parts) for raw, parts in humps.items()}
