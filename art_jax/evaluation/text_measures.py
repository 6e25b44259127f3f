"""How near a text that was generated comes to the texts it should be.

Exact match and token F1 compare as SQuAD does (`answers.normalize`); BLEU and ROUGE-L
are those of the COCO captioning evaluation, on tokens the caller made.
"""

import collections
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from art_jax.data.questions import parse_answers
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation.answers import normalize
from art_jax.evaluation.multi_answer import Groups, answer_set_f1

Tokens = Sequence[str]

# Added by COCO's BLEU to counts, so that no logarithm or division fails.
_TINY, _SMALL = 1e-15, 1e-9


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Whether a text equals one of the right ones once both are normalised.

    Source: SQuAD (arXiv:1606.05250), as DPR, RAG and KILT use it.
    """
    found = normalize(prediction)
    return any(found == normalize(gold) for gold in golds)


def token_f1(prediction: str, gold: str) -> float:
    """The harmonic mean of precision and recall over the words of two texts.

    Words are those of the normalised texts, counted as often as they stand there. 0
    where none is shared, so also for two texts without a word.

    Source: SQuAD (arXiv:1606.05250).
    """
    found, right = normalize(prediction).split(), normalize(gold).split()
    shared = sum((collections.Counter(found) & collections.Counter(right)).values())
    if not shared:
        return 0.0
    return _harmonic_mean(shared / len(found), shared / len(right))


def bleu(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], n: int = 4
) -> tuple[float, ...]:
    """BLEU-1 to BLEU-n of a whole set of texts, without smoothing.

    Counts are pooled over the set before they are divided: it is no mean of the texts'
    own values. The brevity penalty compares with the reference nearest in length, the
    shorter of two as near.

    Args:
        hypotheses: a text each.
        references: of each, one or more.
        n: longest n-gram.

    Raises:
        DataError: there is no text, or their numbers differ, or one has no reference.

    Source: Papineni et al., ACL 2002; the constants of COCO's evaluation code.
    """
    _check_pairs(hypotheses, references)
    matches, totals = np.zeros(n), np.zeros(n)
    length = reference_length = 0
    for hypothesis, golds in zip(hypotheses, references, strict=True):
        length += len(hypothesis)
        reference_length += min(
            (abs(len(gold) - len(hypothesis)), len(gold)) for gold in golds
        )[1]
        for order in range(1, n + 1):
            counts = _ngrams(hypothesis, order)
            most: collections.Counter = collections.Counter()
            for gold in golds:
                most |= _ngrams(gold, order)
            matches[order - 1] += sum((counts & most).values())
            totals[order - 1] += max(len(hypothesis) - order + 1, 0)
    precisions = np.cumprod((matches + _TINY) / (totals + _SMALL))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return tuple(
        float(product ** (1 / order) * brevity)
        for order, product in enumerate(precisions, start=1)
    )


def rouge_l(hypothesis: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L of one text: by the longest common subsequence, recall weighing more.

    The best precision and the best recall over the references are taken, each from
    whichever has it; beta is 1.2.

    Source: Lin, ACL 2004, as COCO's evaluation computes it. KILT's is another, see
        `kilt.rouge_l`.
    """
    _check_pairs([hypothesis], [references])
    if not hypothesis:
        return 0.0
    common = [len(longest_common_subsequence(gold, hypothesis)) for gold in references]
    precision = max(common) / len(hypothesis)
    recall = max(
        (shared / len(gold) if gold else 0.0)
        for shared, gold in zip(common, references, strict=True)
    )
    if not precision or not recall:
        return 0.0
    beta_squared = 1.2**2
    return (1 + beta_squared) * precision * recall / (recall + beta_squared * precision)


