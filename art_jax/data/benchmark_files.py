"""Questions in the files that benchmarks publish, each read as its authors wrote it.

Every reader takes a path, plain or gzipped, and yields `Question`s in the file's order.
Formats that `read_questions` knows (NQ-open, tables of DPR and ART) need none of these.
"""

import dataclasses
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from art_jax.data import text_files
from art_jax.data.json_files import (
    read_json_columns,
    read_json_member,
    read_json_records,
)
from art_jax.data.judgments import read_judgments
from art_jax.data.kilt_files import read_kilt
from art_jax.data.questions import Question, json_strings, read_questions
from art_jax.data.text_files import json_objects
from art_jax.errors import DataError

_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]+))\)')

Path = str | os.PathLike


def read_triviaqa(path: Path) -> Iterator[Question]:
    """Questions of TriviaQA, such as `unfiltered-web-dev.json`.

    Answers are the value and its aliases; the test file has none.

    Source: Joshi et al., arXiv:1705.03551, and its published files.
    """
    for number, record in read_json_member(path, "Data"):
        answer = _object(record, "Answer", path, number)
        answers = (
            *json_strings(answer, "Value", path, number),
            *json_strings(answer, "Aliases", path, number),
        )
        yield Question(
            _required(record, "QuestionId", path, number),
            _required(record, "Question", path, number),
            tuple(dict.fromkeys(answers)),
        )


def read_webquestions(path: Path) -> Iterator[Question]:
    """Questions of WebQuestions: `utterance` and, as an s-expression, `targetValue`.

    Source: Berant et al., EMNLP 2013, and its published files.
    """
    for number, record in read_json_records(path):
        target = _required(record, "targetValue", path, number)
        answers = [
            re.sub(r"\\(.)", r"\1", quoted) if quoted else bare.strip()
            for quoted, bare in _DESCRIPTION.findall(target)
        ]
        if not answers:
            raise DataError(
                f"'targetValue' {target!r} names no (description ...).", path, number
            )
        text = _required(record, "utterance", path, number)
        yield Question(str(number), text, tuple(answers))


def read_squad(path: Path) -> Iterator[Question]:
    """Questions of SQuAD 1.1, such as `train-v1.1.json`, with their distinct answers.

    Their paragraphs are left out: open-domain tests search for them.

    Source: Rajpurkar et al., arXiv:1606.05250, and its published files.
    """
    for number, article in read_json_member(path, "data"):
        for paragraph in json_objects(article, "paragraphs", path, number):
            for record in json_objects(paragraph, "qas", path, number):
                answers = [
                    _required(answer, "text", path, number)
                    for answer in json_objects(record, "answers", path, number)
                ]
                yield Question(
                    _required(record, "id", path, number),
                    _required(record, "question", path, number),
                    tuple(dict.fromkeys(answers)),
                )


def read_entity_questions(path: Path) -> Iterator[Question]:
    """Questions of one relation of EntityQuestions, such as `P106.test.json`.

    Source: Sciavolino et al., arXiv:2109.08535, and its published files.
    """
    for place, (number, record) in enumerate(read_json_records(path), 1):
        yield Question(
            str(place),
            _required(record, "question", path, number),
            json_strings(record, "answers", path, number),
        )


def read_ambigqa(path: Path) -> Iterator[Question]:
    """Questions of AmbigQA, such as `dev_light.json`.

    Annotators gave one answer or several, each with aliases. `answers` are all that
    anybody gave; `answer_groups` those of the annotator who gave the most, the first
    of equals.

    Source: Min et al., arXiv:2004.10645, and its published files.
    """
    for number, record in read_json_records(path):
        annotations = [
            _annotated_answers(annotation, path, number)
            for annotation in json_objects(record, "annotations", path, number)
        ]
        every = [alias for groups in annotations for group in groups for alias in group]
        yield Question(
            _required(record, "id", path, number),
            _required(record, "question", path, number),
            tuple(dict.fromkeys(every)),
            answer_groups=max(annotations, key=len, default=()),
        )


