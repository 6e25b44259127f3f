"""The quickstart's questions about the documentation of installed packages.

Files: train.jsonl, dev.jsonl and test.jsonl in $ART_JAX_DATA_DIR/quickstart. Which
passage is right is known to the splits dev and test alone.
"""

import functools

from art_jax.tasks import registration

from art_jax.data import sources


def question_file(split):
    """The path of a split's file, found when it is asked for."""
    return sources.data_directory() / "quickstart" / f"{split}.jsonl"


registration.add_task(
    "art_quickstart",
    sources.file_readers(
        {
            split: functools.partial(question_file, split)
            for split in ("train", "dev", "test")
        }
    ),
    ks=(1, 5, 20, 100),
)
