"""BEIR, with each forum of CQADupStack a task of its own, and MS MARCO's passages."""

from art_jax.tasks import registration

from art_jax.data import benchmarks

for _set in (*benchmarks.BEIR, benchmarks.MS_MARCO):
    registration.add_task(_set.name, benchmarks.readers(_set))
