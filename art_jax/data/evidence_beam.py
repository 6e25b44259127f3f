"""The parts of a build written by an Apache Beam pipeline, on any of its runners.

    create part numbers -> reshuffle -> write each part -> (all of them) ---+
    create bucket numbers -> reshuffle -> check each bucket's ids <--------+

What passes through the pipeline are numbers; passages go from the corpus to the parts
in one step, on one worker, so nothing holds more than a part. The functions are those
that processes of one machine run (`evidence_parts`), so the bytes are the same, and a
pipeline that was stopped goes on behind the parts that are there, on any runner.

Needs a file system that the workers and the machine that starts the pipeline see under
the same paths: the corpus is read from it, and parts are written beside the target. The
machine that starts joins them. Workers need art_jax installed.
"""

import functools
import json
import pathlib
from collections.abc import Sequence

from art_jax import atomic, errors
from art_jax.data import evidence_parts
from art_jax.data.evidence_parts import Plan, Runner
from art_jax.errors import ArtJaxError, ConfigError, require_package

_FAULTS = "faults"


def beam_runner(runner: str, options: Sequence[str] = ()) -> Runner:
    """Returns a `run` for `evidence_parts.build` that starts a pipeline.

    Args:
        runner: as Beam names it: "DirectRunner", "DataflowRunner", "FlinkRunner",
            "SparkRunner", ...
        options: of the pipeline, such as "--project=mine" or "--direct_num_workers=8".

    Raises:
        ConfigError: apache_beam is not installed. And by `run`: the runner or an
            option of it is not known.
        DataError: by `run`, where the corpus breaks a rule.
    """
    require_package("apache_beam", purpose="--runner", extra="beam")
    return functools.partial(_run_pipeline, flags=[f"--runner={runner}", *options])


def _run_pipeline(folder: pathlib.Path, plan: Plan, *, flags: Sequence[str]) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    faults = folder / _FAULTS
    faults.mkdir(exist_ok=True)
    atomic.clear_directory(faults)
    try:
        pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
    except ValueError as error:
        raise ConfigError(f"Beam refuses {' '.join(flags)}: {error}") from error
    with pipeline:
        written = (
            pipeline
            | "parts" >> beam.Create(range(len(plan.parts)))
            | "spread parts" >> beam.Reshuffle()
            | "write parts" >> beam.Map(_write_part, str(folder))
        )
        _ = (
            pipeline
            | "buckets" >> beam.Create(range(plan.num_buckets))
            | "spread buckets" >> beam.Reshuffle()
            # The side input makes it wait until every part is written.
            | "check ids"
            >> beam.Map(_check_ids, str(folder), beam.pvalue.AsList(written))
        )
    for path in sorted(faults.iterdir()):
        fault = json.loads(path.read_text(encoding="utf-8"))
        kind = getattr(errors, fault["kind"])
        raise kind(fault["message"])
    faults.rmdir()


def _write_part(index: int, folder: str) -> bool:
    """Whether the part is there; after a fault in any part, nothing more is written."""
    faults = pathlib.Path(folder, _FAULTS)
    if any(faults.iterdir()):
        return False
    try:
        evidence_parts.write_part(folder, index)
    except ArtJaxError as error:
        _note(error, faults / f"part-{index:05d}.json")
        return False
    return True


def _check_ids(bucket: int, folder: str, written: Sequence[bool]) -> None:
    if not all(written):
        return
    try:
        evidence_parts.check_ids(folder, bucket)
    except ArtJaxError as error:
        _note(error, pathlib.Path(folder, _FAULTS, f"ids-{bucket:05d}.json"))


def _note(error: ArtJaxError, path: pathlib.Path) -> None:
    """Keeps an error for the process that started the pipeline.

    Raised here, a runner would try again and end in a traceback of its own.
    """
    fault = {"kind": type(error).__name__, "message": str(error)}
    atomic.write_text(path, json.dumps(fault))