def longest_common_subsequence(left: Tokens, right: Tokens) -> list[str]:
    """A longest sequence of tokens that both hold in order, not always adjacent."""
    lengths = np.zeros((len(left) + 1, len(right) + 1), np.int64)
    for i, one in enumerate(left, start=1):
        for j, other in enumerate(right, start=1):
            if one == other:
                lengths[i, j] = lengths[i - 1, j - 1] + 1
            else:
                lengths[i, j] = max(lengths[i - 1, j], lengths[i, j - 1])
    shared, i, j = [], len(left), len(right)
    while i and j:
        if left[i - 1] == right[j - 1]:
            i, j = i - 1, j - 1
            shared.append(left[i])
        elif lengths[i - 1, j] > lengths[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return shared[::-1]


def distinct_ngrams(texts: Sequence[Tokens], n: int = 3) -> float:
    """The share of distinct n-grams among all of a set of texts, pooled.

    RAG's measure of diversity, with n = 3. 0 where no text is as long as n.

    Source: arXiv:2005.11401, section 4.5.
    """
    pooled: collections.Counter = collections.Counter()
    for tokens in texts:
        pooled.update(_ngrams(tokens, n))
    return len(pooled) / max(pooled.total(), 1)


def label_accuracy(predictions: Sequence[str], golds: Sequence[str]) -> float:
    """The share of labels that are the right ones, spaces around them aside.

    FEVER's measure: SUPPORTS, REFUTES and, in its 3-way form, NOT ENOUGH INFO.

    Raises:
        DataError: there is no label, or their numbers differ.
    """
    _check_pairs(predictions, golds)
    right = [
        found.strip() == gold.strip()
        for found, gold in zip(predictions, golds, strict=True)
    ]
    return sum(right) / len(right)


# The words that Q-BLEU counts apart: English function words.
_STOP_WORDS = frozenset(
    """i me my myself we our ours ourselves you your yours yourself yourselves he him
    his himself she her hers herself it its itself they them their theirs themselves
    this that these those am is are was were be been being have has had having do does
    did doing a an the and but if or because as until while of at by for with about
    against between into through during before after above below to from up down in
    out on off over under again further then once here there all any both each few
    more most other some such no nor not only own same so than too very s t can will
    just don should now""".split()  # noqa: SIM905 (read as a text)
)
_QUESTION_WORDS = frozenset(
    ("what", "which", "why", "who", "whom", "whose", "where", "when", "how")
)
_WORD = re.compile(r"\w+(?:'\w+)?")


def q_bleu(
    hypothesis: str,
    reference: str,
    n: int = 1,
    *,
    weights: tuple[float, float, float] = (0.6, 0.2, 0.1),
    answerability_share: float = 0.7,
) -> float:
    """Q-BLEU of a question: BLEU mixed with how answerable the question still is.

    Answerability is a weighted mean of four F-scores, over named entities
    (capitalised words, but a question word that comes first), question types (a
    question word; of what and which also the word behind), other content words, and
    function words.

    Args:
        hypothesis: a generated question.
        reference: the question it should be.
        n: of BLEU-n; RAG reports 1.
        weights: of entities, question types and content words; function words get
            the rest.
        answerability_share: of the answerability in the result, the rest is BLEU's.

    Raises:
        ConfigError: a weight is negative or they add up to more than 1.

    Source: Nema & Khapra, EMNLP 2018, with the weights their code gives for SQuAD.
        Differs in: words are runs of letters and digits where the official code runs
        the Penn Treebank tokeniser; the list of function words is our own. RAG does
        not print its weights.
    """
    mixed = (*weights, answerability_share)
    if min(mixed) < 0 or sum(weights) > 1 + 1e-9 or answerability_share > 1:
        raise ConfigError(
            f"weights {weights} and answerability_share {answerability_share}: each "
            "must be 0 or more, and neither the weights' sum nor the share above 1."
        )
    found, right = _WORD.findall(hypothesis), _WORD.findall(reference)
    lower = [[word.lower() for word in words] for words in (found, right)]
    fluency = bleu([lower[0]], [[lower[1]]], n)[n - 1]
    scores = [
        _two_way_f1(one, other)
        for one, other in zip(_kinds(found), _kinds(right), strict=True)
    ]
    parts = (*weights, 1 - sum(weights))
    answerability = sum(
        weight * score for weight, score in zip(parts, scores, strict=True)
    )
    return answerability_share * answerability + (1 - answerability_share) * fluency


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation.

    Differs in: the COCO evaluation cuts words as the Penn Treebank does ("do n't").
    """
    return [word.lower() for word in _WORD.findall(text)]


def evaluate_texts(
    predictions: Sequence[str],
    references: Sequence[Groups],
    measures: Sequence[str] = ("exact_match", "token_f1"),
) -> dict[str, np.ndarray | float]:
    """What each measure gives texts that were generated.

    Args:
        predictions: n texts; for "answer_set_f1" and "multi_answer_set_f1", the same of
            questions with several answers alone, each an answer, or several as a JSON
            list.
        references: of each, the answers it should be, each with its aliases. Other
            measures than these two take the best of all aliases.
        measures: of `MEASURES`. Words are those of `words`.

    Returns:
        {measure: [n] float64} of those that are means over texts, NaN for those that do
        not count; {measure: float} of
        "bleu_1" to "bleu_4" and "distinct_1" to "distinct_4", of all texts together.

    Raises:
        ConfigError: there is no such measure.
        DataError: there is no text, or numbers differ, or one has no reference.
    """
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ConfigError(
            f"there is no measure {unknown[0]!r} of texts: give some of "
            f"{', '.join(MEASURES)}."
        )
    golds = [[alias for group in groups for alias in group] for groups in references]
    _check_pairs(predictions, golds)
    values: dict[str, np.ndarray | float] = {}
    for name in measures:
        if name in _OF_ONE:
            of_one = _OF_ONE[name]
            values[name] = np.array(
                [of_one(*pair) for pair in zip(predictions, golds, strict=True)], float
            )
        elif name in _OF_SETS:
            values[name] = np.array(
                [
                    answer_set_f1(parse_answers(text) or (text,), [groups])
                    if name == "answer_set_f1" or len(groups) > 1
                    else np.nan
                    for text, groups in zip(predictions, references, strict=True)
                ]
            )
        else:
            order = int(name[-1])
            tokens = [words(text) for text in predictions]
            if name.startswith("distinct"):
                values[name] = distinct_ngrams(tokens, order)
            else:
                right = [[words(gold) for gold in each] for each in golds]
                values[name] = bleu(tokens, right, order)[-1]
    return values


def _is_label(text: str, golds: Sequence[str]) -> bool:
    return text.strip() in {gold.strip() for gold in golds}


# Of one text and its references, the best of which counts.
_OF_ONE: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "token_f1": lambda text, golds: max(token_f1(text, gold) for gold in golds),
    "label_accuracy": _is_label,
    "rouge_l": lambda text, golds: rouge_l(words(text), [*map(words, golds)]),
    "q_bleu": lambda text, golds: max(q_bleu(text, gold) for gold in golds),
}
# Of several answers in one text.
_OF_SETS = ("answer_set_f1", "multi_answer_set_f1")
MEASURES = (
    *_OF_ONE,
    *_OF_SETS,
    *(f"bleu_{n}" for n in range(1, 5)),
    *(f"distinct_{n}" for n in range(1, 5)),
)


def _kinds(words: Tokens) -> tuple[Tokens, Tokens, Tokens, Tokens]:
    """Entities, question types, content words and function words of a question."""
    types: list[str] = []
    for place, word in enumerate(words):
        if word.lower() in _QUESTION_WORDS:
            types.append(word.lower())
            if word.lower() in ("what", "which"):
                types.extend(after.lower() for after in words[place + 1 : place + 2])
    entities = [
        word
        for place, word in enumerate(words)
        if word[0].isupper() and not (place == 0 and word.lower() in _QUESTION_WORDS)
    ]
    functions = [word.lower() for word in words if word.lower() in _STOP_WORDS]
    content = [
        word
        for word in words
        if not word[0].isupper() and word not in _STOP_WORDS and word not in types
    ]
    return entities, types, content, functions


def _two_way_f1(found: Tokens, right: Tokens) -> float:
    shared = sum((collections.Counter(found) & collections.Counter(right)).values())
    if not shared:
        return 0.0
    return _harmonic_mean(shared / len(found), shared / len(right))


def _harmonic_mean(left: float, right: float) -> float:
    return 2 * left * right / (left + right)


def _ngrams(tokens: Tokens, n: int) -> collections.Counter:
    return collections.Counter(
        tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)
    )


def _check_pairs(found: Sequence, golds: Sequence) -> None:
    if not len(found) or len(found) != len(golds):
        raise DataError(
            f"{len(found)} texts are to be compared with the references of "
            f"{len(golds)}: there must be one text at least, and references for each."
        )
    for place, gold in enumerate(golds):
        if not len(gold):
            raise DataError(f"text {place} has no reference to be compared with.")
