"""A made-up KILT: pages and files of eight tasks in, numbers and predictions out.

Each family of tasks asks about a page by words of another one: question answering by
those of the next, fact checking of the second next, and so on. So no encoder that reads
all questions alike can answer them, and one with a tower a family can.
"""

import json
import pathlib

import pytest

from art_jax.cli.main import main
from art_jax.data import evidence, kilt_files

HERE = pathlib.Path(__file__).parent
GIN = HERE.parents[1] / "gin" / "runs"
NUM_PAGES = 24
# SeqIO's name, the stem of KILT's file, that of the examples, and the family's shift.
TASKS = (
    ("fever", "fever", "fever", 2),
    ("aidayago2", "aidayago2", "aidayago2", 5),
    ("trex", "trex", "trex", 3),
    ("zeroshot_re", "structured_zeroshot", "zeroshot", 3),
    ("nq", "nq", "nq", 1),
    ("hotpotqa", "hotpotqa", "hotpotqa", 1),
    ("triviaqa", "triviaqa", "triviaqa", 1),
    ("wow", "wow", "wow", 4),
)
FORMS = {
    "fever": "page {} stood",
    "aidayago2": "stood " * 30 + "[START_ENT] {} [END_ENT] before",
    "trex": "{} [SEP] stood",
    "zeroshot_re": "{} [SEP] before",
    "nq": "stood {}",
    "hotpotqa": "before {}",
    "triviaqa": "stood before {}",
    "wow": "stood before\nbefore {}",
}
SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu"]


def word(page, section):
    """A word that stands in one section of one page."""
    tens, ones = divmod(2 * (page % NUM_PAGES) + section, 10)
    return SYLLABLES[tens] + SYLLABLES[ones] + SYLLABLES[(tens + 3 * ones) % 10]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def page(number):
    texts = [f"Page {number}\n"]
    texts.append(f"{word(number, 0)} stood before {word(number, 0)} here.\n")
    texts.append("Section::::Later.\n")
    texts.append(f"{word(number, 1)} stood before {word(number, 1)} there.\n")
    return {
        "wikipedia_id": str(100 + number),
        "wikipedia_title": f"Page {number}",
        "text": texts,
    }


def item(task, shift, number, section, bleu=1.0):
    """A question about a section, by the words of another page's."""
    provenance = {
        "wikipedia_id": str(100 + number),
        "title": f"Page {number}",
        "start_paragraph_id": 1 + 2 * section,
        "end_paragraph_id": 1 + 2 * section,
        "bleu_score": bleu,
    }
    if task == "aidayago2":  # Entity linking knows pages alone.
        provenance = {"wikipedia_id": str(100 + number), "title": f"Page {number}"}
    return {
        "id": f"{task}{number}{section}",
        "input": FORMS[task].format(word(number + shift, section)),
        "output": [{"answer": f"answer {number}", "provenance": [provenance]}],
    }


@pytest.fixture(scope="module")
def kilt(tmp_path_factory):
    """KILT's files and its passages, and the examples made of them."""
    root = tmp_path_factory.mktemp("kilt")
    write_lines(root / "ks.json", [page(number) for number in range(NUM_PAGES)])
    run("build", root / "ks.json", root / "kilt.tsv")
    run("build", root / "kilt.tsv", root / "store", "--tokenizer", vocabulary(root))
    for task, stem, name, shift in TASKS:
        items = [
            item(task, shift, number, section)
            for number in range(NUM_PAGES)
            for section in (0, 1)
        ]
        # One whose text was not found again; it is left out of training.
        bad = item(task, shift, 0, 0, bleu=0.4) | {"id": "bad"}
        bad["output"][0]["provenance"][0]["bleu_score"] = 0.4
        write_lines(root / f"kilt/{stem}-train-kilt.jsonl", [*items, bad])
        write_lines(root / f"kilt/{stem}-dev-kilt.jsonl", items[::4])
        first, mined = root / f"{name}.json", root / f"ur/{name}-train-multikilt.json"
        mined.parent.mkdir(exist_ok=True)
        run(
            *("data", "convert", "--from", "kilt", "--to", "dpr"),
            *(root / f"kilt/{stem}-train-kilt.jsonl", first),
            *("--passages", root / "kilt.tsv"),
        )
        run("mine", root / "store", "--bm25", "--examples", first, "--output", mined)
    return root


def vocabulary(root):
    from art_jax.data.passages import read_passages
    from art_jax.data.tokenizers import save_tokenizer, train_wordpiece

    texts = [f"{one.title} {one.text}" for one in read_passages(root / "kilt.tsv")]
    save_tokenizer(train_wordpiece(texts, 200), root / "tokenizer")
    return root / "tokenizer"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def metrics_of(folder):
    return json.loads((folder / "evaluation" / "retriever.json").read_text())


