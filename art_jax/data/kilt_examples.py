"""Training examples made of KILT's questions and of the passages they were cut into."""

import os
from collections.abc import Iterator, Mapping, Sequence

from art_jax.data.examples import Candidate, TrainingExample
from art_jax.data.kilt_files import Provenance, page_of, read_kilt
from art_jax.data.passages import Passage, read_passages
from art_jax.errors import DataError

MIN_BLEU = 0.5

# Where a passage ends in its page, and how many passages end there before it.
_Place = tuple[int, int]


def read_kilt_examples(
    path: str | os.PathLike,
    passages_path: str | os.PathLike,
    *,
    min_bleu: float = MIN_BLEU,
) -> Iterator[TrainingExample]:
    """Yields the questions of a file of KILT's whose evidence is among the passages.

    Positives are the passages that hold the paragraphs of a provenance, in its order,
    see `passages_of`. A question is left out where no provenance says to match its page
    well enough, or no passage holds any. There are no negatives: mine them.

    Args:
        path: a file of a task, such as `nq-train-kilt.jsonl`.
        passages_path: all passages, with ids "page+end_paragraph+piece", see
            `kilt_files.evidence_id`. Only those of pages that are named are held.
        min_bleu: the least that the best `bleu_score` of a question must be; where its
            provenance has none it is taken to be 1.

    Raises:
        DataError: a file breaks its format, or an id is not of that form.

    Source: Maillard et al., arXiv:2101.00117. Differs in: a passage that several
        paragraphs share belongs to each of them; theirs is found again by its text.
    """
    pages = {
        place.wikipedia_id
        for item in read_kilt(path)
        for output in item.outputs
        for place in output.provenance
    }
    by_page = _passages_by_page(passages_path, pages)
    for item in read_kilt(path):
        places = [place for output in item.outputs for place in output.provenance]
        scores = [1.0 if one.bleu_score is None else one.bleu_score for one in places]
        if max(scores, default=0.0) < min_bleu:
            continue
        positives = {
            passage.passage_id: Candidate(passage)
            for place in places
            for passage in passages_of(place, by_page.get(place.wikipedia_id, {}))
        }
        if positives:
            yield TrainingExample(item.question(), tuple(positives.values()))


def passages_of(
    place: Provenance, of_page: Mapping[_Place, Passage]
) -> Sequence[Passage]:
    """The passages that hold the paragraphs of a place.

    Those that end in one of them, and where none ends in the last one, the next: it
    holds that paragraph and others behind it. All of the page, where no paragraph is
    given.

    Args:
        place: with its paragraphs.
        of_page: the passages of its page, by where they end.
    """
    ordered = sorted(of_page)
    last = place.end_paragraph
    if last is None:
        return [of_page[one] for one in ordered]
    first = last if place.start_paragraph is None else place.start_paragraph
    inside = [one for one in ordered if first <= one[0] <= last]
    if not any(end == last for end, _ in inside):
        inside += [one for one in ordered if one[0] > last][:1]
    return [of_page[one] for one in inside]


def _passages_by_page(
    path: str | os.PathLike, pages: set[str]
) -> dict[str, dict[_Place, Passage]]:
    by_page: dict[str, dict[_Place, Passage]] = {}
    for passage in read_passages(path):
        page = page_of(passage.passage_id)
        if page in pages:
            place = _place_of(passage.passage_id, path)
            by_page.setdefault(page, {})[place] = passage
    if pages and not by_page:
        raise DataError(
            f"none of the {len(pages)} pages that are asked for has a passage here. "
            "Ids must be page+end_paragraph+piece, as `art-jax build` makes them.",
            path,
        )
    return by_page


def _place_of(passage_id: str, path: str | os.PathLike) -> _Place:
    try:
        _, paragraph, piece = passage_id.split("+")
        return int(paragraph), int(piece)
    except ValueError:
        raise DataError(
            f"the id {passage_id!r} is not page+end_paragraph+piece, as `art-jax "
            "build` makes them of KILT's knowledge source.",
            path,
        ) from None
