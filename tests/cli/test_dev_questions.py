"""Held-out questions of several tasks: each read as its own, measured, and the mean."""

import jax
import numpy as np
import optax
import pytest

from art_jax import partitioning
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.cli import dev_questions
from art_jax.data.query_forms import QueryForm
from art_jax.data.questions import Question
from art_jax.errors import ConfigError
from art_jax.index.refresh import refresh
from art_jax.methods.workspace import passage_side
from art_jax.training import loop, update

TOWERS = ("a", "b")
WORDS = [f"about word{number}" for number in range(40)]
PAGES = range(40)
FORMS = {"first": QueryForm(tower="a"), "second": QueryForm(suffix="7", tower="b")}


@pytest.fixture(scope="module")
def tasks():
    from art_jax.tasks import registration

    from art_jax.data.host_tensorflow import seqio

    def questions(suffix):
        for number, (text, page) in enumerate(zip(WORDS, PAGES, strict=True)):
            text = text.removesuffix(suffix)
            yield Question(str(number), text, evidence=((str(page),),))

    def answered():
        yield Question("1", "about word4", relevant_ids=("4",))

    readers = {
        "dev_test_first": lambda: questions("-"),
        "dev_test_second": lambda: questions("7"),
        "dev_test_third": answered,
    }
    for name, read in readers.items():
        registration.add_task(name, {"dev": read}, metrics=[])
    yield list(readers)
    for name in readers:
        seqio.TaskRegistry.remove(name)


def make_parts(tiny, tiny_evidence, towers=()):
    encoder = tiny.bag_encoder(query_towers=towers)
    mesh = partitioning.make_mesh(1)
    space = tiny.make_workspace(tiny_evidence, mesh, encoder)
    params = jax.device_get(
        tiny.init_params(tiny.make_workspace(tiny_evidence, mesh, tiny.bag_encoder()))
    )
    # One space for both sides, so that words find the passages that have them.
    query = params["passage"]
    if towers:
        query = jax.tree.map(lambda x: np.stack([x, x]), query)
    params = {**params, "query": query}
    model = SavedRetriever(
        encoder, params, tiny.made_tokenizers()["retriever"], 10, 28, {}, FORMS
    )
    table = refresh(
        tiny.make_refresher(space), passage_side(params), step=0, generation=0
    )
    state = update.init_state(jax.device_put(params), optax.sgd(1.0))
    return space, model, loop.RunState(state, table)


def share_first(run, texts, pages, tokenizer):
    """The share of texts whose page has the first row, by a search of NumPy's."""
    embedding = np.asarray(run.train.params["passage"]["embedding"])
    rows = np.asarray(run.table.embeddings)[: run.table.num_rows]
    hits = []
    for text, page in zip(texts, pages, strict=True):
        ids = [tokenizer.cls_id, *tokenizer.encode_batch([text])[0], tokenizer.sep_id]
        hits.append(int((rows @ embedding[ids].mean(axis=0)).argmax()) == page)
    return np.mean(hits)


def test_tasks_are_measured_alone_and_in_the_mean(tiny, tiny_evidence, tasks):
    space, model, run = make_parts(tiny, tiny_evidence)
    evaluate = dev_questions.evaluate_tasks(space, model, tasks[:2], "dev")
    got = evaluate(run)
    words = model.tokenizer
    first = share_first(run, WORDS, PAGES, words)
    # By its suffix "about word1" is read as "about word17".
    asked = [word if word.endswith("7") else f"{word}7" for word in WORDS]
    second = share_first(run, asked, PAGES, words)
    assert got["dev_test_first_page_r_precision"] == pytest.approx(first)
    assert got["dev_test_second_page_r_precision"] == pytest.approx(second)
    assert 0 < first != second
    assert got["page_r_precision"] == pytest.approx((first + second) / 2)
    assert got["page_success_at_1"] == pytest.approx((first + second) / 2)
    assert not [name for name in got if "passage" in name]
    (only,) = (dev_questions.evaluate_tasks(space, model, tasks[2:], "dev")(run),)
    assert only["top_1_accuracy"] == share_first(run, ["about word4"], [4], words)
    assert not [name for name in only if name.startswith("dev_test")]


def test_each_task_goes_through_its_tower(tiny, tiny_evidence, tasks):
    space, model, run = make_parts(tiny, tiny_evidence, TOWERS)
    # The bag has no with_tower: a stack of two equal ones is given to a stand-in.
    chosen = []

    def with_tower(params, name):
        chosen.append(name)
        place = TOWERS.index(name)
        query = jax.tree.map(lambda x: x[place], params["query"])
        return tiny.bag_encoder(), {**params, "query": query}

    encoder = space.encoder
    object.__setattr__(encoder, "with_tower", with_tower)
    evaluate = dev_questions.evaluate_tasks(space, model, tasks[:2], "dev")
    first = share_first(run, WORDS, PAGES, model.tokenizer)
    got = evaluate(run)["dev_test_first_page_r_precision"]
    assert got == pytest.approx(first)
    assert chosen == ["a", "b"]
    with pytest.raises(ConfigError, match="'dev_test_third' is held out, but none of"):
        dev_questions.evaluate_tasks(space, model, tasks, "dev")
    with pytest.raises(ConfigError, match="give dev_tasks in place of MIXTURE_OR"):
        dev_questions.evaluate_questions(space, space.queries)
