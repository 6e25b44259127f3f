"""Questions in, passages out, from the folder of a run."""

import dataclasses
import platform
import shutil
import sys

import jax
import numpy as np
import pytest

from art_jax import partitioning
from art_jax.checkpoints.retriever import SavedRetriever, save_retriever
from art_jax.data import evidence, tokenizers
from art_jax.data.layouts import layout_lengths
from art_jax.data.passages import Passage
from art_jax.data.query_forms import QueryForm
from art_jax.data.questions import Question
from art_jax.errors import ConfigError, CorruptError
from art_jax.index import ann, refresh, retriever, rows, table
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder

PASSAGES = [
    Passage(str(i), f"word{i} is about thing{i % 4} and other{i % 3}", f"title{i}")
    for i in range(13)
]


needs_scann = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="ScaNN has wheels for Linux on x86-64 alone",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: a random encoder that finds a passage by its own words."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = tokenizers.train_wordpiece(
        [p.title + " " + p.text for p in PASSAGES], 200
    )
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=0,
        num_heads=2,
        intermediate_size=32,
        max_positions=32,
        pre_layer_norm=True,
        embedding_layer_norm=False,
        embedding_init_range=1.0,
        use_positions=False,
    )
    encoder = DualEncoder(config, pooling="mean", shared=True, normalize=True)
    mesh = partitioning.make_mesh(2)
    params = jax.jit(encoder.init)(jax.random.key(0))
    model = SavedRetriever(encoder, params, tokenizer, 24, 24)
    save_retriever(folder / "retriever", model)
    store = evidence.build_evidence(
        PASSAGES, folder / "evidence", {"retriever": tokenizer}
    )
    tokens = store.token_tables["retriever"]
    refresher = refresh.Refresher(
        encode=encoder.encode_passage,
        rows=rows.place_rows(tokens, model.passage_layout, mesh),
        lengths=layout_lengths(model.passage_layout, tokens, np.arange(len(PASSAGES))),
        width=encoder.width,
        mesh=mesh,
        evidence_digest=store.digest,
        dtype="float32",
    )
    params = partitioning.put_tree(
        jax.tree.map(np.asarray, params), partitioning.replicated(mesh)
    )
    table.save_table(
        refresh.refresh(refresher, params, step=0, generation=0), folder / "index"
    )
    return folder


@pytest.fixture
def moved(run):
    """Takes parts of the run away for one test."""
    taken = []

    def take(name):
        (run / name).rename(run / f"{name}_away")
        taken.append(name)
        return run / f"{name}_away"

    yield take
    shutil.rmtree(run / "ann", ignore_errors=True)
    for name in taken:
        (run / f"{name}_away").rename(run / name)


def test_a_passage_is_found_by_its_own_words(run, mesh):
    held = retriever.Retriever.load(run, mesh)
    assert held.table.mesh == mesh
    found = held.search([p.text for p in PASSAGES], k=3)
    assert found.rows.shape == found.scores.shape == (13, 3)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(13))
    assert held.evidence.passage(int(found.rows[7, 0])) == PASSAGES[7]
    one = held.search([PASSAGES[4].text], k=3)
    np.testing.assert_array_equal(one.rows[0], found.rows[4])
    np.testing.assert_allclose(one.scores[0], found.scores[4], rtol=1e-5)


@needs_scann
def test_scann_finds_what_the_exact_search_finds(run, moved):
    made = ann.build_ann_from_files(run / "index", ann.AnnSettings(brute_force_below=0))
    ann.save_ann(made, run / "ann")
    mesh = partitioning.make_mesh(2)
    texts = [p.text for p in PASSAGES]
    want = retriever.Retriever.load(run, mesh).search(texts, k=3)
    moved("index")  # the table is not needed
    held = retriever.Retriever.load(run, mesh, ann=True)
    got = held.search(texts, k=3)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-5)
    assert held.search([], k=3).rows.shape == (0, 3)


@needs_scann
def test_scanns_index_must_fit_the_run(run, moved):
    with pytest.raises(ConfigError, match="build one with `art-jax ann"):
        retriever.Retriever.load(run, ann=True)
    made = ann.build_ann_from_files(run / "index")
    made = dataclasses.replace(made, evidence_digest="0" * 64)
    ann.save_ann(made, run / "ann")
    with pytest.raises(ConfigError, match="embed .* and `art-jax ann"):
        retriever.Retriever.load(run, ann=True)
    made = dataclasses.replace(made, table_digest="0" * 64)
    ann.save_ann(made, run / "ann")
    with pytest.raises(ConfigError, match="made from another table"):
        retriever.Retriever.load(run, ann=True)


def test_it_loads_on_all_devices_unless_told(run):
    assert retriever.Retriever.load(run).table.mesh.size == 8


def test_no_questions_find_nothing(run):
    held = retriever.Retriever.load(run, partitioning.make_mesh(2))
    assert held.encode_queries([]).shape == (0, 32)
    assert held.search([], k=3).rows.shape == (0, 3)


def test_missing_parts_are_named(run, moved):
    moved("index")
    with pytest.raises(ConfigError, match="holds no index: make one with `art-jax emb"):
        retriever.Retriever.load(run)
    moved("retriever")
    with pytest.raises(ConfigError, match="holds no retriever"):
        retriever.Retriever.load(run)