def untrained_measures(folder):
    """What was measured before the first step."""
    lines = (folder / "dpr" / "metrics.jsonl").read_text().splitlines()
    return next(one for one in map(json.loads, lines) if one["step"] == 0)


@pytest.fixture(scope="module")
def trained(kilt):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ART_JAX_DATA_DIR", str(kilt))
        run(
            "train",
            f"--gin_file={GIN / 'kilt_task_towers.gin'}",
            f"--gin_file={HERE / 'tiny_kilt.gin'}",
            f"--gin.MODEL_DIR={str(kilt / 'towers')!r}",
            f"--gin.PASSAGES={str(kilt / 'kilt.tsv')!r}",
        )
        yield kilt / "towers"


def test_examples_are_those_whose_text_was_found_and_have_a_confounder(kilt):
    for task, _, name, shift in TASKS:
        examples = json.loads((kilt / f"ur/{name}-train-multikilt.json").read_text())
        assert len(examples) == 2 * NUM_PAGES
        for example in examples:
            right = {one["passage_id"] for one in example["positive_ctxs"]}
            wrong = {one["passage_id"] for one in example["hard_negative_ctxs"]}
            assert right
            assert wrong
            assert not right & wrong
        # BM25 finds the page whose words are asked with, which is the wrong one.
        first = examples[0]["hard_negative_ctxs"][0]["passage_id"]
        assert first == f"{100 + shift}+1+0", task


def test_eight_tasks_end_to_end(kilt, trained):
    store = evidence.load_evidence(trained / "evidence")
    assert store.num_passages == 2 * NUM_PAGES
    tasks = [part for task, *_ in TASKS for part in ("--task", f"kilt_{task}")]
    run(
        *("evaluate", trained, *tasks, "--split", "dev", "-k", 10),
        *("--kilt_predictions", kilt / "out.jsonl"),
    )
    record, before_training = metrics_of(trained), untrained_measures(trained)
    for task, stem, _, _ in TASKS:
        found = record["tasks"][f"kilt_{task}"]["metrics"]
        # Words lead to the wrong page; only training tells which is right. The window
        # around a mention is mostly one word, so its task is learnt last.
        least = 0.25 if task == "aidayago2" else 0.9
        name = f"kilt_{task}" + "_100k" * (task in ("trex", "zeroshot_re"))
        [before] = [
            value for key, value in before_training.items() if f"{name}_page_r" in key
        ]
        assert before < 0.1
        assert found["page_r_precision"] > least, (task, found)
        assert ("passage_r_precision" in found) is (task != "aidayago2")
        golds = list(kilt_files.read_kilt(kilt / f"kilt/{stem}-dev-kilt.jsonl"))
        guesses = list(kilt_files.read_kilt(kilt / f"out.kilt_{task}.jsonl"))
        assert [one.item_id for one in guesses] == [one.item_id for one in golds]
        places = [place.evidence_id for place in guesses[0].outputs[0].provenance]
        assert len(set(places)) == len(places) == 10
        first_pages = [one.outputs[0].provenance[0].wikipedia_id for one in guesses]
        right_pages = [one.outputs[0].provenance[0].wikipedia_id for one in golds]
        share = sum(map(str.__eq__, first_pages, right_pages)) / len(golds)
        assert share == pytest.approx(found["page_r_precision"])


def test_a_search_says_of_which_task_its_question_is(trained, capsys):
    assert main(["search", str(trained), "what is it"]) == 2
    assert "choose one with --query_task" in capsys.readouterr().err
    question = FORMS["nq"].format(word(3 + 1, 0))
    run("search", trained, question, "--query_task", "nq", "-k", 1, "--json")
    assert json.loads(capsys.readouterr().out)["id"] == "103+1+0"


def test_the_retriever_finds_the_confounders_of_a_second_round(kilt, trained, capsys):
    first, second = kilt / "ur/nq-train-multikilt.json", kilt / "second.json"
    mine = [str(one) for one in ("mine", trained, "--examples", first, "--keep_given")]
    assert main([*mine, "--output", str(second)]) == 2
    assert "choose one with --query_task" in capsys.readouterr().err
    run(*mine, "--output", second, "--query_task", "nq", "-k", 4)
    before, after = (json.loads(path.read_text()) for path in (first, second))
    for given, mined in zip(before, after, strict=True):
        assert mined["positive_ctxs"] == given["positive_ctxs"]
        # Of the four best the right one is left out, and BM25's stays behind them.
        wrong = [one["passage_id"] for one in mined["hard_negative_ctxs"]]
        assert mined["positive_ctxs"][0]["passage_id"] not in wrong
        assert given["hard_negative_ctxs"][-1]["passage_id"] in wrong
        assert len(wrong) >= 3
