"""`art-jax import`: weights of any format that is read, as art_jax's own."""

import pathlib
import shutil

import jax

from art_jax import atomic, manifest, partitioning
from art_jax.checkpoints import formats, pretrained, retriever, t5x_export
from art_jax.checkpoints.retriever import SavedRetriever, save_retriever
from art_jax.cli.run_folder import report
from art_jax.cli.train import choose_tokenizer, fit_vocabulary
from art_jax.errors import ConfigError

MAX_QUERY_TOKENS = 64
MAX_PASSAGE_TOKENS = 256


def run(options) -> None:
    """Runs the verb `import`."""
    target = pathlib.Path(options.target)
    require_new(target)
    if formats.is_t5(options.source):
        for name in ("vocabulary", "pooling", "max_query_tokens", "max_passage_tokens"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name} is for retrievers; this is a T5.")
        import_t5(options.source, target)
    else:
        model = read_retriever(
            options.source,
            vocabulary=options.vocabulary,
            lowercase=not options.cased,
            pooling=options.pooling,
            max_query_tokens=options.max_query_tokens,
            max_passage_tokens=options.max_passage_tokens,
        )
        save_retriever(target, model)
    print(target)


def require_new(target: pathlib.Path) -> None:
    """Raises ConfigError where something is at a path already."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise ConfigError(f"{target} exists: give a new folder.")


def read_retriever(
    source: str | pathlib.Path,
    *,
    vocabulary: str | None = None,
    lowercase: bool = True,
    pooling: str | None = None,
    max_query_tokens: int | None = None,
    max_passage_tokens: int | None = None,
) -> SavedRetriever:
    """Returns the retriever of a path, whatever its format, on all devices.

    Args:
        source: see `formats.open_retriever`.
        vocabulary: a vocab.txt; None: the one beside the weights.
        lowercase: of `vocabulary`.
        pooling: where the files do not say it; None: "cls".
        max_query_tokens: Q; None: what the files say, or 64.
        max_passage_tokens: L; None: what the files say, or 256.

    Raises:
        ConfigError: what is given contradicts the files, or is missing from both.
        CorruptError: a file is missing, damaged or hostile.
    """
    found = formats.open_retriever(source)
    report(f"{source}: {found.format}")
    if pooling and found.pooling not in (None, pooling):
        raise ConfigError(
            f"--pooling is {pooling!r}, but {source} says {found.pooling!r}: leave "
            "--pooling out."
        )
    if not (pooling or found.pooling):
        report("its files do not say how to pool: taking the [CLS] vector (--pooling)")
    encoder = pretrained.encoder_of(found, pooling=pooling or "cls")
    tokenizer = choose_tokenizer(found, source, vocabulary, lowercase=lowercase)
    fit_vocabulary(encoder, tokenizer, is_trained=False)
    training = dict(found.training)
    if found.format != retriever.FORMAT:
        training = {"imported_as": found.format, **training}
    return SavedRetriever(
        encoder=encoder,
        params=pretrained.load_params(found, encoder, partitioning.make_mesh(), source),
        tokenizer=tokenizer,
        max_query_tokens=_length(
            "max_query_tokens",
            max_query_tokens,
            found.max_query_tokens or MAX_QUERY_TOKENS,
            encoder.config.max_positions,
        ),
        max_passage_tokens=_length(
            "max_passage_tokens",
            max_passage_tokens,
            found.max_passage_tokens or MAX_PASSAGE_TOKENS,
            encoder.config.max_positions,
        ),
        training=training,
        query_forms=found.query_forms,
        special_ids=found.special_ids,
    )


def import_t5(source: str | pathlib.Path, target: pathlib.Path) -> None:
    """Writes a T5 of any format as a native T5X checkpoint, its vocabulary beside it.

    Weights keep their dtype where T5X has it; float16 becomes float32.
    """
    found = formats.open_t5(source)
    report(f"{source}: {found.format}")
    write_t5x(target, found)


def write_t5x(target: pathlib.Path, found: formats.PretrainedT5) -> None:
    """Writes a T5 as a native T5X checkpoint with a manifest, all or nothing."""
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(found.params)}
    dtype = "bfloat16" if dtypes == {"bfloat16"} else "float32"
    with atomic.building_directory(target) as folder:
        t5x_export.save_t5(folder, found.config, found.params, step=0, dtype=dtype)
        if found.vocabulary is not None:
            shutil.copyfile(found.vocabulary, folder / "spiece.model")
        about = {"kind": "t5x_checkpoint", "from": found.format}
        manifest.write_manifest(folder, about)


def _length(name: str, given: int | None, usual: int, limit: int) -> int:
    """The length that was given, or the usual one as far as there are positions."""
    if given is None:
        return min(usual, limit)
    if not 3 <= given <= limit:
        raise ConfigError(
            f"--{name} is {given}: it must be 3 at least, and the model has {limit} "
            "positions."
        )
    return given
