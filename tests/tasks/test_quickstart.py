import pytest
from art_jax.tasks import quickstart

from art_jax.data import question_table, vocabularies
from art_jax.data.questions import Question, write_questions
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(autouse=True)
def _vocabulary():
    vocabularies.use(WordPieceTokenizer((*SPECIAL, "who")))
    yield
    vocabularies.use(None)


def test_reads_the_files_of_the_data_directory(tmp_path, monkeypatch):
    (tmp_path / "quickstart").mkdir()
    monkeypatch.setenv("ART_JAX_DATA_DIR", str(tmp_path))
    for split in ("train", "dev", "test"):
        questions = [Question(f"{split}-1", "who", relevant_ids=("p1",))]
        write_questions(quickstart.question_file(split), questions)
        table = question_table.read_question_table("art_quickstart", split, 8)
        assert table.question_ids == (f"{split}-1",)
        assert table.tokens.tolist() == [[2, 5, 3, 0, 0, 0, 0, 0]]


def test_without_a_data_directory_it_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ART_JAX_DATA_DIR", raising=False)
    with pytest.raises(ConfigError, match="ART_JAX_DATA_DIR"):
        question_table.read_question_table("art_quickstart", "train", 8)
