"""The quickstart's questions about the documentation of installed packages.

Files: train.jsonl, dev.jsonl and test.jsonl in $ART_JAX_DATA_DIR/quickstart. Which
passage is right is known to the splits dev and test alone.
"""

import functools

from art_jax.data import preprocessors, sources, vocabularies
from art_jax.data.host_tensorflow import seqio
from art_jax.evaluation import evaluator


def question_file(split):
    """The path of a split's file, found when it is asked for."""
    return sources.data_directory() / "quickstart" / f"{split}.jsonl"


seqio.TaskRegistry.add(
    "art_quickstart",
    source=sources.question_source(
        {
            split: functools.partial(question_file, split)
            for split in ("train", "dev", "test")
        }
    ),
    preprocessors=[preprocessors.tokenize_questions],
    output_features={
        "query": seqio.Feature(vocabularies.query_vocabulary(), add_eos=False)
    },
    metric_objs=[evaluator.TopKAccuracy(ks=(1, 5, 20, 100))],
)
