"""`art-jax embed`: a trained retriever's index, of its own or other passages."""

import pathlib
import sys

from art_jax import partitioning
from art_jax.checkpoints.retriever import find_retriever, load_retriever, save_retriever
from art_jax.cli import train
from art_jax.data.evidence import load_evidence
from art_jax.data.tokenizers import load_tokenizer
from art_jax.errors import ConfigError
from art_jax.index import refresh_parts
from art_jax.index.progress import make_progress
from art_jax.index.refresh import refresh
from art_jax.index.table import save_table
from art_jax.methods.workspace import RETRIEVER, passage_side
from art_jax.training import preemption

UNFINISHED = ".embedding"


def run(options) -> None:
    """Runs the verb `embed`."""
    source = pathlib.Path(options.run)
    if bool(options.passages) != bool(options.output_dir):
        raise ConfigError(
            "--passages and --output_dir belong together: other passages go to a new "
            "folder, and the run keeps its own index."
        )
    target = pathlib.Path(options.output_dir or source)
    # Its being there says that an embed was killed, which this one goes on with.
    parts = target / UNFINISHED
    mesh = partitioning.make_mesh()
    model = load_retriever(find_retriever(source), mesh)
    if options.passages:
        if not parts.exists() and target.exists() and any(target.iterdir()):
            raise ConfigError(f"{target} is not empty: give a new folder.")
        parts.mkdir(parents=True, exist_ok=True)
        made = {RETRIEVER: model.tokenizer}
        evidence = train.make_evidence(target, options.passages, made)
        save_retriever(target / "retriever", model)
    else:
        evidence = load_evidence(source / "evidence")
        made = {RETRIEVER: load_tokenizer(find_retriever(source) / "tokenizer")}
    workspace = train.make_workspace(
        mesh=mesh,
        encoder=model.encoder,
        evidence=evidence,
        made=made,
        lengths={
            "query": model.max_query_tokens,
            "passage": model.max_passage_tokens,
        },
        queries=None,
        stream_tokens=True,
    )
    refresher = train.make_refresher(workspace, options.dtype, None)
    progress = make_progress(refresher, lambda line: sys.stderr.write(f"{line}\n"))

    def on_progress(num_rows: int) -> None:
        progress(num_rows)
        preemption.poll()

    with preemption.watch_signals():
        table = refresh(
            refresher,
            passage_side(model.params),
            step=0,
            generation=0,
            on_progress=on_progress,
            parts=parts,
            keep_parts=True,  # until the index is whole
        )
        save_table(table, target / "index")
        refresh_parts.remove_folder(parts)
    print(f"{evidence.num_passages:,} passages embedded: {target / 'index'}")
