import pytest

from art_jax.cli import ranked_files
from art_jax.data.evidence import build_evidence
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError

HERON, OTTER = Passage("p1", "It wades.", "Heron"), Passage("p2", "It swims.")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    """A run of two questions, and the texts behind it."""
    write(tmp_path / "r.trec", "a Q0 p2 1 3.5 x\na Q0 p1 2 2 x\nb Q0 p1 1 1.25 x\n")
    write(
        tmp_path / "q.jsonl",
        '{"_id": "b", "text": "who wades", "answers": ["heron"]}\n'
        '{"_id": "c", "text": "who sings"}\n'
        '{"_id": "a", "text": "who swims"}\n',
    )
    write(tmp_path / "p.tsv", "p0\tno\t\np1\tIt wades.\tHeron\np2\tIt swims.\t\n")
    write(tmp_path / "qrels.tsv", "a 0 p2 1\nb 0 p1 0\nb 0 p0 2\n")
    return tmp_path


def read(files, **changes):
    arguments = {
        "k": 10,
        "queries": str(files / "q.jsonl"),
        "passages": str(files / "p.tsv"),
        **changes,
    }
    return ranked_files.read_rankings(files / "r.trec", "trec-run", **arguments)


def test_a_trec_run_gets_its_texts(files):
    assert read(files) == [
        RankedQuestion(
            Question("a", "who swims"), (Candidate(OTTER, 3.5), Candidate(HERON, 2.0))
        ),
        RankedQuestion(
            Question("b", "who wades", ("heron",)), (Candidate(HERON, 1.25),)
        ),
    ]


def test_only_the_best_are_read(files):
    (first, _) = read(files, k=1)
    assert first.candidates == (Candidate(OTTER, 3.5),)


def test_judgments_say_what_is_relevant(files):
    first, second = read(files, qrels=str(files / "qrels.tsv"))
    assert first.question.relevant_ids == ("p2",)
    assert second.question.relevant_ids == ("p0",)


def test_an_evidence_store_has_the_passages_too(files):
    store = files / "run" / "evidence"
    build_evidence([HERON, OTTER], store, {})
    assert read(files, passages=str(store)) == read(files)
    assert read(files, passages=str(files / "run")) == read(files)


@pytest.mark.parametrize("missing", ["queries", "passages"])
def test_a_run_without_texts_is_an_error_that_says_what_to_give(files, missing):
    with pytest.raises(ConfigError, match="give --queries FILE and --passages FILE"):
        read(files, **{missing: None})


def test_a_run_of_other_files_is_an_error_that_names_one_id(files):
    write(files / "q.jsonl", '{"_id": "b", "text": "who wades"}\n')
    with pytest.raises(DataError, match=r"r.trec: 1 questions .* such as 'a'"):
        read(files)
    write(files / "q.jsonl", '{"_id": "b", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    write(files / "p.tsv", "p1\tIt wades.\tHeron\n")
    with pytest.raises(DataError, match=r"r.trec: 1 passages .* such as 'p2'"):
        read(files)


RANKED = [
    RankedQuestion(
        Question("a", "who swims", ("otter",)),
        (Candidate(OTTER, 3.5, True), Candidate(HERON, 2.0, False)),
    ),
    RankedQuestion(Question("b", "who wades"), (Candidate(HERON, 1.0, True),)),
]


@pytest.mark.parametrize("form", ["dpr-results", "fid", "pyserini"])
def test_json_holds_all_and_a_passage_is_held_once(form, tmp_path):
    path = tmp_path / "r.json"
    ranked_files.write_rankings(path, RANKED, form, tag="x")
    found = ranked_files.read_rankings(path, form, k=10)
    assert found == RANKED
    assert found[0].candidates[1].passage is found[1].candidates[0].passage
    best = ranked_files.read_rankings(path, form, k=1)
    assert best[0].candidates == RANKED[0].candidates[:1]


@pytest.mark.parametrize("form", ["dpr-results", "pyserini"])
def test_a_file_without_texts_gets_them_and_answers_from_elsewhere(form, files):
    path = files / "r.json"
    ranked_files.write_rankings(path, RANKED, form, tag="x")
    text = path.read_text().replace("It wades.", "").replace("It swims.", "")
    write(path, text.replace("Heron\\n", ""))
    with pytest.raises(DataError, match="'text' is missing or empty"):
        ranked_files.read_rankings(path, form, k=10)
    write(
        files / "q.jsonl",
        '{"_id": "7", "text": "who wades", "answers": ["x", "y"], '
        '"answer_groups": [["x"], ["y"]]}\n',
    )
    found = ranked_files.read_rankings(
        path, form, k=10, queries=files / "q.jsonl", passages=str(files / "p.tsv")
    )
    assert [one.candidates for one in found] == [one.candidates for one in RANKED]
    # A question is known by its text where ids differ; others stay as they are.
    assert found[0].question == RANKED[0].question
    groups = (("x",), ("y",))
    assert found[1].question == Question("7", "who wades", ("x", "y"), (), "", groups)


def test_what_is_written_as_trec_reads_back(files):
    path = files / "r.trec"
    ranked = read(files)
    ranked_files.write_rankings(path, ranked, "trec-run", tag="y")
    assert path.read_text().splitlines()[0] == "a Q0 p2 1 3.5 y"
    assert read(files) == ranked


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ranked_files.FORMATS)
def test_the_first_record_tells_the_format(form, packed, tmp_path):
    path = tmp_path / ("r.gz" if packed else "r")
    ranked_files.write_rankings(path, RANKED, form, tag="x")
    # FiD's files are DPR's, unless an answer to generate is chosen.
    want = "dpr-results" if form == "fid" else form
    assert ranked_files.find_format(path) == want


def test_a_file_of_something_else_is_an_error(tmp_path):
    path = write(tmp_path / "q.jsonl", '{"_id": "b", "text": "who wades"}\n')
    with pytest.raises(ConfigError, match="format of .*q.jsonl is not certain.*--from"):
        ranked_files.find_format(path)
