"""How fast answers are found in passages, beside the protocol done plainly.

    python benchmarks/answers.py --json [--folder BEIR_FOLDER --questions 3610]

Finds 100 passages for each question with BM25, then decides for each whether it holds
an answer: with `evaluation.answers.answer_hits`, and plainly, cutting each passage into
tokens for each question and comparing token lists. The plain way is timed on the first
questions, as many as `--plain-questions`, and every decision on them must be the same.

The folder holds `corpus.jsonl` and `answers.jsonl` (`question`, `answers`), gzipped or
not. Without it, questions and passages are made of random words.
"""

import pathlib
import random
import time

import measure

from art_jax.data.passages import Passage, read_passages
from art_jax.data.questions import Question, read_questions
from art_jax.evaluation import answers
from art_jax.index import bm25


def main():
    flags = measure.parser(__doc__.split("\n")[0])
    flags.add_argument("--folder", type=pathlib.Path)
    flags.add_argument("--questions", type=int, default=3610)
    flags.add_argument("--plain-questions", type=int, default=100)
    flags.add_argument("-k", type=int, default=100)
    options = flags.parse_args()
    passages, questions = read(options.folder) if options.folder else make()
    questions = [question for question in questions if question.answers]
    questions = questions[: options.questions]
    index = bm25.build_bm25(map(bm25.passage_text, passages))
    rows = bm25.search_bm25(index, [q.text for q in questions], options.k).rows
    golds = [question.answers for question in questions]

    started = time.perf_counter()
    hits = answers.answer_hits(rows, lambda row: passages[row].text, golds)
    seconds = time.perf_counter() - started
    few = min(options.plain_questions, len(questions))
    started = time.perf_counter()
    plain = [
        [row >= 0 and holds(passages[row].text, gold) for row in found]
        for found, gold in zip(rows[:few].tolist(), golds[:few], strict=True)
    ]
    plain_seconds = (time.perf_counter() - started) * len(questions) / few
    result = {
        "passages": len(passages),
        "questions": len(questions),
        "k": options.k,
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "plain_questions": few,
        "speedup_over_plain": plain_seconds / seconds,
        "decisions_that_differ": int((hits[:few] != plain).sum()),
    }
    measure.show(result, as_json=options.json)


def holds(text: str, golds: tuple[str, ...]) -> bool:
    """The protocol done plainly, for one passage."""
    tokens = answers.tokenize(text)
    for gold in golds:
        wanted = answers.tokenize(gold)
        for start in range(len(tokens) - len(wanted) + 1):
            if wanted and tokens[start : start + len(wanted)] == wanted:
                return True
    return False


def read(folder: pathlib.Path) -> tuple[list[Passage], list[Question]]:
    def path(name: str) -> pathlib.Path:
        plain = folder / name
        return plain if plain.exists() else folder / f"{name}.gz"

    return (
        list(read_passages(path("corpus.jsonl"), allow_empty_text=True)),
        list(read_questions(path("answers.jsonl"))),
    )


def make() -> tuple[list[Passage], list[Question]]:
    draw = random.Random(0)
    words = [f"word{number}" for number in range(20_000)]

    def text(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    passages = [Passage(str(row), text(100)) for row in range(20_000)]
    questions = [Question(str(row), text(8), (text(1),)) for row in range(4_000)]
    return passages, questions


if __name__ == "__main__":
    main()
