import dataclasses
import io
import pathlib
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from art_jax import partitioning
from art_jax.checkpoints import t5x, tensors
from art_jax.data.layouts import layout_rows, make_token_table
from art_jax.errors import ConfigError, DataError
from art_jax.teacher.prompts import Prompt
from art_jax.teacher.t5_scoring import T5Teacher

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
T5X = GOLDEN / "t5x" / "v1_1_f32" / "checkpoint_1234"
HUGGING_FACE = GOLDEN / "hf" / "t5_v1_1"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A SentencePiece model as T5's: pad 0, EOS 1, unknown 2, and no BOS."""
    out = io.BytesIO()
    lines = ["Passage: Please write a question based on this passage."]
    lines += ["Question: what does the heron eat in the marsh", "otters eat fish"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3),
        model_writer=out,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("teacher") / "spiece.model"
    path.write_bytes(out.getvalue())
    return str(path)


def make_teacher(checkpoint=T5X, **changes):
    config, _ = t5x.open_t5(T5X, dtype="float32")
    return T5Teacher(config, checkpoint_path=str(checkpoint), **changes)


def load(teacher, model_parallelism=1):
    mesh = partitioning.make_mesh(4, model_parallelism=model_parallelism)
    return teacher.load(None, None, mesh)


@pytest.mark.parametrize("checkpoint", [T5X, HUGGING_FACE], ids=["t5x", "hf"])
def test_weights_are_read_in_both_forms(checkpoint):
    params = load(make_teacher(checkpoint, param_dtype="float32"))
    kernel = params["decoder"]["logits_dense"]["kernel"]
    assert kernel.shape == (16, 272)
    if checkpoint == T5X:
        _, want = t5x.open_t5(T5X)
        jax.tree.map(np.testing.assert_array_equal, params, tensors.to_host(want))


def test_a_frozen_teacher_is_held_in_bfloat16():
    params = load(make_teacher())
    _, exact = t5x.open_t5(T5X)
    jax.tree.map(
        lambda got, want: np.testing.assert_array_equal(
            np.asarray(got), want.astype(jnp.bfloat16)
        ),
        params,
        tensors.to_host(exact),
    )


def test_weights_are_split_over_the_model_axis_as_t5x_does():
    params = load(make_teacher(), model_parallelism=2)
    layer = params["encoder"]["layers_0"]

    def share(leaf):
        return leaf.addressable_shards[0].data.shape

    assert share(layer["attention"]["query"]["kernel"]) == (16, 16)  # of [16, 32]
    assert share(layer["mlp"]["wo"]["kernel"]) == (16, 16)  # of [32, 16]
    assert share(params["token_embedder"]["embedding"]) == (136, 16)  # of [272, 16]
    assert share(layer["pre_mlp_layer_norm"]["scale"]) == (16,)


@pytest.mark.parametrize("name", ["v1_1_orbax_f32", "v1_1_sharded4_f32"])
def test_every_form_of_t5x_gives_the_same_weights(name):
    params = load(make_teacher(GOLDEN / "t5x" / name / "checkpoint_1234"), 4)
    want = load(make_teacher())
    jax.tree.map(np.testing.assert_array_equal, params, want)


def test_scanned_layers_are_a_teacher_with_biases_of_their_own():
    teacher = make_teacher(GOLDEN / "t5x" / "v1_1_scan_f32" / "checkpoint_1234")
    with pytest.raises(ConfigError, match="its relpos_bias_per_layer is True, not Fal"):
        load(teacher)
    config = dataclasses.replace(teacher.config, relpos_bias_per_layer=True)
    params = load(dataclasses.replace(teacher, config=config), 2)
    table = params["decoder"]["layers_1"]["relpos_bias"]["rel_embedding"]
    assert table.addressable_shards[0].data.shape == (2, 32)  # of [4, 32]


def test_a_model_axis_that_divides_nothing_is_an_error():
    mesh = partitioning.make_mesh(3, model_parallelism=3)
    with pytest.raises(ConfigError, match="MODEL_PARALLELISM 3 .* number of heads, 4"):
        make_teacher().load(None, None, mesh)


def test_texts_become_what_the_teacher_reads_and_its_score_follows(vocabulary):
    teacher = make_teacher(
        vocabulary=vocabulary, max_passage_tokens=80, max_question_tokens=40
    )
    tokenizer = teacher.make_tokenizer(iter(()))
    titles, texts = tokenizer.encode_batch(["heron"]), tokenizer.encode_batch(["eats"])
    passages = layout_rows(
        teacher.passage_layout(tokenizer), make_token_table(titles, texts), [0]
    )
    decode = tokenizer._processor.decode
    assert decode(passages[0].tolist()).startswith("Passage:")
    assert passages[0].max() < 272
    questions = teacher.question_rows(tokenizer, ["what", "a question"])
    assert questions.shape == (2, 40)
    assert decode(questions[1].tolist()) == "Question: a question"
    for row in (*passages, *questions):
        assert row[np.flatnonzero(row)[-1]] == tokenizer.eos_id
    params = load(teacher)
    scores = teacher.score(params, questions, np.stack([passages, passages]))
    assert scores.shape == (2, 1)
    assert np.all(np.asarray(scores) < 0)


