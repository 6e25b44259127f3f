"""A run reranked in shards is the run reranked at once."""

import dataclasses

import pytest

from art_jax.cli import rerank_shards
from art_jax.cli.rerank_shards import Shard
from art_jax.data.examples import Candidate, RankedQuestion
from art_jax.data.passages import Passage
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, DataError


def make_run(count):
    candidates = tuple(
        Candidate(Passage(str(n), f"text {n}"), -1.0 * n) for n in (1, 2)
    )
    questions = [Question(f"q{n}", "who?", (), ("2",)) for n in range(count)]
    return [RankedQuestion(one, candidates, "target") for one in questions]


def turned(ranked):
    return [dataclasses.replace(one, candidates=one.candidates[::-1]) for one in ranked]


@pytest.mark.parametrize("total", [0, 1, 2, 7, 16])
def test_the_parts_are_the_whole(total):
    whole = list(range(total))
    parts = [Shard(number, 3).part(whole) for number in (1, 2, 3)]
    assert [one for part in parts for one in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "-1/2", "a/b"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ConfigError, match="give 1/16 for the first of sixteen"):
        Shard.parse(text)


def test_the_last_shard_joins_all_in_order(tmp_path):
    ranked, output = make_run(5), str(tmp_path / "out.json")
    reranked = []

    def rerank(part):
        reranked.extend(one.question.question_id for one in part)
        return turned(part)

    def run(text):
        return rerank_shards.rerank_shard(ranked, Shard.parse(text), output, rerank)

    assert run("2/2") is None
    assert (tmp_path / "out.json.shard-2-of-2.json").exists()
    # What the format of shards does not hold comes from the run.
    assert run("1/2") == turned(ranked)
    # A shard that is there is not reranked again.
    assert run("2/2") == turned(ranked)
    assert reranked == ["q2", "q3", "q4", "q0", "q1"]


def test_a_shard_of_another_run_is_named(tmp_path):
    output = str(tmp_path / "out.json")
    rerank_shards.rerank_shard(make_run(4), Shard(1, 2), output, turned)
    with pytest.raises(DataError, match=r"shard-1-of-2.*not those of the run"):
        rerank_shards.rerank_shard(make_run(6), Shard(2, 2), output, turned)
