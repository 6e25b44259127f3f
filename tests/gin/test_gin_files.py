"""Every file under gin/ parses, says what was published, and builds abstractly."""

import copy
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest

from art_jax.cli import gin_flags
from art_jax.data.documentation import prepare_corpus
from art_jax.errors import ConfigError
from art_jax.methods.art import Art
from art_jax.methods.dpr import Dpr
from art_jax.methods.ict import Ict
from art_jax.models import bert, t5
from art_jax.teacher.query_likelihood import QueryLikelihoodTeacher
from art_jax.teacher.t5_scoring import T5Teacher
from art_jax.training import grad_cache, update

GIN = pathlib.Path(__file__).parents[2] / "gin"
# Runs held by files of their own beside this.
ELSEWHERE = ("distill_", "fid_", "indeppr_", "jpr_", "kilt_", "monot5_")
RUNS = sorted(
    path.name
    for path in (GIN / "runs").glob("*.gin")
    if not path.name.startswith(ELSEWHERE)
)
FROM_SCRATCH = {"own_documents.gin", "quickstart.gin"}
OWN_FILES = {*FROM_SCRATCH, "own_documents_from_bert.gin", "own_examples.gin"}
DPR_RUNS = [name for name in RUNS if name.startswith("dpr_")]
ICT_RUNS = [name for name in RUNS if name.startswith("ict_")]
ART_RUNS = [name for name in RUNS if name not in {*OWN_FILES, *DPR_RUNS, *ICT_RUNS}]
REQUIRED = {
    **{
        name: {
            "MODEL_DIR",
            "PASSAGES",
            "QUERIES",
            "DEV_QUERIES",
            "INITIAL_CHECKPOINT_PATH",
            "TEACHER_CHECKPOINT_PATH",
        }
        for name in ART_RUNS
    },
    **{
        name: {"MODEL_DIR", "PASSAGES", "INITIAL_CHECKPOINT_PATH"}
        for name in [*DPR_RUNS, *ICT_RUNS]
    },
    "own_documents.gin": {"MODEL_DIR", "PASSAGES", "QUERIES"},
    "own_examples.gin": {"MODEL_DIR", "PASSAGES", "TRAIN_EXAMPLES"},
    "own_documents_from_bert.gin": {
        "MODEL_DIR",
        "PASSAGES",
        "QUERIES",
        "INITIAL_CHECKPOINT_PATH",
    },
    "quickstart.gin": set(),
}


def parse(run, *more_files, bindings=()):
    given = [f"{name} = 'given'" for name in sorted(REQUIRED[run])]
    files = [f"gin/runs/{run}", *more_files]
    gin_flags.parse_gin(files, [*given, *bindings])


def arguments(*names):
    """What gin would give `train`, built; what is not asked for is left alone."""
    import gin
    from art_jax.cli import train

    bound = gin.get_bindings(train.train, resolve_references=False)
    return [copy.deepcopy(bound[name]) for name in names]  # gin builds in deepcopy


@pytest.mark.parametrize("run", RUNS)
def test_a_run_asks_for_what_it_cannot_know_and_for_nothing_else(run):
    if REQUIRED[run]:
        wanted = ", ".join(sorted(REQUIRED[run]))
        with pytest.raises(ConfigError, match=f"{run} needs {wanted}: give each"):
            gin_flags.parse_gin([f"gin/runs/{run}"], [])
    parse(run)


@pytest.mark.parametrize("run", RUNS)
def test_stages_and_encoder_build_and_fit_each_other(run):
    parse(run)
    encoder, stages, lengths = arguments("encoder", "stages", "task_feature_lengths")
    assert max(lengths.values()) <= encoder.config.max_positions
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    assert set(shapes) == ({"shared"} if encoder.shared else {"query", "passage"})
    methods = [type(stage.method) for stage in stages]
    if run in DPR_RUNS:
        assert methods == [Dpr]
    elif run in ICT_RUNS:
        assert methods == [Ict]
    elif run == "own_examples.gin":
        assert methods == [Ict, Dpr]
    else:
        assert methods == ([Ict, Art] if run in FROM_SCRATCH else [Art])
    for stage in stages:
        assert stage.train_steps >= 1
        stage.optimizer.build(stage.train_steps)
    if methods[-1] in (Dpr, Ict):
        return
    teacher = stages[-1].method.teacher
    wanted = QueryLikelihoodTeacher if run in OWN_FILES else T5Teacher
    assert isinstance(teacher, wanted)


