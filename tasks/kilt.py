"""KILT: eleven tasks over one snapshot of Wikipedia."""

from art_jax.tasks import registration

from art_jax.data import benchmarks

for _set in benchmarks.KILT:
    registration.add_task(_set.name, benchmarks.readers(_set), match="kilt")
