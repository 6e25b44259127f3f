"""Texts to be generated: clues of Jeopardy, answers of MS MARCO, labels of FEVER.

A question is what the text is made from; its answers are what the text should be.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks
from art_jax.evaluation import evaluator

_MEASURES = {
    "jeopardy_qg": ("bleu_1", "q_bleu", "distinct_3"),
    "msmarco_nlg": ("rouge_l", "bleu_1", "distinct_3"),
    "fever_3way": ("label_accuracy",),
    "fever_2way": ("label_accuracy",),
}

for _set in benchmarks.GENERATION:
    registration.add_task(
        _set.name,
        benchmarks.readers(_set),
        metrics=[evaluator.TextMeasures(measures=_MEASURES[_set.name])],
    )
