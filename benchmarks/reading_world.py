"""A made-up world to try retrieval, reranking and reading on: files for `art-jax`.

    python benchmarks/reading_world.py world
    python benchmarks/reading_world.py world --people 1500 --seed 1

Each person lives in one town and has one to three trades, which a passage each tells,
among three about what he likes. Questions ask where somebody lives, or what he works
as, and so have one answer or several; the people of dev.jsonl and test.jsonl are in no
question of train.jsonl.

Written: passages.tsv, train.jsonl, dev.jsonl, test.jsonl, and spiece.model, a
SentencePiece vocabulary for a T5 from scratch. docs/reading.md goes on from there.
"""

import argparse
import io
import itertools
import pathlib
import random

from art_jax.data.passages import Passage, write_passages
from art_jax.data.questions import Question, write_questions

FIRST_NAMES = tuple(
    """Ada Ann Ben Bo Cleo Cy Dan Eve Fay Gus Hal Ida Ivy Jon Kit Lea Leo Mae Max Mia
    Ned Nia Ola Otto Pia Rae Rex Roy Sal Tess Una Vic""".split()  # noqa: SIM905 (a text)
)
LAST_NAMES = tuple(
    """Ash Bell Birch Black Brook Cole Cook Cross Dale Dean Drake Elm Finch Fox Frost
    Gray Hale Hart Hill Hope Lake Lane Marsh Moon North Pike Reed Stone Vale West Wood
    York""".split()  # noqa: SIM905 (a text)
)
TOWNS = ("Arlo", "Brin", "Cask", "Dunmore", "Elva", "Fern", "Galt", "Hollow")
TRADES = ("baker", "carver", "dyer", "fisher", "glazier", "mason", "potter", "weaver")
LIKES = ("music", "rain", "chess", "walks", "tea", "old maps", "dogs", "quiet")
DEV_QUESTIONS, TEST_QUESTIONS = 100, 200
PIECES = 200
# One token each: what a prompt says beside question and passage.
SYMBOLS = ("question:", "title:", "context:", "[SEP]")


def make_people(count: int, rng: random.Random) -> list[dict]:
    """Returns people, each with a name, a town, trades and likes."""
    names = [" ".join(both) for both in itertools.product(FIRST_NAMES, LAST_NAMES)]
    return [
        {
            "name": name,
            "town": rng.choice(TOWNS),
            "trades": rng.sample(TRADES, rng.randint(1, 3)),
            "likes": rng.sample(LIKES, 3),
        }
        for name in rng.sample(names, count)
    ]


def tell(person: dict) -> list[str]:
    """Returns all that there is to say of a person, a text each."""
    name = person["name"]
    return [
        f"{name} lives in {person['town']}.",
        *(f"{name} works as a {trade}." for trade in person["trades"]),
        *(f"{name} likes {thing}." for thing in person["likes"]),
    ]


def ask(number: int, person: dict) -> list[Question]:
    """Returns the two questions about a person, with their answers."""
    name, trades = person["name"], tuple(person["trades"])
    return [
        Question(f"town{number}", f"where does {name} live", (person["town"],)),
        Question(
            f"trade{number}",
            f"what does {name} work as",
            trades,
            answer_groups=tuple((trade,) for trade in trades),
        ),
    ]


def train_vocabulary(texts: list[str]) -> bytes:
    """Returns a SentencePiece model of T5's kind: padding 0, end 1, unknown 2."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=PIECES,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=list(SYMBOLS),
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    """Writes the files."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("folder", type=pathlib.Path, help="a new folder")
    flags.add_argument("--people", type=int, default=1000)
    flags.add_argument("--seed", type=int, default=0)
    options = flags.parse_args()
    options.folder.mkdir(parents=True)
    rng = random.Random(options.seed)
    people = make_people(options.people, rng)
    texts = [text for person in people for text in tell(person)]
    rng.shuffle(texts)
    write_passages(
        options.folder / "passages.tsv",
        (Passage(str(number), text) for number, text in enumerate(texts, start=1)),
    )
    questions = [one for pair in enumerate(people) for one in ask(*pair)]
    ends = (
        len(questions) - DEV_QUESTIONS - TEST_QUESTIONS,
        len(questions) - TEST_QUESTIONS,
    )
    for name, part in (
        ("train", questions[: ends[0]]),
        ("dev", questions[ends[0] : ends[1]]),
        ("test", questions[ends[1] :]),
    ):
        write_questions(options.folder / f"{name}.jsonl", part)
    model = train_vocabulary(texts + [one.text for one in questions])
    (options.folder / "spiece.model").write_bytes(model)
    print(f"{len(texts):,} passages, {len(questions):,} questions: {options.folder}")


if __name__ == "__main__":
    main()
