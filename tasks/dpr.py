"""Training examples, questions with right and wrong passages: DPR's and KILT's.

Not questions to search with: those are in `open_qa` and `kilt`. `data.example_sources`
says what an example holds.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks, preprocessors, subsets
from art_jax.data.host_tensorflow import seqio

for _set in benchmarks.BIENCODER:
    registration.add_example_task(_set.name, benchmarks.example_readers(_set))


def _add_kilt(benchmark, suffix="", count=None):
    readers = benchmarks.example_readers(benchmark)
    if count:
        readers = subsets.sampled_readers(readers, count)
    is_mention = benchmark.name == "multikilt_aidayago2"
    registration.add_example_task(
        benchmark.name + suffix,
        readers,
        more_preprocessors=[preprocessors.keep_mentions] if is_mention else [],
    )


_LARGE = {name.replace("kilt_", "multikilt_") for name in benchmarks.KILT_LARGE}
for _set in benchmarks.MULTIKILT:
    _add_kilt(_set)
    for _count in benchmarks.FEW_SHOT:
        _add_kilt(_set, f"_{_count}", _count)
    if _set.name in _LARGE:
        _add_kilt(_set, "_100k", 100_000)

# The multi-set retriever's: all but SQuAD.
seqio.MixtureRegistry.add(
    "biencoder_multi",
    [
        "biencoder_nq",
        "biencoder_trivia",
        "biencoder_webquestions",
        "biencoder_curatedtrec",
    ],
    default_rate=1.0,
)

# The second round's, on the negatives that the first retriever found.
seqio.MixtureRegistry.add(
    "biencoder_nq_and_adv_hn",
    ["biencoder_nq", "biencoder_nq_adv_hn"],
    default_rate=1.0,
)

# As `kilt.kilt_multitask` and its kin.
_TASKS = {
    one.name: f"{one.name}_100k" if one.name in _LARGE else one.name
    for one in benchmarks.MULTIKILT
}
seqio.MixtureRegistry.add("multikilt", [*_TASKS.values()], default_rate=1.0)
for _left_out in _TASKS:
    seqio.MixtureRegistry.add(
        f"multikilt_without_{_left_out.removeprefix('multikilt_')}",
        [task for name, task in _TASKS.items() if name != _left_out],
        default_rate=1.0,
    )
