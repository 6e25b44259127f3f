"""The tables of docs/data.md are those that the code gives."""

import pathlib

from art_jax.cli.data import FORMATS
from art_jax.data import benchmarks, describe

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"


def test_the_docs_hold_the_tables():
    text = DOCS.read_text(encoding="utf-8")
    assert describe.formats_table(FORMATS) in text, "art-jax data formats"
    assert describe.tasks_table() in text, "art-jax data tasks"


def test_rows_of_tasks():
    rows = describe.tasks_table().splitlines()
    # A header of two lines; EntityQuestions and BEIR have a line each.
    assert len(rows) == 2 + 6 + 3 + 4 + 11 + 1 + 1 + 1 + 6 + 8
    (webqsp,) = [row for row in rows if "`webqsp`" in row]
    assert "`webqsp/WebQSP.{train,test}.json`" in webqsp
    (jeopardy,) = [row for row in rows if "jeopardy_qg" in row]
    assert "`searchqa/{train,val,test}.zip`" in jeopardy
    (beir,) = [row for row in rows if "`beir_{msmarco,trec_covid," in row]
    assert "`beir/*/queries.jsonl`, `beir/*/qrels/{train,dev,test}.tsv`" in beir
    (entity,) = [row for row in rows if "`entity_questions_{p17,p19," in row]
    assert "`entity_questions/*.{train,dev,test}.json`" in entity
    for benchmark in (*benchmarks.KILT, *benchmarks.BIENCODER):
        assert sum(f"`{benchmark.name}`" in row for row in rows) == 1


def test_rows_of_formats():
    rows = describe.formats_table(FORMATS).splitlines()
    assert len(rows) == 2 + len(FORMATS)
    assert "| questions | `squad` | SQuAD as published | (only read) |" in rows
    assert any("`trec-run`" in row and "`.trec`" in row for row in rows)
    assert any("`beir`" in row and row.endswith("a folder |") for row in rows)