def read_webqsp(path: Path) -> Iterator[Question]:
    """Questions of WebQSP, such as `WebQSP.test.json`, with their several answers.

    An answer is an entity's name, or the value where it is no entity; those of all
    parses are united. Questions without an answer are left out, as in JPR.

    Source: Yih et al., ACL 2016, and its published files.
    """
    for number, record in read_json_member(path, "Questions"):
        answers = dict.fromkeys(
            _text(answer, "EntityName", path, number)
            or _required(answer, "AnswerArgument", path, number)
            for parse in json_objects(record, "Parses", path, number)
            for answer in json_objects(parse, "Answers", path, number)
        )
        if answers:
            yield Question(
                _required(record, "QuestionId", path, number),
                _required(record, "RawQuestion", path, number),
                tuple(answers),
                answer_groups=tuple((answer,) for answer in answers),
            )


def read_drqa(path: Path) -> Iterator[Question]:
    """Questions as DrQA holds them, such as `CuratedTrec-test.txt`: lines of JSON.

    Source: Chen et al., arXiv:1704.00051, and its published files.
    """
    for number, record in read_json_records(path):
        yield Question(
            str(number),
            _required(record, "question", path, number),
            json_strings(record, "answer", path, number),
        )


def read_curatedtrec(path: Path) -> Iterator[Question]:
    """Questions of CuratedTREC, such as `curated-test.tsv`: id, type, question, answer.

    The answer is a regular expression.

    Source: Baudis and Sedivy, CLEF 2015, and its published files.
    """
    for number, line in text_files.read_raw_lines(path):
        fields = text_files.decode_line(line, path, number).split("\t", 3)
        if len(fields) != 4 or not all(map(text_files.is_visible, fields)):
            raise DataError(
                "a line must be id<TAB>type<TAB>question<TAB>pattern.", path, number
            )
        question_id, _, text, pattern = fields
        yield Question(question_id, text.strip(), (pattern,))


def read_kilt_questions(path: Path) -> Iterator[Question]:
    """Questions of a task of KILT, such as `nq-dev-kilt.jsonl`."""
    for item in read_kilt(path):
        yield item.question()


def read_searchqa(path: Path) -> Iterator[Question]:
    """Jeopardy's clues to be made of their answers, as SearchQA publishes them.

    An answer is the question's text, its clue the one answer.

    Args:
        path: `train.zip`, `val.zip` or `test.zip`, or a folder with what is in it: a
            JSON object a file. Questions come in the order of the files' names, which
            are their ids.

    Source: Dunn et al., arXiv:1704.05179; the task: Lewis et al., arXiv:2005.11401.
    """
    for name, line in _read_members(path):
        record = text_files.parse_json_object(line, f"{path}/{name}", 1)
        yield Question(
            pathlib.PurePath(name).stem,
            _required(record, "answer", f"{path}/{name}", 1),
            (_required(record, "question", f"{path}/{name}", 1),),
        )


def read_msmarco_nlg(path: Path) -> Iterator[Question]:
    """Questions of MS MARCO 2.1 with well-formed answers, such as `dev_v2.1.json`.

    Those without one are left out; so are the passages.

    Source: Bajaj et al., arXiv:1611.09268, and its published files.
    """
    names = ("query", "query_id", "wellFormedAnswers")
    columns = read_json_columns(path, names)
    for row, answers in columns["wellFormedAnswers"].items():
        # The files hold the text "[]" where there is none.
        if not isinstance(answers, list) or not answers:
            continue
        record = {name: columns[name].get(row) for name in names}
        yield Question(
            _required(record, "query_id", path, None),
            _required(record, "query", path, None),
            json_strings(record, "wellFormedAnswers", path, None),
        )


def read_fever(path: Path, *, num_labels: int = 3) -> Iterator[Question]:
    """Claims of FEVER with their label, such as `train.jsonl`.

    Args:
        path: of the file.
        num_labels: 3 for SUPPORTS, REFUTES and NOT ENOUGH INFO; 2 leaves out claims of
            the last.

    Source: Thorne et al., arXiv:1803.05355, and its published files.
    """
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    for number, record in read_json_records(path):
        label = _required(record, "label", path, number)
        if label not in labels:
            raise DataError(
                f"'label' is {label!r}: it must be one of {', '.join(labels)}.",
                path,
                number,
            )
        if label in labels[:num_labels]:
            yield Question(
                _required(record, "id", path, number),
                _required(record, "claim", path, number),
                (label,),
            )


