"""KILT: eleven tasks over one snapshot of Wikipedia, and mixtures to train on.

Eight of them have training evidence. `kilt_multitask` is their union; the two that are
larger by an order of magnitude, T-REx and Zero-shot RE, are down-sampled to 100,000
questions, which are the same ones each time: training reads each question of a mixture
once and knows no rates. `kilt_multitask_without_X` leaves one out; `kilt_X_128` and
`kilt_X_1024` have as many questions to train on, and all to evaluate with.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks, preprocessors, subsets
from art_jax.data.host_tensorflow import seqio
from art_jax.evaluation import evaluator


def _add(benchmark, suffix="", count=None):
    readers = benchmarks.readers(benchmark)
    if count:
        readers = subsets.sampled_readers(readers, count)
    is_mention = benchmark.name in benchmarks.KILT_MENTIONS
    registration.add_task(
        benchmark.name + suffix,
        readers,
        metrics=[evaluator.KiltRetrieval()],
        more_preprocessors=[preprocessors.keep_mentions] if is_mention else [],
    )


for _set in benchmarks.KILT:
    _add(_set)
    if _set.name in benchmarks.KILT_TRAINED:
        for _count in benchmarks.FEW_SHOT:
            _add(_set, f"_{_count}", _count)
    if _set.name in benchmarks.KILT_LARGE:
        _add(_set, "_100k", 100_000)

_TASKS = {
    name: f"{name}_100k" if name in benchmarks.KILT_LARGE else name
    for name in benchmarks.KILT_TRAINED
}

seqio.MixtureRegistry.add("kilt_multitask", [*_TASKS.values()], default_rate=1.0)
for _left_out in _TASKS:
    seqio.MixtureRegistry.add(
        f"kilt_multitask_without_{_left_out.removeprefix('kilt_')}",
        [task for name, task in _TASKS.items() if name != _left_out],
        default_rate=1.0,
    )