def test_an_index_that_was_being_replaced_is_found(run, moved):
    away = moved("index")
    away.rename(run / ".index.replaced")
    retriever.Retriever.load(run, partitioning.make_mesh(1))
    (run / "index").rename(away)


def test_missing_evidence_is_an_error(run, moved):
    moved("evidence")
    with pytest.raises(CorruptError, match="evidence"):
        retriever.Retriever.load(run)


def test_an_index_of_other_passages_is_refused(run, moved):
    tokenizer = tokenizers.load_tokenizer(run / "retriever" / "tokenizer")
    moved("evidence")
    evidence.build_evidence(PASSAGES[:12], run / "evidence", {"retriever": tokenizer})
    with pytest.raises(ConfigError, match="made from other passages"):
        retriever.Retriever.load(run, partitioning.make_mesh(1))
    (run / "evidence").rename(run.parent / "other_evidence")


def test_tokens_are_encoded_in_batches_the_last_one_partial(mesh):
    sizes = []

    def encode(params, tokens):
        sizes.append(len(tokens))
        return tokens.astype("float32") * params

    tokens = np.arange(11 * 2, dtype=np.int32).reshape(11, 2)
    params = np.float32(0.5)
    got = retriever.encode_tokens(encode, params, tokens, mesh, batch_size=4)
    np.testing.assert_array_equal(got, tokens * 0.5)
    assert isinstance(got, np.ndarray)
    assert len(set(sizes)) == 1  # one compiled program serves all


def make_table():
    mesh = partitioning.make_mesh(2)
    values = np.random.default_rng(0).integers(-3, 4, (20, 4)).astype(np.float32)
    embeddings = partitioning.put_global(values, partitioning.row_sharding(mesh))
    return table.EmbeddingTable(embeddings, 20, 0, 0, "", mesh)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_of_queries_change_no_result(batch_size):
    held = make_table()
    queries = np.random.default_rng(1).integers(-3, 4, (7, 4)).astype(np.float32)
    want = table.search(held, queries, k=5)
    got = retriever.search_queries(held, queries, k=5, batch_size=batch_size)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_array_equal(got.scores, want.scores)


@pytest.fixture(scope="module")
def several(run):
    """The retriever as one of two tasks, each with a question tower."""
    found = retriever.Retriever.load(run, partitioning.make_mesh(1))
    model = found.model
    tower = jax.device_get(model.params["shared"])
    stack = jax.tree.map(lambda x: np.stack([x, x[::-1]]), tower)
    encoder = dataclasses.replace(
        model.encoder, shared=False, query_towers=("same", "other")
    )
    forms = {
        "nq": QueryForm(suffix=" thing1", tower="same"),
        "wow": QueryForm(tower="other"),
    }
    model = dataclasses.replace(
        model,
        encoder=encoder,
        params={"query": stack, "passage": tower},
        query_forms=forms,
    )
    return dataclasses.replace(found, model=model)


def test_questions_of_a_task_are_read_as_its_own(run, several):
    plain = retriever.Retriever.load(run, partitioning.make_mesh(1))
    want = plain.encode_queries(["word3 thing1"])
    for chosen in (
        retriever.retriever_of(several, "nq"),
        retriever.retriever_of(several, None, "kilt_nq"),
        retriever.retriever_of(several, None, "multikilt_nq_1024"),
    ):
        np.testing.assert_allclose(chosen.encode_queries(["word3"]), want, atol=1e-6)
    other = retriever.retriever_of(several, "wow").encode_queries(["word3 thing1"])
    assert np.abs(other - want).max() > 1e-2
    with pytest.raises(ConfigError, match="nothing says which of the retriever's task"):
        retriever.retriever_of(several, None)
    with pytest.raises(ConfigError, match="'kilt_fever' is none of .* nq, wow, and"):
        retriever.retriever_of(several, None, "kilt_fever")
    with pytest.raises(ConfigError, match="no task 'wow'"):
        retriever.retriever_of(plain, "wow")
    assert retriever.retriever_of(plain, None) is plain


def test_a_retriever_of_one_task_reads_any_question_as_its_own(several):
    model = several.model.of_task("nq")
    single = dataclasses.replace(several, model=model)
    assert retriever.retriever_of(single, None) is single
    # But not those that are known to be of another task.
    elsewhere = retriever.retriever_of(single, None, "kilt_fever")
    assert elsewhere.model.query_form == QueryForm()


def test_rows_go_through_their_own_tower(several):
    model = several.model
    tokens = model.query_tokens([Question("", f"word{number}") for number in range(5)])
    towers = np.array([1, 0, 0, 1, 0])
    got = retriever.encode_by_tower(
        model.encoder, model.params, tokens, towers, several.mesh
    )
    for tower, name in enumerate(model.encoder.query_towers):
        encoder, params = model.encoder.with_tower(model.params, name)
        want = retriever.encode_by_tower(encoder, params, tokens, None, several.mesh)
        np.testing.assert_array_equal(got[towers == tower], want[towers == tower])
