"""Training examples, questions with right and wrong passages: DPR's and KILT's.

Not questions to search with: those are in `open_qa` and `kilt`. `data.example_sources`
says what an example holds.
"""

from art_jax.tasks import registration

from art_jax.data import benchmarks
from art_jax.data.host_tensorflow import seqio

for _set in (*benchmarks.BIENCODER, *benchmarks.MULTIKILT):
    registration.add_example_task(_set.name, benchmarks.example_readers(_set))

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
