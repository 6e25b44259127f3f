"""BEIR, with each forum of CQADupStack a task of its own, and MS MARCO's passages.

BEIR's library leaves out a passage whose id is its question's; so does its metric.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks
from art_jax.evaluation import evaluator

for _set in benchmarks.BEIR:
    registration.add_task(
        _set.name,
        benchmarks.readers(_set),
        metrics=[
            evaluator.RankingMeasures(
                measures=(
                    "ndcg_at_10",
                    "map_at_100",
                    "recall_at_100",
                    "capped_recall_at_100",
                ),
                ignore_identical_ids=True,
            )
        ],
    )

registration.add_task(
    benchmarks.MS_MARCO.name,
    benchmarks.readers(benchmarks.MS_MARCO),
    metrics=[
        evaluator.RankingMeasures(
            measures=("mrr_at_10", "ndcg_at_10", "recall_at_100", "recall_at_1000")
        )
    ],
)
