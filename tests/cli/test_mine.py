import json

import pytest

from art_jax.data.example_files import read_examples


def mine(art_jax, run, output, *flags):
    return art_jax("mine", run, "--output", output, *flags)


def test_bm25_makes_examples_of_questions_with_answers(
    art_jax, corpus, finished_run, tmp_path
):
    output = tmp_path / "mined.json.gz"
    flags = ("--queries", corpus / "answers.jsonl", "--bm25", "--random_negatives", "2")
    code, out, err = mine(art_jax, finished_run, output, *flags, "-k", "10")
    assert code == 0, err
    assert out.startswith(f"{output}: 10 questions, 10 kept, 0 dropped")
    for number, example in enumerate(read_examples(output, "dpr"), start=17):
        assert example.question.text == f"food{number}"
        assert [one.passage.passage_id for one in example.positives] == [str(number)]
        assert len(example.negatives) == 2
    # BM25 finds one passage of such a question, and that is right.
    assert "10 questions have fewer than asked for" in out


def test_a_retriever_finds_the_negatives_of_a_second_round(
    art_jax, corpus, finished_run, tmp_path
):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    code, _, err = mine(
        art_jax, finished_run, first, "--queries", corpus / "known.jsonl", "--bm25"
    )
    assert code == 0, err
    flags = ("--examples", first, "-k", "8", "--hard_negatives", "3")
    code, out, err = mine(art_jax, finished_run, second, *flags)
    assert code == 0, err
    assert "10 kept" in out
    for before, after in zip(
        read_examples(first, "dpr"), read_examples(second, "dpr"), strict=True
    ):
        assert after.positives == before.positives
        assert len(after.hard_negatives) == 3
        right = before.positives[0].passage.passage_id
        assert right not in [one.passage.passage_id for one in after.hard_negatives]


@pytest.mark.parametrize("teacher", ["query_likelihood", "t5"])
def test_a_teacher_looks_at_what_was_found(
    art_jax, corpus, finished_run, t5_with_pieces, tmp_path, teacher
):
    teacher = t5_with_pieces if teacher == "t5" else teacher
    counts = []
    for margin in ("-99", "99"):
        flags = ("--queries", corpus / "known.jsonl", "-k", "8")
        flags += ("--teacher", teacher, "--teacher_margin", margin)
        output = tmp_path / "mined.json"
        code, out, err = mine(art_jax, finished_run, output, *flags)
        assert code == 0, err
        mined = list(read_examples(output, "dpr"))
        counts.append(sum(len(example.hard_negatives) for example in mined))
        assert (" 0 by the teacher" in out) == (margin == "-99")
    assert counts[0] > counts[1] == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ((), 2, "one of the arguments --queries --examples is required"),
        (("--queries", "q.txt", "-k", "0"), 2, "-k is 0"),
        (("--examples", "e", "--format", "fid"), 2, "training examples are dpr"),
        (("--queries", "q.txt", "--query_task", "nq"), 2, "--bm25 searches by words"),
        (("--queries", "nowhere.txt"), 3, "nowhere.txt"),
        (("--queries", "train.txt"), 3, "so nothing says which passages are wrong"),
    ],
)
def test_what_cannot_be_mined_is_said_and_nothing_is_written(
    art_jax, corpus, finished_run, tmp_path, flags, code, message
):
    given = [corpus / flag if flag == "train.txt" else flag for flag in flags]
    output = tmp_path / "out.json"
    got, _, err = mine(art_jax, finished_run, output, "--bm25", *given)
    assert (got, message in err) == (code, True), err
    assert not output.exists()


def test_what_is_written_is_dprs_json(art_jax, corpus, finished_run, tmp_path):
    output = tmp_path / "mined.json"
    mine(art_jax, finished_run, output, "--queries", corpus / "known.jsonl", "--bm25")
    first = json.loads(output.read_text())[0]
    assert first["question"] == "name17"
    assert first["positive_ctxs"][0]["passage_id"] == "17"
    assert {"hard_negative_ctxs", "negative_ctxs", "answers"} <= set(first)
