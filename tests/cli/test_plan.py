"""`art-jax plan` for every run file, and beside the files that a real run leaves."""

import gzip
import json
import pathlib

import pytest

from art_jax.cli import plan as plan_verb
from art_jax.cli.gin_flags import PACKAGE_ROOTS

GIN_FILE = pathlib.Path(__file__).parent / "small_run.gin"
RUNS = sorted(
    path.name for root in PACKAGE_ROOTS for path in (root / "gin/runs").glob("*.gin")
)
# What trains a T5, or distils one: plan says that it does not know these.
UNPLANNED = ("jpr_", "indeppr_", "monot5_", "fid_", "distill_")
PLANNED = [name for name in RUNS if not name.startswith(UNPLANNED)]
# Macros without which nobody knows what is trained.
CHOICES = {
    "kilt_few_shot.gin": ["--gin.QUERY_TASK='nq'"],
    "kilt_single.gin": ["--gin.QUERY_TASK='nq'"],
    "kilt_without.gin": ["--gin.LEFT_OUT='nq'"],
}
BERT = 30_592 * 768 + 512 * 768 + 2 * 768  # token, position and type embeddings
BERT += 12 * (4 * 768 * 769 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768) + 2 * 768


@pytest.fixture
def plan(art_jax):
    """`plan(gin file, ...)` -> what --json prints."""

    def call(gin_file, *more):
        code, out, err = art_jax("plan", f"--gin_file={gin_file}", "--json", *more)
        assert code == 0, err
        return json.loads(out)

    return call


def small_run(*more, **macros):
    values = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    return [GIN_FILE, *values, *more]


@pytest.mark.parametrize("name", PLANNED)
def test_every_run_file_can_be_planned_without_its_macros(plan, name):
    devices = ["--device=v5p", "--devices=8", "--num_passages=100000"]
    got = plan(f"gin/runs/{name}", *devices, *CHOICES.get(name, ()))
    found = got["plans"]["v5p"]
    assert found["fits"] is (found["peak_bytes"] <= found["usable_bytes"])
    assert found["hours"] > 0
    stages = {stage["name"]: stage for stage in found["stages"]}
    if "dpr" in stages:
        stage = stages["dpr"]
        # KILT's choose their step by retrieval; DPR+ has one table all along.
        has_table = name == "dpr_plus_nq.gin" or name.startswith("kilt_")
        assert bool(stage["refreshes"]) is has_table
        assert ("table" in stage["memory"]["held"]) is has_table
        assert "search" not in stage["step"]
        return
    if "ict" in stages:
        assert not {"table", "teacher"} & stages["ict"]["memory"]["held"].keys()
        return
    assert "teacher" in stages["art"]["memory"]["held"]
    if name in ("own_documents.gin", "quickstart.gin"):
        assert list(stages) == ["warm_up", "art"]
        assert "search" not in stages["warm_up"]["step"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpr_webqsp.gin", "trains a T5, a reranker or a reader"),
        ("distill_reader.gin", "trains by Distill"),
    ],
)
def test_other_runs_are_refused(art_jax, name, message):
    code, _, err = art_jax("plan", f"--gin_file=gin/runs/{name}", "--device=v5p")
    assert (code, message in err) == (2, True), err


def test_question_towers_are_held_and_one_of_them_is_used(plan):
    both = [
        plan(f"gin/runs/kilt_{name}.gin", "--device=v5p", "--devices=8")
        for name in ("multi", "task_towers")
    ]
    one, five = (got["plans"]["v5p"]["stages"][0] for got in both)
    parameters = [stage["memory"]["held"]["parameters"] for stage in (one, five)]
    assert parameters[1] == 3 * parameters[0]  # six towers, five of them of questions
    # The update goes through all of them, the loss through one.
    works = [stage["step"] for stage in (one, five)]
    assert works[0].pop("update") != works[1].pop("update")
    assert works[0] == works[1]


