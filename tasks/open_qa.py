"""Open-domain question answering: NQ, TriviaQA, WebQuestions, SQuAD, TREC, entities.

Questions with one answer, found in Wikipedia's passages; and with several: AmbigQA,
WebQSP, and TREC's patterns as sets of answers. The mixtures train one retriever on
many sets at once, as DPR's and ART's do: their rates are not used, since training
reads every question of each.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks
from art_jax.data.host_tensorflow import seqio
from art_jax.evaluation import evaluator

for _set in (*benchmarks.OPEN_QA, *benchmarks.ENTITY_QUESTIONS):
    registration.add_task(_set.name, benchmarks.readers(_set), match=_set.match)

for _set in benchmarks.MULTI_ANSWER:
    registration.add_task(
        _set.name,
        benchmarks.readers(_set),
        metrics=[evaluator.MultiAnswer(), evaluator.TopKAccuracy()],
    )

seqio.MixtureRegistry.add(
    "entity_questions",
    [_set.name for _set in benchmarks.ENTITY_QUESTIONS],
    default_rate=1.0,
)

# DPR's multi-set retriever: all but SQuAD.
seqio.MixtureRegistry.add(
    "dpr_multi",
    ["nq_open", "triviaqa", "webquestions", "curatedtrec"],
    default_rate=1.0,
)

# ART's: SQuAD's questions too, and no TREC.
seqio.MixtureRegistry.add(
    "art_multi",
    ["webquestions", "nq_open", "squad_open", "triviaqa"],
    default_rate=1.0,
)
