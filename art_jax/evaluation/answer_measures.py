"""How good the answers are that a reader says of questions."""

import json
from collections.abc import Sequence

import numpy as np

from art_jax.data.answer_targets import answer_groups
from art_jax.data.questions import Question
from art_jax.evaluation.text_measures import evaluate_texts

# Of each form of `TargetRules`.
MEASURES = {
    "one": ("exact_match", "token_f1"),
    "sequence": ("answer_set_f1", "multi_answer_set_f1"),
}


def measure_answers(
    said: Sequence[Sequence[str]], questions: Sequence[Question], form: str
) -> dict[str, float]:
    """The means of the measures of what a reader said.

    Exact match and token F1 of one answer; of sequences F1 between sets of answers, and
    the same of questions with several, left out where there are none. Questions whose
    answers nobody knows do not count; {} where there are no others.

    Args:
        said: the answers to n questions.
        questions: n.
        form: of `TargetRules`.
    """
    texts, references = [], []
    for each, question in zip(said, questions, strict=True):
        groups = answer_groups(question, form)
        if groups:
            # Several answers are told from a text by being a list; none is as wrong
            # as an empty one.
            is_one = form == "one"
            answers = each or ("",)
            texts.append(" ".join(answers) if is_one else json.dumps(answers))
            references.append(groups)
    if not texts:
        return {}
    values = evaluate_texts(texts, references, MEASURES[form])
    return {
        name: float(np.nanmean(value))
        for name, value in values.items()
        if not np.isnan(value).all()
    }