def test_the_published_run_on_the_papers_devices(plan):
    got = plan("gin/runs/art_nq_t0_3b.gin", "--device=a100-40", "--devices=16")
    found = got["plans"]["A100-40"]
    (stage,) = found["stages"]
    held = stage["memory"]["held"]
    assert held["parameters"] == 2 * BERT * 4
    rows = -(-21_015_324 // 16)
    assert held["table"] == rows * 768 * 2
    assert held["retriever's tokens"] == rows * 256 * 2
    assert held["teacher's tokens"] == rows * 512 * 2
    assert held["teacher"] == pytest.approx(2.85e9 * 2, rel=0.01)
    assert stage["refreshes"] == 1 + 25
    assert found["fits"]
    assumed = " ".join(got["assumed"])
    assert "21,015,324 passages" in assumed
    assert "TEACHER_CHECKPOINT_PATH" in assumed
    # Four questions and their passages a device, all of 256 tokens; see flops.py.
    token = 12 * (4 * 768 * 768 + 2 * 768 * 3072 + 2 * 256 * 768)
    last = 12 * 768 * 3072
    passages = 2 * 4 * 32 * 256 * (4 * token - last) + 3 * 2 * 4 * 32 * 768
    assert stage["step"]["learn passages"]["flops"] == passages


def test_evidence_index_and_retriever_are_the_bytes_a_run_leaves(plan, finished_run):
    files = {
        part: sum(
            path.stat().st_size
            for path in (finished_run / part).rglob("*")
            if path.is_file() and path.name != "manifest.json"
        )
        for part in ("evidence", "index", "retriever")
    }
    run = small_run("--device=v4", "--devices=8", MODEL_DIR=str(finished_run))
    got = plan(*run)
    assert got["assumed"][0].endswith("evidence: 30")
    found = got["plans"]["v4"]
    disk = found["disk_bytes"]
    assert disk["evidence"] == files["evidence"]
    # Zarr and safetensors add a header each; the retriever's vocabulary is a file.
    assert disk["index"] <= files["index"] <= disk["index"] + 1_000
    assert disk["retriever"] <= files["retriever"] <= disk["retriever"] + 10_000


def test_without_a_device_all_kinds_are_tried(plan):
    got = plan(*small_run("--num_passages=1000"))
    assert set(got["plans"]) == {
        *("v4", "v5e", "v5p", "v6e", "A100", "A100-40", "H100", "H200")
    }
    assert all(found["num_devices"] == 1 for found in got["plans"].values())


def test_passages_are_counted_where_there_are_any(plan, corpus, tmp_path):
    packed = tmp_path / "p.tsv.gz"
    packed.write_bytes(gzip.compress((corpus / "p.tsv").read_bytes()))
    for path in (corpus / "p.tsv", packed):
        got = plan(*small_run("--device=v4", "--devices=1", PASSAGES=str(path)))
        assert got["plans"]["v4"]["refresh"]["passages"] == 30
        assert got["assumed"][0].endswith("30 passages of 17 words")


def test_flags_come_before_what_is_found(plan, corpus):
    run = small_run("--num_passages=7", "--passage_tokens=9", "--num_questions=16")
    got = plan(*run, f"--gin.PASSAGES='{corpus / 'p.tsv'}'", "--device=v4")
    assert got["plans"]["v4"]["refresh"]["passages"] == 7
    assert got["epochs"] == {"art": 2.0}  # four steps of eight, of sixteen


def test_a_search_in_eight_bits_and_streamed_tokens_are_planned(plan):
    run = small_run("--num_passages=1000", "--device=v4", "--devices=1")
    plain, int8, streamed = (
        plan(*run, *more)["plans"]["v4"]["stages"][1]["memory"]["held"]
        for more in (
            [],
            ["--gin.train.train.search_method='int8'"],
            ["--gin.train.train.stream_tokens=True"],
        )
    )
    assert int8["table"] - plain["table"] == 1000 * (32 + 8)
    assert "teacher's tokens" in plain.keys() - streamed.keys()


def test_what_does_not_fit_is_said_with_the_way_out(art_jax):
    code, out, _ = art_jax(
        *("plan", f"--gin_file={GIN_FILE}", "--num_passages=500000000"),
        *("--device=v5e", "--devices=1"),
    )
    assert code == 0
    _, _, verdict = out.partition("Does not fit: ")
    remedies = [
        line.split("  ")[1] for line in verdict.split("\n\n")[0].splitlines()[1:]
    ]
    assert "8 devices" in remedies
    assert "STREAM_TOKENS = True" in remedies


def test_people_are_shown_memory_time_and_disk(art_jax):
    code, out, _ = art_jax(
        "plan", *small_run()[1:], f"--gin_file={GIN_FILE}", "--device=H100"
    )
    assert code == 0
    for line in (
        "nothing was measured",
        "1 x H100: data 1, model 1; MFU 0.5",
        "Memory of a device in stage warm_up",
        "learn passages",
        "Refresh: 21,015,324 passages",
        "Whole run:",
        "On disk:",
    ):
        assert line in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a run file"),
        (["--gin_file=gin/runs/none.gin"], "no gin file gin/runs/none.gin"),
        (["--gin_file={}", "--device=tpu"], "known for device 'tpu': choose of v4, "),
        (["--gin_file={}", "--devices=8"], "--devices 8 of which kind"),
        (["--gin_file={}", "--device=v4", "--devices=3"], "cannot split it evenly"),
        (["--gin_file={}", "--device=v4", "--devices=0"], "0 devices"),
        (["--gin_file={}", "--device=v4", "--mfu=2"], "matmul_share is 2.0"),
        (["--gin_file={}", "--gin.train.train.stages=()"], "no stages"),
        (["--gin_file={}", "--num_passages=0"], "--num_passages is 0: at least 1"),
        (["--gin_file={}", "--num_questions=7"], "there are 7 questions"),
        (["--gin_file={}", "--gin.PASAGES='p'"], "Did you mean PASSAGES?"),
    ],
)
def test_mistakes_are_named(art_jax, arguments, message):
    code, out, err = art_jax("plan", *(part.format(GIN_FILE) for part in arguments))
    assert (code, out) == (2, "")
    assert message in err


def test_a_method_that_it_does_not_know(art_jax, monkeypatch):
    monkeypatch.setattr(plan_verb, "Ict", type("Other", (), {}))
    code, _, err = art_jax("plan", f"--gin_file={GIN_FILE}")
    assert code == 2
    assert "stage 'warm_up' trains by Ict: art-jax plan knows" in err


def test_a_run_of_a_t5_is_none_that_is_known(art_jax):
    result = art_jax("plan", "--gin_file=gin/runs/jpr_trec.gin")
    assert result.code == 2
    assert "jpr_trec.gin trains a T5, a reranker or a reader" in result.err