def _read_members(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the names and texts of the JSON files of a folder or archive, by name."""
    if os.path.isdir(path):
        for file in sorted(pathlib.Path(path).rglob("*.json")):
            yield file.name, text_files.decode_line(file.read_bytes(), file, 1)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                # macOS leaves files of its own beside each.
                if name.endswith(".json") and not name.startswith("__MACOSX"):
                    content = archive.read(name)
                    yield name, text_files.decode_line(content, f"{path}/{name}", 1)
    except zipfile.BadZipFile as error:
        raise DataError(f"the archive is damaged ({error}).", path) from error


def read_judged_questions(
    questions_path: Path, judgments_path: Path
) -> Iterator[Question]:
    """Questions with the passages that judgments call relevant, and their grades.

    Those of BEIR (`queries.jsonl`, `qrels/test.tsv`) and of MS MARCO
    (`queries.dev.small.tsv`, `qrels.dev.small.tsv`). Questions without a relevant
    passage are left out; they come in the order of the questions' file.

    Raises:
        DataError: a judged question is not in the questions' file.
    """
    judgments = read_judgments(judgments_path)
    missing = set(judgments)
    for question in _read_texts(questions_path):
        grades = judgments.get(question.question_id)
        if grades is None:
            continue
        missing.discard(question.question_id)
        relevant = {one: grade for one, grade in grades.items() if grade > 0}
        if relevant:
            is_graded = max(relevant.values()) > 1
            yield dataclasses.replace(
                question,
                relevant_ids=tuple(relevant),
                grades=tuple(relevant.values()) if is_graded else (),
            )
    if missing:
        raise DataError(
            f"{len(missing)} questions of {judgments_path} are not there, such as "
            f"{min(missing)!r}: the two files are of different sets.",
            questions_path,
        )


def _read_texts(path: Path) -> Iterator[Question]:
    """Questions with ids: of a `.tsv`, id and text, as MS MARCO; else as elsewhere."""
    is_table = text_files.file_format(path, (".jsonl", ".tsv")) == ".tsv"
    return (read_msmarco_queries if is_table else read_questions)(path)


def read_msmarco_queries(path: Path) -> Iterator[Question]:
    """Questions of MS MARCO, such as `queries.dev.small.tsv`: id and text.

    Source: Bajaj et al., arXiv:1611.09268, and its published files.
    """
    for number, line in text_files.read_raw_lines(path):
        question_id, tab, text = text_files.decode_line(line, path, number).partition(
            "\t"
        )
        if not tab or not text.strip():
            raise DataError("a line must be question_id<TAB>text.", path, number)
        yield Question(question_id, text)


def _annotated_answers(
    annotation: dict[str, Any], path: Path, number: int
) -> tuple[tuple[str, ...], ...]:
    """The answers of one annotator of AmbigQA, each with its aliases."""
    kind = _required(annotation, "type", path, number)
    if kind == "singleAnswer":
        return (json_strings(annotation, "answer", path, number),)
    if kind == "multipleQAs":
        return tuple(
            json_strings(pair, "answer", path, number)
            for pair in json_objects(annotation, "qaPairs", path, number)
        )
    raise DataError(
        f"'type' is {kind!r}: it must be 'singleAnswer' or 'multipleQAs'.", path, number
    )


def _text(record: dict[str, Any], key: str, path: Path, number: int | None) -> str:
    return text_files.json_id(record, (key,), path, number) or ""


def _required(record: dict[str, Any], key: str, path: Path, number: int | None) -> str:
    value = _text(record, key, path, number)
    if not text_files.is_visible(value):
        raise DataError(f"{key!r} is missing or empty.", path, number)
    return value


def _object(
    record: dict[str, Any], key: str, path: Path, number: int
) -> dict[str, Any]:
    return text_files.checked_object(record.get(key) or {}, path, number)
