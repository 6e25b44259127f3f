"""`art-jax embed`: a trained retriever's index, of its own or other passages."""

import pathlib
import sys
import time

from art_jax import partitioning
from art_jax.checkpoints.retriever import find_retriever, load_retriever, save_retriever
from art_jax.cli import train
from art_jax.data.evidence import load_evidence
from art_jax.data.tokenizers import load_tokenizer
from art_jax.errors import ConfigError
from art_jax.index.refresh import refresh
from art_jax.index.table import save_table
from art_jax.methods.workspace import RETRIEVER, passage_side
from art_jax.training import preemption


def run(options) -> None:
    """Runs the verb `embed`."""
    source = pathlib.Path(options.run)
    if bool(options.passages) != bool(options.output_dir):
        raise ConfigError(
            "--passages and --output_dir belong together: other passages go to a new "
            "folder, and the run keeps its own index."
        )
    target = pathlib.Path(options.output_dir or source)
    mesh = partitioning.make_mesh()
    model = load_retriever(find_retriever(source), mesh)
    if options.passages:
        if target.exists() and any(target.iterdir()):
            raise ConfigError(f"{target} is not empty: give a new folder.")
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
    with preemption.watch_signals():
        table = refresh(
            train.make_refresher(workspace, options.dtype, 16_384),
            passage_side(model.params),
            step=0,
            generation=0,
            on_progress=make_progress(evidence.num_passages),
        )
    save_table(table, target / "index")
    print(f"{evidence.num_passages:,} passages embedded: {target / 'index'}")


def make_progress(num_rows: int, every_seconds: float = 5.0):
    """Returns a callback that shows passages done, speed and time left on stderr."""
    started = shown = time.monotonic()

    def progress(done: int) -> None:
        nonlocal shown
        preemption.poll()
        now = time.monotonic()
        if now - shown < every_seconds:
            return
        shown = now
        speed = done / (now - started)
        left = int((num_rows - done) / max(speed, 1e-9))
        sys.stderr.write(
            f"embedded {done:,}/{num_rows:,} passages  {speed:,.0f}/s  "
            f"ETA {left // 60}:{left % 60:02d}\n"
        )

    return progress
