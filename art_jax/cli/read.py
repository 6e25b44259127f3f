"""`art-jax read`: answers to the questions of a run, read in its passages."""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence

from art_jax import partitioning
from art_jax.checkpoints import t5_folder
from art_jax.checkpoints.t5_folder import SavedT5
from art_jax.cli import ranked_files
from art_jax.cli.progress import make_progress
from art_jax.cli.rerank import best_first, in_order
from art_jax.data import kilt_files
from art_jax.data.examples import RankedQuestion
from art_jax.data.text_files import open_new_text
from art_jax.errors import ConfigError, DataError
from art_jax.evaluation import rankings
from art_jax.evaluation.answer_measures import measure_answers
from art_jax.generation.beam import BeamRules
from art_jax.methods.reading.fid_reader import Answers, FidReader
from art_jax.methods.t5_workspace import T5Workspace

FORMATS = ("jsonl", "kilt")
LABELS = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "answer_set_f1": "F1",
    "multi_answer_set_f1": "F1, questions with several answers",
}


def run(options) -> None:
    """Runs the verb `read`."""
    check_options(options)
    reader = make_reader(t5_folder.open_t5(options.model), options)
    ranked = ranked_files.read_rankings(
        options.run_file,
        options.read_as or ranked_files.find_format(options.run_file),
        k=options.k,
        queries=options.queries,
        passages=options.passages,
    )
    if not any(one.candidates for one in ranked):
        raise DataError("no question has a passage to read.", options.run_file)
    mesh = partitioning.make_mesh(model_parallelism=options.model_parallelism)
    saved = t5_folder.load_t5(options.model, mesh, dtype=options.dtype)
    workspace = T5Workspace(mesh, saved.config, saved.tokenizer)
    size = batch_size(options.batch_size, mesh.shape[partitioning.DATA_AXIS])
    said = reader.read(
        saved.params,
        workspace,
        ranked,
        beams=beam_rules(options),
        max_tokens=options.max_answer_tokens,
        batch_size=size,
    )
    report = make_progress(
        "read", len(ranked), lambda line: print(line, file=sys.stderr)
    )
    answers = list(_counted(said, report))
    write_answers(options.output, ranked, answers, options.write_as, reader)
    if options.write_attention:
        attention = reader.attention(saved.params, workspace, ranked, batch_size=size)
        ranked_files.write_rankings(
            options.write_attention,
            by_attention(ranked, attention),
            "dpr-results",
            tag="art_jax_attention",
        )
    measures = measure_answers(
        [one.texts for one in answers],
        [one.question for one in ranked],
        reader.targets.form,
    )
    for name, value in measures.items():
        print(f"{LABELS[name]}: {value:.4f}")
    print(f"{len(ranked):,} questions answered: {options.output}")


def check_options(options) -> None:
    """Raises ConfigError where an option is out of range, before any work."""
    for name in ("k", "beams", "batch_size", "max_answer_tokens", "passages_at_once"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: it must be 1 or more.")
    for path in filter(None, (options.output, options.write_attention)):
        if not pathlib.Path(path).absolute().parent.is_dir():
            raise ConfigError(f"there is no folder to write {path} to: make it.")


def make_reader(saved: SavedT5, options) -> FidReader:
    """Returns the reader that trained a T5, as the options change it.

    Raises:
        ConfigError: the T5 is no reader's.
    """
    if saved.method != FidReader.__name__:
        raise ConfigError(
            f"--model {options.model} was trained by {saved.method}, which answers "
            "nothing: give the MODEL_DIR of a reader, such as gin/runs/fid_nq_base.gin "
            "trains."
        )
    reader = t5_folder.make_method(FidReader, saved.settings)
    if options.passages_at_once is None:
        return reader
    return dataclasses.replace(reader, passages_at_once=options.passages_at_once)


def batch_size(wanted: int | None, num_devices: int) -> int:
    """Returns how many questions are read at once: as wanted, else 8 or some more."""
    return wanted or -(-8 // num_devices) * num_devices


def beam_rules(options) -> BeamRules | None:
    """Returns how answers are searched; None: greedily."""
    if options.beams == 1:
        return None
    return BeamRules(options.beams, alpha=options.length_penalty)


def write_answers(
    path: str,
    ranked: Sequence[RankedQuestion],
    answers: Sequence[Answers],
    file_format: str,
    reader: FidReader,
) -> None:
    """Writes a line for each question; the file appears only when it is whole.

    Args:
        path: of the file; gzipped where it ends in `.gz`.
        ranked: n questions with the passages that were read.
        answers: n.
        file_format: "jsonl", see `answer_record`, or "kilt", predictions whose
            provenance are the passages.
        reader: that said them.
    """
    if file_format == "kilt":
        separator = f" {reader.targets.separator} "
        items = rankings.kilt_predictions(
            [one.question for one in ranked],
            [one.candidates for one in ranked],
            [separator.join(one.texts) for one in answers],
        )
        kilt_files.write_kilt(path, items)
        return
    with open_new_text(path) as file:
        for one, said in zip(ranked, answers, strict=True):
            record = answer_record(one, said, reader.targets.form)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def answer_record(one: RankedQuestion, said: Answers, form: str) -> dict:
    """Returns what is written of a question: its prediction, and what is right.

    `prediction` is a text, "" for none; of a reader of several answers a list of them.
    """
    question = one.question
    record = {
        "question_id": question.question_id,
        "question": question.text,
        "prediction": " ".join(said.texts) if form == "one" else list(said.texts),
        "log_likelihood": (
            said.log_likelihood if math.isfinite(said.log_likelihood) else None
        ),
    }
    if question.answers:
        record["answers"] = list(question.answers)
    if question.answer_groups:
        record["answer_groups"] = [list(group) for group in question.answer_groups]
    return record


def by_attention(
    ranked: Sequence[RankedQuestion], attention
) -> Iterator[RankedQuestion]:
    """Yields rankings in the order of what a reader looks at, which is their score.

    Args:
        ranked: n questions.
        attention: [n, K] float, from `FidReader.attention`.
    """
    for one, row in zip(ranked, attention, strict=True):
        scores = row[: len(one.candidates)]
        yield in_order(one, scores, best_first(scores))


def _counted(said: Iterable[Answers], report) -> Iterator[Answers]:
    """Yields what is said, and reports how much it was."""
    for number, one in enumerate(said, start=1):
        yield one
        report(number)
