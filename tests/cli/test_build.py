import json
import re

import pytest

from art_jax.cli import build
from art_jax.data import tokenizers
from art_jax.data.evidence import load_evidence
from art_jax.data.passages import Passage, read_passages
from art_jax.errors import DataError

PAGE = {"wikipedia_id": 12, "wikipedia_title": "Otter", "text": ["Otter", "It swims."]}


@pytest.fixture
def pages(tmp_path):
    (tmp_path / "ks.json").write_text(f"{json.dumps(PAGE)}\n")
    return tmp_path / "ks.json"


@pytest.fixture
def vocabulary(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "it", "otter"]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    return tmp_path / "vocab.txt"


def test_pages_become_passages(art_jax, pages, tmp_path):
    code, out, err = art_jax("build", pages, tmp_path / "p.tsv", "--processes", 1)
    assert code == 0
    assert list(read_passages(tmp_path / "p.tsv")) == [
        Passage("12+1+0", "It swims.", "Otter")
    ]
    assert re.search(rf"p\.tsv: 1 passages of {pages} \(kilt\), \d+ bytes", out)
    assert re.fullmatch(r"1 passages  100\.0%  [\d,]+/s  ETA 0:00:00\n", err)


def test_a_store_with_two_tables(art_jax, pages, vocabulary, tmp_path):
    words = tokenizers.train_words(["otter"])
    tokenizers.save_tokenizer(words, tmp_path / "words")
    code, out, _ = art_jax(
        *("build", pages, tmp_path / "store", "--json", "--processes", 1),
        *("--tokenizer", vocabulary, "--tokenizer", f"teacher={tmp_path / 'words'}"),
    )
    assert code == 0
    report = json.loads(out)
    store = load_evidence(tmp_path / "store", {"teacher": words})
    assert report["digest"] == store.digest
    assert (report["passages"], report["format"]) == (1, "kilt")
    # "It" is known, the two other tokens are not.
    assert store.token_tables["retriever"].token_ids.tolist() == [5, 4, 1, 1]


def test_folders_say_what_they_leave_out(art_jax, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.org").write_text("One.")
    (tmp_path / "docs" / "b.png").write_text("")
    command = ("build", tmp_path / "docs", tmp_path / "p.jsonl")
    code, _, err = art_jax(*command)
    assert code == 2
    assert "holds no text file" in err
    code, out, _ = art_jax(*command, "--suffix", ".org", "--processes", 1)
    assert code == 0
    assert "files left out: 1 .png" in out


def test_two_processes_are_asked_for(art_jax, pages, tmp_path):
    assert art_jax("build", pages, tmp_path / "p.tsv", "--processes", 2).code == 0
    code, _, err = art_jax("build", pages, tmp_path / "p.tsv", "--processes", 2)
    assert code == 2
    assert "Give --overwrite" in err
    assert art_jax("build", pages, tmp_path / "p.tsv", "--overwrite").code == 0


def test_a_fault_ends_in_3_with_file_and_line(art_jax, pages, tmp_path):
    with pages.open("a") as file:
        file.write("{}\n")
    code, _, err = art_jax("build", pages, tmp_path / "p.tsv")
    assert code == 3
    assert f"{pages}:2: 'wikipedia_id'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["ks.json"]


def test_the_pipeline_gives_the_same(art_jax, pages, tmp_path):
    pytest.importorskip("apache_beam", reason="apache_beam is not installed")
    options = ("--runner", "DirectRunner", "--runner_option", "direct_num_workers=1")
    assert art_jax("build", pages, tmp_path / "p.tsv", *options).code == 0
    assert art_jax("build", pages, tmp_path / "q.tsv", "--processes", 1).code == 0
    assert (tmp_path / "p.tsv").read_bytes() == (tmp_path / "q.tsv").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner_option", "x"], "--runner_option needs --runner"),
        (["--processes", 0], "--processes is 0; it must be 1 or more"),
        (["--processes", 2, "--runner", "x"], "--runner has its own way"),
        (["--tokenizer", "V", "--tokenizer", "V"], "two tokenisers are called"),
        (["--format", "beir"], "needs a folder"),
        (["--max_tokens", 0], "max_tokens is 0"),
    ],
)
def test_usage_is_checked(art_jax, pages, vocabulary, tmp_path, flags, message):
    flags = [vocabulary if flag == "V" else flag for flag in flags]
    code, _, err = art_jax("build", pages, tmp_path / "p.tsv", *flags)
    assert code == 2
    assert message in err


def test_tokenisers_of_every_kind(vocabulary, tmp_path):
    made = build.load_tokenizers([str(vocabulary), f"cased={vocabulary}"])
    assert list(made) == ["retriever", "cased"]
    assert made["retriever"].lowercase
    made = build.load_tokenizers([str(vocabulary)], is_cased=True)
    assert not made["retriever"].lowercase
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        build.load_tokenizers([str(tmp_path / "x.model")])


def test_time_left_is_by_bytes(capsys):
    times = iter([100.0, 110.0, 115.0, 120.0])
    progress = build.Progress(clock=lambda: next(times))
    progress(500, 0.2)  # what an earlier build left
    progress(1000, 0.3)
    progress(1000, 0.3)
    progress(3000, 0.6)
    # 0.1 in 10 s leaves 0.7; then 0.4 in 20 s leaves 0.4.
    assert capsys.readouterr().err.splitlines() == [
        "1,000 passages  30.0%  50/s  ETA 0:01:10",
        "3,000 passages  60.0%  125/s  ETA 0:00:20",
    ]
