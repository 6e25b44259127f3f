"""`art-jax tune`: JPR's noise in training, and its length penalty in decoding."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from art_jax import atomic, manifest, partitioning
from art_jax.cli import gin_flags, rerank_report, train_t5
from art_jax.cli.rerank import rerank_all
from art_jax.cli.rerank_trained import JointReranker
from art_jax.cli.run_folder import report
from art_jax.cli.train_t5 import TrainedT5
from art_jax.data import example_files
from art_jax.data.examples import RankedQuestion
from art_jax.errors import ConfigError
from art_jax.generation.tree import TreeRules
from art_jax.methods.jpr.joint import Jpr
from art_jax.methods.ranked_table import read_ranked
from art_jax.training.stage import Stage

RESULTS = "tuning.json"
_FORMAT = "dpr-results"


def run(options) -> None:
    """Runs the verb `tune`."""
    if not options.gin_file:
        raise ConfigError(
            "art-jax tune needs a run of JPR, such as "
            "--gin_file=gin/runs/jpr_webqsp.gin."
        )
    for name in ("gamma", "beta"):
        if min(getattr(options, name)) < 0:
            raise ConfigError(f"--{name} is {getattr(options, name)}: 0 or more each.")
    model_dir = pathlib.Path(find_model_dir(options))
    rankings, settings = {}, {}
    for gamma in dict.fromkeys(options.gamma):
        folder = folder_of(model_dir, gamma)
        stage, trained = train_one(options, folder, gamma)
        rankings["before"] = dev = read_dev(stage.method, trained)
        for beta in dict.fromkeys(options.beta):
            label = f"{gamma:g}/{beta:g}"
            rankings[label] = decode(folder, dev, beta)
            settings[label] = {"gamma": gamma, "beta": beta}
    k = stage.method.dev_k or stage.method.rules.k
    match = stage.method.dev_sets[0].match
    measured = rerank_report.measure_answers(rankings, k=k, match=match)
    print(result_table(measured, k))
    del measured["before"]
    measure = f"mrecall_at_{k}"
    best = settings[rerank_report.best_by(measured, measure)]
    record = {
        "measure": measure,
        "results": [{**settings[label], **measured[label]} for label in settings],
        "best": best,
    }
    atomic.write_text(model_dir / RESULTS, json.dumps(record, indent=1) + "\n")
    gamma, beta = best["gamma"], best["beta"]
    print(f"best by {measure}: gamma {gamma:g} and beta {beta:g}. Use it:")
    print(
        f"  art-jax rerank RUN_FILE OUT --method jpr --beta {beta:g} "
        f"--model {folder_of(model_dir, gamma)}"
    )


def folder_of(model_dir: pathlib.Path, gamma: float) -> pathlib.Path:
    """Returns the MODEL_DIR of the run with some noise."""
    return model_dir / f"gamma_{gamma:g}"


def find_model_dir(options) -> str:
    """Returns the MODEL_DIR that the gin files say, under which each run has its own.

    Raises:
        ConfigError: they configure no training of a T5, or no text.
    """
    gin_flags.parse_gin(
        options.gin_file, options.gin_bindings, options.gin_search_paths
    )
    gin_flags.configured_one((train_t5.train,))
    found = gin_flags.bound_text(train_t5.train, "model_dir")
    if found is None:
        raise ConfigError("train_t5.train.model_dir must be text: give MODEL_DIR.")
    return found


def train_one(options, folder: pathlib.Path, gamma: float) -> tuple[Stage, TrainedT5]:
    """Returns the last stage of a run with some noise, and what it trained.

    A run that is finished is not trained again, one that was killed goes on.

    Raises:
        ConfigError: the run is none of JPR with held-out rankings.
    """
    given = [f"GAMMA = {gamma!r}", f"MODEL_DIR = {str(folder)!r}"]
    gin_flags.parse_gin(
        options.gin_file, [*options.gin_bindings, *given], options.gin_search_paths
    )
    stage = gin_flags.bound_arguments(train_t5.train, ["stages"])["stages"][-1]
    method = stage.method
    if not isinstance(method, Jpr) or method.objective == "independent":
        raise ConfigError(
            f"{type(method).__name__} has neither noise nor trees to tune: give a run "
            "of JPR, such as --gin_file=gin/runs/jpr_webqsp.gin."
        )
    if not method.dev_sets:
        raise ConfigError("there are no dev_sets to compare by: give DEV_RANKINGS.")
    report(f"gamma {gamma:g}: {folder}")
    return stage, gin_flags.call(train_t5.train)


def read_dev(method: Jpr, trained: TrainedT5) -> list[RankedQuestion]:
    """Returns the held-out rankings of a run, as deep as it reads them."""

    def rankings() -> Iterator[RankedQuestion]:
        for one in method.dev_sets:
            for ranked in read_ranked(one, trained.workspace.tokenizer):
                best = ranked.candidates[: one.depth]
                yield dataclasses.replace(ranked, candidates=best)

    return list(rankings())


def decode(
    folder: pathlib.Path, dev: Sequence[RankedQuestion], beta: float
) -> list[RankedQuestion]:
    """Returns the held-out rankings in the order of a run's T5, decoded once.

    They are kept beside it, by the digest of its files.
    """
    digest = manifest.read_manifest(folder / train_t5.FOLDER)["sha256"][:12]
    path = folder / f"dev_beta_{beta:g}_{digest}.json"
    if not path.exists():
        reranker = JointReranker(str(folder), "jpr", rules=TreeRules(beta))
        found = rerank_all(dev, reranker, mesh=partitioning.make_mesh())
        report(f"beta {beta:g}: {reranker.note()}")
        example_files.write_examples(path, found, _FORMAT)
    kept = example_files.read_examples(path, _FORMAT)
    return [
        dataclasses.replace(one, question=known.question)
        for one, known in zip(kept, dev, strict=True)
    ]


def result_table(measured: Mapping[str, Mapping[str, float]], k: int) -> str:
    """Returns what was measured as text: a line each of "before" and "gamma/beta"."""
    names = [
        f"{kind}{measure}_at_{k}"
        for measure in ("mrecall", "alpha_ndcg")
        for kind in ("", "multi_")
    ]
    width = max(map(len, names)) + 2
    lines = ["gamma   beta    " + "".join(name.rjust(width) for name in names)]
    for label, values in measured.items():
        gamma, _, beta = label.partition("/")
        shown = "".join(f"{values[name]:{width}.3f}" for name in names)
        lines.append(f"{gamma:8}{beta:8}{shown}")
    return "\n".join(lines)
