"""`art-jax export`: a retriever, a T5 or embeddings as other tools read them."""

import dataclasses
import json
import pathlib

from art_jax import atomic, manifest
from art_jax.checkpoints import (
    formats,
    hf_export,
    hf_tokenizers,
    huggingface,
    model_card,
    parity,
    sentence_transformers,
    tensors,
)
from art_jax.cli import import_weights
from art_jax.cli.run_folder import report
from art_jax.data.evidence import load_evidence
from art_jax.data.tokenizers import load_sentencepiece
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import export as index_export

# Each writes a retriever into an empty folder.
RETRIEVER_WRITERS = {
    "sentence-transformers": sentence_transformers.save_retriever,
    "huggingface": hf_export.save_berts,
    "dpr": hf_export.save_dpr,
}
T5_MAX_TOKENS = 512


def run(options) -> None:
    """Runs the verb `export`."""
    source = pathlib.Path(options.run)
    if options.output_dir is None and not source.is_dir():
        raise ConfigError(f"{source} is no folder to write into: give --output_dir.")
    target = pathlib.Path(options.output_dir or source / "exports" / options.to)
    import_weights.require_new(target)
    if options.to in index_export.FORMS:
        export_index(source, target, options.to, options.dtype)
    elif formats.is_t5(source):
        export_t5(source, target, options.to)
    else:
        export_retriever(source, target, options.to, options.query_task)
    print(target)


def export_index(
    source: pathlib.Path, target: pathlib.Path, form: str, dtype: str
) -> None:
    """Writes the embeddings of a run's index; see `index.export`."""
    if not (source / "index").exists():
        raise ConfigError(
            f"{source} holds no index: make one with `art-jax embed {source}`."
        )
    evidence = load_evidence(source / "evidence", verify=True)
    num_rows = index_export.export_embeddings(
        source / "index", evidence, target, form=form, dtype=dtype
    )
    report(f"{num_rows:,} embeddings")


def export_t5(source: pathlib.Path, target: pathlib.Path, to: str) -> None:
    """Writes a T5 of any format for Hugging Face or T5X."""
    if to not in ("huggingface", "t5x"):
        raise ConfigError(f"{source} is a T5: export it --to huggingface or t5x.")
    found = formats.open_t5(source)
    report(f"{source}: {found.format}")
    if to == "t5x":
        import_weights.write_t5x(target, found)
        return
    with atomic.building_directory(target) as folder:
        huggingface.save_t5(folder, found.config, found.params)
        if found.vocabulary is not None:
            tokenizer = load_sentencepiece(found.vocabulary)
            hf_tokenizers.save_tokenizer(folder, tokenizer, T5_MAX_TOKENS)
        manifest.write_manifest(folder, {"kind": "export", "to": to})


def export_retriever(
    source: pathlib.Path, target: pathlib.Path, to: str, query_task: str | None = None
) -> None:
    """Writes a retriever for another tool, with a model card and test vectors.

    Args:
        source: the retriever.
        target: a new folder.
        to: of `RETRIEVER_WRITERS`.
        query_task: of several tasks the one whose question tower is written.

    Raises:
        ConfigError: there is no such format or task; or the retriever has a question
            tower for each family of tasks, of which no format holds more than one, or
            reads its vectors off at a token, which none can say.
    """
    if to not in RETRIEVER_WRITERS:
        raise ConfigError(
            f"{source} is a retriever: export it --to {', '.join(RETRIEVER_WRITERS)}."
        )
    metrics = read_metrics(source)
    model = import_weights.read_retriever(source)
    if query_task is not None:
        model = model.of_task(query_task)
    if model.encoder.query_towers:
        raise ConfigError(
            f"the retriever has question towers {', '.join(model.encoder.query_towers)}"
            f", and {to} holds one: say which with --query_task, of "
            f"{', '.join(model.query_forms)}."
        )
    if model.encoder.query_token_id is not None:
        raise ConfigError(
            "the retriever reads a question's vector off at a token of its own, for "
            f"which {to} has no place: it cannot be exported."
        )
    model = dataclasses.replace(model, params=tensors.to_host(model.params))
    with atomic.building_directory(target) as folder:
        RETRIEVER_WRITERS[to](folder, model)
        parity.write_parity(folder, model, to)
        card = model_card.make_card(to, model, metrics=metrics)
        (folder / "README.md").write_text(card, encoding="utf-8")
        manifest.write_manifest(folder, {"kind": "export", "to": to})


def read_metrics(run: pathlib.Path) -> dict[str, float]:
    """Returns what `art-jax evaluate` measured of a run, {} where it did not."""
    path = run / "evaluation" / "retriever.json"
    if not path.is_file():
        report(f"no {path}: the model card will state no metrics (art-jax evaluate)")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            f"{name} ({record['task']}, {record['split']})": value
            for name, value in record["metrics"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{path} is no record of `art-jax evaluate` ({error!r}): evaluate again."
        ) from error
