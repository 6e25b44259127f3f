"""Questions, and the files that hold them."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A text to search with, and what evaluation may know about it.

    question_id: unique in its file.
    text: the question.
    answers: for answer matching; evaluation only.
    relevant_ids: ids of passages known to be right; evaluation only.
    source_id: id of the passage that the question was made from, "" where there is
        none; training may exclude it from the question's own candidates.
    """

    question_id: str
    text: str
    answers: tuple[str, ...] = ()
    relevant_ids: tuple[str, ...] = ()
    source_id: str = ""