@pytest.mark.parametrize(
    ("run", "batch_size", "num_passages", "train_steps", "period", "teacher_width"),
    [
        ("art_nq_t0_3b.gin", 64, 32, 10 * (79_168 // 64), (500, 500), 2048),
        ("art_nq_t5_lm_11b.gin", 32, 16, 10 * (79_168 // 32), (1000, 1000), 4096),
        ("art_webq.gin", 16, 32, 20 * (3_417 // 16), (500, 500), 2048),
        ("art_msmarco.gin", 512, 4, 10 * (502_939 // 512), (500, 1000), 2048),
        (
            "art_multi.gin",
            64,
            32,
            10 * ((3_417 + 79_168 + 78_713 + 78_785) // 64),
            (500, 500),
            2048,
        ),
    ],
)
def test_published_settings(
    run, batch_size, num_passages, train_steps, period, teacher_width
):
    # arXiv:2206.10658 and the scripts of its official code.
    parse(run)
    encoder, stages, vocabulary = arguments("encoder", "stages", "vocabulary")
    (stage,) = stages
    method, optimizer = stage.method, stage.optimizer
    assert (stage.batch_size, method.num_passages) == (batch_size, num_passages)
    assert stage.train_steps == train_steps
    assert (stage.refresh_every_steps, stage.eval_every_steps) == period
    assert stage.save_every_steps == stage.refresh_every_steps
    assert (stage.seed, stage.choose_by) == (1234, "top_20_accuracy")
    assert (optimizer.peak_learning_rate, optimizer.warmup_share) == (2e-5, 0.01)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.1, 1.0)
    adam = (optimizer.beta1, optimizer.beta2, optimizer.epsilon)
    assert adam == (0.9, 0.999, 1e-8)
    assert (method.temperature, method.teacher_scale) == (None, 1.0)
    assert method.dropout
    extras = (method.exclude_source, method.write_back, method.cache_scores)
    assert extras == (False, False, False)
    assert (stage.rolling_refresh, stage.num_chunks) == (False, 1)
    assert method.teacher.config.emb_dim == teacher_width
    assert method.teacher.max_passage_tokens == 512
    assert method.teacher.max_question_tokens == 128
    assert method.teacher.param_dtype == "bfloat16"
    assert method.teacher.checkpoint_path == "given"
    assert method.teacher.vocabulary is vocabulary is None


NQ_SIZE, TRIVIA_SIZE, WEBQ_SIZE, TREC_SIZE = 58_880, 60_413, 2_474, 1_125


@pytest.mark.parametrize(
    ("run", "sizes", "epochs", "tasks"),
    [
        ("nq", [NQ_SIZE], 40, ["nq"]),
        ("triviaqa", [TRIVIA_SIZE], 40, ["trivia"]),
        ("webq", [WEBQ_SIZE], 100, ["webquestions"]),
        ("trec", [TREC_SIZE], 100, ["curatedtrec"]),
        ("squad", [70_096], 40, ["squad1"]),
        (
            "multi",
            [NQ_SIZE, TRIVIA_SIZE, WEBQ_SIZE, TREC_SIZE],
            40,
            ["nq", "trivia", "webquestions", "curatedtrec"],
        ),
        ("nq_adv_hn", [NQ_SIZE, NQ_SIZE], 40, ["nq", "nq_adv_hn"]),
        ("plus_nq", [NQ_SIZE], 40, ["nq"]),
    ],
)
def test_published_settings_of_dpr(run, sizes, epochs, tasks):
    # arXiv:2004.04906 and the configuration of its official code.
    parse(f"dpr_{run}.gin")
    encoder, stages, vocabulary = arguments("encoder", "stages", "vocabulary")
    (stage,) = stages
    method, optimizer = stage.method, stage.optimizer
    steps_an_epoch = sum(size // 128 for size in sizes)
    assert stage.train_steps == epochs * steps_an_epoch
    assert stage.eval_every_steps % steps_an_epoch == 0
    assert stage.eval_from_step > 30 * steps_an_epoch
    # The last one, too.
    assert (stage.train_steps - stage.eval_from_step) % stage.eval_every_steps == 0
    assert [one.task for one in method.train_sets] == [f"biencoder_{t}" for t in tasks]
    assert {one.split for one in method.train_sets} == {"train"}
    assert not any(one.shuffle_positives or one.normalize for one in method.train_sets)
    (dev,) = method.dev_sets
    assert (dev.task, dev.split) == (f"biencoder_{tasks[0]}", "dev")
    pool = (method.dev_hard_negatives, method.dev_other_negatives)
    assert (*pool, method.dev_max_questions) == (30, 30, 10_000)
    assert (stage.batch_size, stage.seed, stage.num_chunks) == (128, 12345, 1)
    assert stage.choose_by == "-average_rank"
    is_nq = run in ("nq", "nq_adv_hn", "plus_nq")
    rate = (optimizer.peak_learning_rate, optimizer.warmup_steps, optimizer.clip_norm)
    assert rate == ((2e-5, 1237, 2.0) if is_nq else (1e-5, 100, 1.0))
    assert (optimizer.schedule_form, optimizer.weight_decay) == ("transformers", 0.0)
    adam = (optimizer.beta1, optimizer.beta2, optimizer.epsilon)
    assert adam == (0.9, 0.999, 1e-8)
    assert method.gradient_scale == 1 / 8
    loss = (method.similarity, method.objective, method.temperature, method.dropout)
    assert loss == ("dot", "nll", 1.0, True)
    is_plus = run == "plus_nq"
    assert method.negatives == ("all_passages" if is_plus else "in_batch")
    assert (method.num_hard_negatives, method.num_other_negatives) == (not is_plus, 0)
    assert (method.train_query_tower, method.train_passage_tower) == (True, not is_plus)
    assert stage.refresh_every_steps == (460 if is_plus else None)
    assert encoder.config == bert.base(dtype="bfloat16", remat=True)
    assert (encoder.pooling, encoder.shared, vocabulary) == ("cls", False, None)


def test_dpr_learns_from_files_in_place_of_tasks():
    given = ["TRAIN_TASK = None", "TRAIN_EXAMPLES = 'my.jsonl'", "DEV_SETS = ()"]
    given += ["EXAMPLE_FORMAT = 'tevatron'", "CHOOSE_BY = None"]
    parse("dpr_nq.gin", bindings=given)
    (stages,) = arguments("stages")
    (one,) = stages[0].method.train_sets
    assert (one.path, one.file_format) == ("my.jsonl", "tevatron")
    assert stages[0].method.dev_sets == ()


def test_dpr_may_choose_its_step_by_retrieval():
    given = ["DEV_QUERIES = 'dev.jsonl'", "MODEL_DIR = 'run'"]
    parse("dpr_webq.gin", "gin/methods/choose_by_retrieval.gin", bindings=given)
    stages, task = arguments("stages", "mixture_or_task_name")
    (stage,) = stages
    assert (stage.refresh_every_steps, stage.eval_every_steps) == (95, 95)
    assert stage.choose_by == "top_20_accuracy"
    assert task.startswith("local_")


def test_one_update_of_dpr_in_chunks_builds_without_memory():
    before = held_bytes()
    parse("dpr_nq.gin")
    encoder, stages, lengths = arguments("encoder", "stages", "task_feature_lengths")
    (stage,) = stages
    method, size, num_chunks = stage.method, 1024, 32
    shape = (size, method.num_passages)
    batch = {
        "query_tokens": jax.ShapeDtypeStruct((size, lengths["query"]), jnp.int32),
        "passage_tokens": jax.ShapeDtypeStruct((*shape, lengths["passage"]), jnp.int32),
        "passage_rows": jax.ShapeDtypeStruct(shape, jnp.int32),
    }

    def batch_loss(embeddings, batch, resources):
        losses, metrics = method.in_batch_loss(embeddings, batch)
        return losses.mean(), metrics

    prepare, loss = grad_cache.build_loss(
        lambda params, batch, _, key: method.embed(encoder, params, batch, key),
        batch_loss,
        num_chunks=num_chunks,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    optimizer = stage.optimizer.build(stage.train_steps)
    params = jax.eval_shape(encoder.init, key)
    state = jax.eval_shape(lambda params: update.init_state(params, optimizer), params)
    step = update.make_update(loss, optimizer, prepare=prepare, num_chunks=num_chunks)
    new_state, metrics = jax.eval_shape(step, state, batch, (), key)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, new_state))
    assert shapes[0] == shapes[1]
    assert metrics["loss"].shape == metrics["in_batch_accuracy"].shape == ()
    assert held_bytes() - before < 1 << 20


@pytest.mark.parametrize(
    ("more_files", "sizes"),
    [
        ([], (768, 12, 12, 3072)),
        (["gin/models/dual_encoder_large.gin"], (1024, 24, 16, 4096)),
    ],
    ids=["base", "large"],
)
def test_the_published_retriever_is_megatrons_bert(more_files, sizes):
    parse("art_nq_t0_3b.gin", *more_files, bindings=["DROPOUT_RATE = 0.25"])
    (encoder,) = arguments("encoder")
    config = encoder.config
    assert sizes == (
        config.hidden_size,
        config.num_layers,
        config.num_heads,
        config.intermediate_size,
    )
    assert config.pre_layer_norm
    assert not config.embedding_layer_norm
    assert (config.vocab_size, config.max_positions) == (30_592, 512)
    assert config.dropout_rate == config.attention_dropout_rate == 0.25
    assert config.residual_init_scale == pytest.approx(
        (2 * config.num_layers) ** -0.5, abs=1e-6
    )
    assert (encoder.pooling, encoder.shared, encoder.projection_dim) == (
        "cls",
        False,
        0,
    )


def test_a_retriever_can_be_hugging_faces_bert():
    parse("art_nq_t0_3b.gin", "gin/models/bert_base.gin")
    (encoder,) = arguments("encoder")
    config = dataclasses.replace(
        encoder.config, dropout_rate=0.1, attention_dropout_rate=0.1
    )
    assert config == bert.base(dtype="bfloat16", remat=True)
    assert encoder.pooling == "cls"
    given = ["TEACHER_CHECKPOINT_PATH = 'given'"]
    parse("own_documents_from_bert.gin", "gin/models/t5_xl.gin", bindings=given)
    (stages,) = arguments("stages")
    assert isinstance(stages[0].method.teacher, T5Teacher)


def step_inputs(run):
    """The ART stage of a run, both halves of its step, and the shapes they take."""
    parse(run)
    encoder, stages, lengths = arguments("encoder", "stages", "task_feature_lengths")
    (stage,) = stages
    method = stage.method

    def tokens(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    batch_size, k = stage.batch_size, method.num_passages
    batch = {
        "query_tokens": tokens(batch_size, lengths["query"]),
        "teacher_questions": tokens(batch_size, method.teacher.max_question_tokens),
        "rows": tokens(batch_size, k),
        "passage_tokens": tokens(batch_size, k, lengths["passage"]),
        "teacher_tokens": tokens(batch_size, k, method.teacher.max_passage_tokens),
    }
    teacher_params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, method.teacher.param_dtype),
        param_shapes(method.teacher.config),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(params, batch, resources, key):
        return method.loss(encoder, params, batch, key)

    def prepare(params, batch, resources, key):
        return method.score(batch, resources)

    params = jax.eval_shape(encoder.init, key)
    inputs = (params, batch, {"teacher_params": teacher_params}, key)
    return stage, loss, prepare, inputs


param_shapes = functools.cache(t5.param_shapes)


def held_bytes():
    return sum(array.nbytes for array in jax.live_arrays())


def test_one_update_with_a_teacher_of_11b_builds_without_memory():
    before = held_bytes()
    stage, loss, prepare, (params, *others) = step_inputs("art_nq_t5_lm_11b.gin")
    optimizer = stage.optimizer.build(stage.train_steps)
    state = jax.eval_shape(lambda params: update.init_state(params, optimizer), params)
    new_state, metrics = jax.eval_shape(
        update.make_update(loss, optimizer, prepare=prepare), state, *others
    )
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, new_state))
    assert shapes[0] == shapes[1]
    assert (metrics["loss"].shape, metrics["loss"].dtype) == ((), jnp.float32)
    assert held_bytes() - before < 1 << 20


def test_the_teachers_of_the_runs_have_the_sizes_in_their_names():
    def num_params(run):
        parse(run)
        (stages,) = arguments("stages")
        shapes = param_shapes(stages[0].method.teacher.config)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert num_params("art_nq_t0_3b.gin") == pytest.approx(2.85e9, rel=0.01)
    assert num_params("art_nq_t5_lm_11b.gin") == pytest.approx(11.1e9, rel=0.01)


def test_the_users_own_run_is_the_quickstarts_on_other_texts():
    names = ("encoder", "stages", "task_feature_lengths", "vocab_size")
    parse("quickstart.gin")
    quickstart = arguments(*names)
    parse("own_documents.gin")
    own = arguments(*names)
    sizes = {"batch_size": 1}
    for theirs, ours in zip(quickstart[1], own[1], strict=True):
        if isinstance(theirs.method, Art):
            k = {"num_passages": 1}
            theirs, ours = (
                dataclasses.replace(
                    stage, method=dataclasses.replace(stage.method, **k)
                )
                for stage in (theirs, ours)
            )
        assert dataclasses.replace(theirs, **sizes) == dataclasses.replace(
            ours, **sizes
        )
    del quickstart[1], own[1]
    assert own == quickstart
    (passages, task) = arguments("passages", "mixture_or_task_name")
    assert passages == "given"
    assert task.startswith("local_")


def test_own_examples_begin_as_own_documents_do():
    parse("own_documents.gin")
    documents = arguments("encoder", "stages", "task_feature_lengths", "vocab_size")
    parse("own_examples.gin")
    examples = arguments("encoder", "stages", "task_feature_lengths", "vocab_size")
    assert (examples[0], examples[2:]) == (documents[0], documents[2:])
    # The same, but for the table, of which it makes none.
    theirs, ours = documents[1][0], examples[1][0]
    same = {"refresh_every_steps": None, "seed": 0}
    optimizer = dataclasses.replace(
        theirs.optimizer, warmup_steps=11, warmup_share=0.01, clip_norm=1.0
    )
    assert dataclasses.replace(ours, **same) == dataclasses.replace(
        theirs, optimizer=optimizer, **same
    )


def test_the_quickstart_reads_the_installed_documentation():
    import gin
    from art_jax.cli import train

    parse("quickstart.gin")
    macro = gin.get_bindings(train.train, resolve_references=False)["passages"]
    assert macro.selector == "gin.macro"
    reference = gin.query_parameter("PASSAGES/gin.macro.value")
    assert reference.configurable.wrapped is prepare_corpus


def test_every_model_and_method_file_is_used_or_usable():
    parse("art_webq.gin", "gin/models/t5_lm_xxl.gin")
    (stages,) = arguments("stages")
    assert stages[0].method.teacher.config == t5.v1_1("xxl")
    methods = {path.name for path in GIN.glob("methods/*.gin")}
    of_t5s = {"fid.gin", "jpr.gin", "monot5.gin"}
    assert methods >= {"art.gin", "dpr.gin", "choose_by_retrieval.gin", *of_t5s}
    known = {path.name for path in GIN.glob("models/*.gin")}
    tested = {
        "tiny.gin",
        "dual_encoder_base.gin",
        "dual_encoder_large.gin",
        "bert_base.gin",
        "t5_xl.gin",
        "t0_3b.gin",
        "t5_lm_xxl.gin",
        *(f"t5_{size}.gin" for size in ("tiny", "base", "large", "3b")),
    }
    assert known == tested


def test_no_folder_of_gin_files_can_hide_the_gin_package():
    assert not list(GIN.rglob("*.py"))


@pytest.mark.parametrize(
    ("bindings", "counts"),
    [
        (["POSITIVES = 0", "HARD_NEGATIVES = 0", "UNIFORM = 32"], (0, 0, 32, False)),
        (["HARD_NEGATIVES = 0", "UNIFORM = 31"], (1, 0, 31, False)),
        ([], (1, 1, 30, False)),
        (["UNIFORM = 0", "IN_BATCH = True"], (1, 1, 0, True)),
    ],
    ids=["U32", "P1 U31", "P1 N1 U30", "P1 N1 in batch"],
)
def test_passage_types_of_art_are_those_of_table_7(bindings, counts):
    given = ["EXAMPLES = 'train.json'", *bindings]
    parse("art_nq_t0_3b.gin", "gin/methods/passage_types.gin", bindings=given)
    (stages,) = arguments("stages")
    method, mix = stages[0].method, stages[0].method.mix
    kinds = (mix.num_positives, mix.num_hard_negatives, mix.num_uniform, mix.in_batch)
    assert kinds == counts
    assert [one.path for one in mix.examples] == ["train.json"]
    assert (method.num_passages, mix.num_own) == (0, 2 if mix.in_batch else 32)


def test_published_settings_of_ict():
    # arXiv:1906.00300 and Megatron's code, as described in reference/systems.md, 8.1.
    found = {}
    for run in ICT_RUNS:
        parse(run)
        encoder, (stage,), lengths = arguments(
            "encoder", "stages", "task_feature_lengths"
        )
        assert (stage.batch_size, stage.train_steps) == (4096, 100_000)
        assert stage.optimizer.peak_learning_rate == 1e-4
        assert stage.optimizer.weight_decay == 0.01
        assert stage.refresh_every_steps is None
        assert stage.method.remove_probability == 0.9
        assert not stage.method.symmetric
        assert not stage.method.mask_same_title
        found[run] = (encoder, stage.method, stage.optimizer, lengths)
    encoder, method, optimizer, lengths = found["ict_orqa.gin"]
    assert (encoder.shared, encoder.width, optimizer.warmup_steps) == (True, 128, 10000)
    assert lengths == {"query": 64, "passage": 288}
    assert (method.skip_lists, method.with_titles, method.temperature) == (
        True,
        True,
        1,
    )
    encoder, method, _, lengths = found["ict_megatron.gin"]
    assert (encoder.shared, encoder.width) == (False, 1024)
    assert lengths["query"] == method.max_query_tokens == 256
    assert method.short_query_probability == 0.1
    assert (method.around_sentence, method.with_titles) == (True, False)


def test_ablations_of_art_are_a_binding_each():
    bindings = ["PASSAGES_PER_QUERY = 128", "NUM_QUESTIONS = 1_000"]
    parse("art_nq_t0_3b.gin", bindings=[*bindings, "t5.v1_1.size = 'base'"])
    (stages,) = arguments("stages")
    method = stages[0].method
    assert (method.num_passages, method.num_questions) == (128, 1000)
    assert method.teacher.config.emb_dim == 768
