import pathlib

import pytest

from art_jax.cli import gin_flags
from art_jax.cli.gin_flags import check_macros, find_gin_file, rewrite_gin_flags
from art_jax.errors import ConfigError


def check(tmp_path, text, *bindings):
    path = tmp_path / "run.gin"
    path.write_text(text)
    check_macros([str(path)], bindings, [tmp_path])


def test_gin_flags_become_bindings_as_in_t5x():
    assert rewrite_gin_flags(
        ["train", "--gin_file=a.gin", "--gin.A='x=y'", "--gin.a/b.C.d=%E"]
    ) == [
        "train",
        "--gin_file=a.gin",
        "--gin_bindings=A = 'x=y'",
        "--gin_bindings=a/b.C.d = %E",
    ]


def test_macros_that_are_bound_and_read_pass(tmp_path):
    check(tmp_path, "A = 1\nB = %A\nf.x = (%B, {'k': %A})\nf:\n  y = %gin.REQUIRED\n")


def test_a_misspelt_macro_in_a_file_is_named_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"run.gin:2: nothing reads .* TRIAN_STEPS"):
        check(tmp_path, "TRAIN_STEPS = 1\nTRIAN_STEPS = 2\nf.x = %TRAIN_STEPS\n")


def test_a_macro_nobody_binds_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="%TRIAN is read .* Did you mean TRAIN?"):
        check(tmp_path, "TRAIN = 1\nf.x = %TRIAN\nf.y = %TRAIN\n")


def test_required_macros_are_asked_for_all_at_once(tmp_path):
    text = "A = %gin.REQUIRED\nB = %gin.REQUIRED\nC = 1\nf.x = (%A, %B, %C)\n"
    with pytest.raises(ConfigError, match="run.gin needs A, B: give each a value"):
        check(tmp_path, text)
    with pytest.raises(ConfigError, match="run.gin needs B: give each a value"):
        check(tmp_path, text, "A = 1")
    check(tmp_path, text, "A = 1", "B = None")


def test_the_last_binding_decides_whether_a_macro_is_required(tmp_path):
    (tmp_path / "base.gin").write_text("A = 1\nf.x = %A\n")
    with pytest.raises(ConfigError, match="needs A"):
        check(tmp_path, "include 'base.gin'\nA = %gin.REQUIRED\n")
    check(tmp_path, "A = %gin.REQUIRED\ninclude 'base.gin'\n")


def test_a_fault_in_an_included_file_is_placed_there(tmp_path):
    (tmp_path / "base.gin").write_text("\nA = 1\n")
    with pytest.raises(ConfigError, match=r"base.gin:2: nothing reads the macro A"):
        check(tmp_path, "include 'base.gin'\n")
    with pytest.raises(ConfigError, match="there is no gin file other.gin"):
        check(tmp_path, "include 'other.gin'\n")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("f.x = 1\nf.y = some/file\n", "run.gin:2: gin cannot read 'f.y = some/file'"),
        ("f.x = 'open\n", "run.gin:1: gin cannot read"),
        ("f.x = (1,\n", "run.gin:.*: gin cannot read"),
        ("f.x\n", "run.gin:1: gin cannot read 'f.x'"),
    ],
)
def test_what_gin_cannot_read_is_shown_with_its_line(tmp_path, text, place):
    with pytest.raises(ConfigError, match=f"{place}.*Text needs quotes"):
        check(tmp_path, text)


def test_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "gin/runs/quickstart.gin"
    assert find_gin_file(name, gin_flags.PACKAGE_ROOTS).is_file()
    with pytest.raises(ConfigError, match="no gin file gin/runs/nowhere.gin: looked"):
        find_gin_file("gin/runs/nowhere.gin", gin_flags.PACKAGE_ROOTS)
    own = pathlib.Path("gin/runs")
    own.mkdir(parents=True)
    (own / "quickstart.gin").touch()
    found = find_gin_file(name, gin_flags.PACKAGE_ROOTS)
    assert found.resolve() == (tmp_path / name).resolve()


def test_macros_that_are_required_are_listed(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text("A = %gin.REQUIRED\nB = %gin.REQUIRED\nC = 1\nf.x = (%A, %B, %C)\n")
    assert gin_flags.required_macros([str(path)], []) == ["A", "B"]
    assert gin_flags.required_macros([str(path)], ["B = 2"]) == ["A"]


def test_some_arguments_are_built_and_the_others_left_alone():
    from art_jax.cli import train

    gin_flags.parse_gin(["gin/runs/quickstart.gin"], [])
    # Its passages are what a function returns that reads all documentation.
    names = ("encoder", "vocab_size", "stream_tokens")
    got = gin_flags.bound_arguments(train.train, names)
    assert tuple(got) == names
    assert got["encoder"].config.hidden_size == 512
    assert (got["vocab_size"], got["stream_tokens"]) == (8_000, False)
    assert gin_flags.bound_text(train.train, "passages") is None
    assert gin_flags.bound_text(train.train, "model_dir") == "runs/quickstart"
    assert gin_flags.bound_text(train.train, "vocabulary") is None


def test_an_argument_that_cannot_be_built_is_a_configuration_error():
    from art_jax.cli import train

    gin_flags.parse_gin(
        ["gin/runs/quickstart.gin"], ["dual_encoder.DualEncoder.pooling = 'max'"]
    )
    with pytest.raises(ConfigError, match="pooling is 'max'"):
        gin_flags.bound_arguments(train.train, ["encoder"])


def test_arguments_of_a_function_nobody_configures():
    from art_jax.cli import train

    gin_flags.parse_gin([], [])
    with pytest.raises(ConfigError, match="never configure art_jax.cli.train.train"):
        gin_flags.bound_arguments(train.train, ["encoder"])


def test_the_gin_files_choose_one_of_two_trainings():
    from art_jax.cli import train, train_t5

    known = (train.train, train_t5.train)
    for run, want in (("dpr_nq", train.train), ("jpr_nq", train_t5.train)):
        macros = gin_flags.required_macros([f"gin/runs/{run}.gin"], [])
        given = [f"{name} = 'given'" for name in macros]
        gin_flags.parse_gin([f"gin/runs/{run}.gin"], given)
        assert gin_flags.configured_one(known) is want
    both = [
        "from __gin__ import dynamic_registration",
        "from art_jax.cli import train",
        "train.train.model_dir = 'x'",
    ]
    gin_flags.parse_gin([f"gin/runs/{run}.gin"], [*given, "\n".join(both)])
    with pytest.raises(ConfigError, match=r"train\.train and .*train_t5\.train, but a"):
        gin_flags.configured_one(known)
    gin_flags.parse_gin([], [])
    with pytest.raises(ConfigError, match=r"configure .*train nor .*train_t5\.train"):
        gin_flags.configured_one(known)


def test_a_module_that_no_file_imports_is_an_error(tmp_path):
    path = tmp_path / "a.gin"
    text = "from __gin__ import dynamic_registration\ntrain.train.stages = ()\n"
    path.write_text(text)
    with pytest.raises(ConfigError, match="'train' was not provided"):
        gin_flags.parse_gin([str(path)], [])