def test_the_prompt_can_be_another(vocabulary):
    prompt = Prompt(head="the ", instruction=" write", question_head="what ")
    teacher = make_teacher(vocabulary=vocabulary, prompt=prompt)
    tokenizer = teacher.make_tokenizer(())
    decode = tokenizer._processor.decode
    layout = teacher.passage_layout(tokenizer)
    assert decode(list(layout.prefix)) == "the"
    assert decode(list(layout.suffix)) == "write"
    (row,) = teacher.question_rows(tokenizer, ["heron"])
    assert decode(row.tolist()) == "what heron"


@pytest.mark.parametrize("path", [None, "nowhere.model"])
def test_a_missing_vocabulary_is_an_error_with_the_way_out(path):
    with pytest.raises(ConfigError, match="set TEACHER_VOCABULARY"):
        make_teacher(vocabulary=path).make_tokenizer(())


def test_a_vocabulary_of_another_model_is_an_error(vocabulary, tmp_path):
    teacher = make_teacher(vocabulary=vocabulary)
    small = dataclasses.replace(teacher.config, vocab_size=20)
    with pytest.raises(ConfigError, match="pieces, but the teacher has .* for 20"):
        dataclasses.replace(teacher, config=small).make_tokenizer(())
    (tmp_path / "x.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        make_teacher(vocabulary=str(tmp_path / "x.model")).make_tokenizer(())


@pytest.mark.parametrize("path", [None, "nowhere", str(GOLDEN)])
def test_missing_weights_are_an_error_before_any_work(path, vocabulary):
    config, _ = t5x.open_t5(T5X)
    teacher = T5Teacher(config, checkpoint_path=path, vocabulary=vocabulary)
    for call in (lambda: teacher.make_tokenizer(()), lambda: load(teacher)):
        with pytest.raises(ConfigError, match="T5X checkpoint|does not exist"):
            call()


def test_it_says_what_its_weights_were_recognised_as():
    assert make_teacher().describe() == f"{T5X}: T5X checkpoint_1234"


def test_a_vocabulary_beside_the_weights_is_its_own(vocabulary, tmp_path):
    folder = tmp_path / "checkpoint_1234"
    shutil.copytree(T5X, folder)
    shutil.copyfile(vocabulary, folder / "spiece.model")
    made = make_teacher(folder).make_tokenizer(())
    assert made.digest == make_teacher(vocabulary=vocabulary).make_tokenizer(()).digest


def test_weights_of_another_size_are_an_error_that_names_it():
    teacher = make_teacher()
    wide = dataclasses.replace(teacher.config, mlp_dim=64, remat=True)
    teacher = dataclasses.replace(teacher, config=wide)
    with pytest.raises(ConfigError, match="its mlp_dim is 32, not 64. Include"):
        load(teacher)


def test_an_unknown_dtype_of_parameters_is_an_error():
    with pytest.raises(ConfigError, match="T5Teacher.param_dtype is 'int4'"):
        make_teacher(param_dtype="int4")


TOKENIZER = SimpleNamespace(digest="abc")


def test_its_digest_is_of_the_weights_and_not_of_the_files_that_hold_them():
    orbax = GOLDEN / "t5x" / "v1_1_orbax_f32" / "checkpoint_1234"
    want = make_teacher().digest(TOKENIZER)
    assert make_teacher(orbax).digest(TOKENIZER) == want
    assert make_teacher(HUGGING_FACE).digest(TOKENIZER) != want


def test_its_digest_is_of_all_that_scores_depend_on():
    teacher = make_teacher(HUGGING_FACE)
    bfloat16 = dataclasses.replace(teacher.config, dtype="bfloat16")
    changes = [
        {"param_dtype": "float32"},
        {"max_passage_tokens": 511},
        {"max_question_tokens": 127},
        {"prompt": Prompt(head="Text: ")},
        {"config": bfloat16},
    ]
    digests = {
        dataclasses.replace(teacher, **change).digest(TOKENIZER) for change in changes
    }
    digests |= {teacher.digest(TOKENIZER), teacher.digest(SimpleNamespace(digest="d"))}
    assert len(digests) == 7
    assert make_teacher(HUGGING_FACE, chunk_size=3).digest(TOKENIZER) in digests


def test_its_digest_sees_one_changed_weight(tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(HUGGING_FACE, folder)
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x10
    weights.write_bytes(content)
    want = make_teacher(HUGGING_FACE).digest(TOKENIZER)
    assert make_teacher(folder).digest(TOKENIZER) != want


def test_scores_are_means_over_tokens_and_eos():
    counts = make_teacher().num_scored_tokens(np.array([[5, 2, 1, 0], [1, 0, 0, 0]]))
    np.testing.assert_array_equal(counts, [3, 1])
