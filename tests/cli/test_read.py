"""`art-jax read`: a T5 learns to say the names its passages hold, and its files."""

import io
import json
import random
import types

import jax
import numpy as np
import pytest

from art_jax.cli import ranked_files, read, train_t5
from art_jax.cli.main import build_parser, main
from art_jax.data import kilt_files
from art_jax.data.answer_targets import TargetRules
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.prompts import PassagePrompt
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.methods.ranked_table import RankedSet
from art_jax.methods.reading.fid_reader import Answers, FidReader
from art_jax.models import t5
from art_jax.training.optimizers import Adafactor
from art_jax.training.stage import Stage

NAMES = ("Ann", "Bob", "Cid", "Dot")
TEMPLATE = "q {q} c {c}"
RULES = TargetRules("sequence", separator="and", max_tokens=8)


def make_ranking(number):
    """Three passages, of which two hold a name; another has none."""
    rng = random.Random(number)
    first, second = rng.sample(NAMES, 2)
    texts = [f"{first} is", f"is {second}", "is is"]
    rng.shuffle(texts)
    candidates = tuple(
        Candidate(Passage(f"{number}+{place}+0", text), 1.0 - place)
        for place, text in enumerate(texts)
    )
    groups = ((first.lower(), first), (second,))
    answers = tuple(alias for group in groups for alias in group)
    question = Question(f"q{number}", "who is", answers, answer_groups=groups)
    return RankedQuestion(question, candidates)


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """As in all of tests/cli, but for the whole module: the run in it counts too."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with spiece.model, train.json, test.json and a trained reader, run."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("read")
    model = io.BytesIO()
    words = ["q", "c", "who", "is", "and", *NAMES]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words)] * 20),
        model_writer=model,
        model_type="word",
        vocab_size=len(words) + 3,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    for name, numbers in (("train", range(200)), ("test", range(1000, 1020))):
        ranked = [make_ranking(number) for number in numbers]
        ranked_files.write_rankings(
            folder / f"{name}.json", ranked, "dpr-results", tag=""
        )
    train(folder)
    return folder


def train(folder):
    sets = (
        RankedSet(path=str(folder / "train.json")),
        RankedSet(path=str(folder / "test.json")),
    )
    reader = FidReader(
        train_sets=sets[:1],
        dev_sets=sets[1:],
        targets=RULES,
        prompt=PassagePrompt(TEMPLATE, 8),
        dropout=False,
    )
    stage = Stage(
        "read",
        reader,
        train_steps=100,
        batch_size=32,
        optimizer=Adafactor(learning_rate=0.02, warmup_steps=20),
        refresh_every_steps=None,
        eval_every_steps=100,
        save_every_steps=500,
        choose_by="answer_set_f1",
    )
    train_t5.train(
        model_dir=str(folder / "run"),
        stages=(stage,),
        t5=t5.T5Config(
            vocab_size=16,
            emb_dim=32,
            num_heads=2,
            head_dim=16,
            mlp_dim=32,
            num_encoder_layers=1,
            num_decoder_layers=1,
            dtype="float32",
        ),
        vocabulary=str(folder / "spiece.model"),
    )


def run(folder, output, *options):
    model = str(folder / "run")
    arguments = [str(folder / "test.json"), str(output), "--model", model]
    return main(["read", *arguments, *map(str, options)])


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def names_in(ranking, depth=3):
    """The names that its first passages hold; a reader cannot tell their ranks."""
    texts = [one.passage.text for one in ranking.candidates[:depth]]
    return sorted(word for text in texts for word in text.split() if word in NAMES)


TEST = [make_ranking(number) for number in range(1000, 1020)]


def test_a_trained_reader_says_all_names_its_passages_hold(folder, tmp_path, capsys):
    attention = tmp_path / "attention.json"
    options = ("--write_attention", attention, "--passages_at_once", 2)
    assert run(folder, tmp_path / "out.jsonl", *options) == 0
    output = capsys.readouterr()
    assert "F1: 1.0000" in output.out
    assert "F1, questions with several answers: 1.0000" in output.out
    assert "20 questions answered" in output.out
    assert "read 20 questions in" in output.err
    records = read_lines(tmp_path / "out.jsonl")
    for one, record in zip(TEST, records, strict=True):
        assert record["question_id"] == one.question.question_id
        assert sorted(record["prediction"]) == names_in(one)
        assert record["answers"] == list(one.question.answers)
        assert -1 < record["log_likelihood"] < 0
    # The reader looks at passages with a name, not at the one without.
    ranked = ranked_files.read_rankings(attention, "dpr-results", k=9)
    lasts = [one.candidates[-1].passage.text for one in ranked]
    assert lasts == ["is is"] * len(TEST)
    for one in ranked:
        scores = [each.score for each in one.candidates]
        assert scores == sorted(scores, reverse=True)


def test_it_reads_as_many_passages_as_are_asked_for(folder, tmp_path, capsys):
    options = ("-k", 1, "--beams", 2, "--write_as", "kilt", "--batch_size", 16)
    assert run(folder, tmp_path / "out.jsonl", *options) == 0
    score = float(capsys.readouterr().out.splitlines()[0].removeprefix("F1: "))
    assert score < 0.9
    for one, item in zip(
        TEST, kilt_files.read_kilt(tmp_path / "out.jsonl"), strict=True
    ):
        (output,) = item.outputs
        assert set(names_in(one, 1)) <= set(output.answer.split(" and "))
        (place,) = output.provenance
        first = one.candidates[0].passage.passage_id
        assert (place.wikipedia_id, place.end_paragraph) == (
            first.partition("+")[0],
            int(first.split("+")[1]),
        )


def test_a_trec_run_is_read_with_texts(folder, tmp_path):
    run_file = tmp_path / "r.trec"
    ranked_files.write_rankings(run_file, TEST[:8], "trec-run", tag="x")
    questions = [
        {"_id": one.question.question_id, "text": one.question.text} for one in TEST
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    passages = [each.passage for one in TEST for each in one.candidates]
    rows = ["\t".join((one.passage_id, one.text, "")) for one in passages]
    (tmp_path / "p.tsv").write_text("\n".join(rows))
    texts = ["--queries", tmp_path / "q.jsonl", "--passages", tmp_path / "p.tsv"]
    arguments = ["read", run_file, tmp_path / "out", "--model", folder / "run", *texts]
    assert main(list(map(str, arguments))) == 0
    records = read_lines(tmp_path / "out")
    said = [sorted(one["prediction"]) for one in records]
    assert said == list(map(names_in, TEST[:8]))
    assert "answers" not in records[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-k", "0"], "k is 0"),
        (["--beams", "0"], "beams is 0"),
        (["--model", "nowhere"], "nowhere holds no T5"),
        (["--from", "trec-run"], "fields where a run has six"),
        (["--write_attention", "nowhere/a.json"], "no folder to write nowhere/a.json"),
    ],
)
def test_mistakes_are_told_before_any_work(folder, tmp_path, capsys, options, message):
    texts = ["--queries", folder / "test.json", "--passages", folder / "test.json"]
    assert run(folder, tmp_path / "out", *texts, *options) in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rankings_without_passages_are_refused(folder, tmp_path, capsys):
    path = tmp_path / "empty.json"
    empty = [RankedQuestion(TEST[0].question, ())]
    ranked_files.write_rankings(path, empty, "dpr-results", tag="")
    arguments = [str(path), str(tmp_path / "out"), "--from", "dpr-results"]
    assert main(["read", *arguments, "--model", str(folder / "run")]) == 3
    assert "no question has a passage" in capsys.readouterr().err


def test_only_a_reader_reads():
    options = types.SimpleNamespace(model="runs/jpr", passages_at_once=None)
    saved = types.SimpleNamespace(method="Jpr", settings={})
    with pytest.raises(ConfigError, match="runs/jpr was trained by Jpr"):
        read.make_reader(saved, options)


def test_options_choose_a_batch_and_a_search():
    assert [read.batch_size(None, n) for n in (1, 2, 3, 8, 16)] == [8, 8, 9, 8, 16]
    assert read.batch_size(6, 2) == 6
    arguments = ["read", "in", "out", "--model", "m"]
    parse = build_parser().parse_args
    assert read.beam_rules(parse(arguments)) is None
    rules = read.beam_rules(parse([*arguments, "--beams", "3"]))
    assert (rules.beams, rules.alpha) == (3, 0.0)


def test_a_record_says_what_is_right_and_what_was_said():
    one = RankedQuestion(Question("q", "who?", ("Ann",)), ())
    assert read.answer_record(one, Answers((), -np.inf), "one") == {
        "question_id": "q",
        "question": "who?",
        "prediction": "",
        "log_likelihood": None,
        "answers": ["Ann"],
    }
    said = Answers(("Ann", "Bob"), -0.5)
    assert read.answer_record(TEST[0], said, "sequence")["prediction"] == ["Ann", "Bob"]
