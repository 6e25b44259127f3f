"""A training checkpoint comes back whole, on any devices, or an older one does."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from art_jax import atomic, partitioning
from art_jax.checkpoints import train_state
from art_jax.errors import ConfigError, CorruptError


def make_tree(devices=8, seed=0):
    mesh = partitioning.make_mesh(devices)
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(16, 3)).astype(np.float32)
    return {
        "step": partitioning.put_global(np.int32(7), partitioning.replicated(mesh)),
        "params": {
            "kernel": partitioning.put_global(kernel, partitioning.row_sharding(mesh)),
            "bias": partitioning.put_global(
                kernel[0].astype(jnp.bfloat16), partitioning.replicated(mesh)
            ),
        },
    }


def abstract(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        tree,
    )


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def damage(directory, step):
    path = directory / f"checkpoint_{step}" / "run.json"
    path.write_bytes(path.read_bytes().replace(b"note", b"nope"))


@pytest.fixture
def two_steps(tmp_path):
    for step in (5, 10):
        train_state.save_checkpoint(
            tmp_path, step, make_tree(seed=step), {"note": step}, keep=2
        )
    return tmp_path


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 8), (8, 1), (1, 8), (2, 4)])
def test_arrays_come_back_bit_for_bit_on_any_devices(tmp_path, saved_on, restored_on):
    tree = make_tree(saved_on)
    train_state.save_checkpoint(tmp_path, 7, tree, {"note": [1, "a"]}, keep=1)
    info = train_state.read_info(tmp_path)
    assert (info["step"], info["note"]) == (7, [1, "a"])
    target = abstract(make_tree(restored_on, seed=1))
    restored = train_state.restore_checkpoint(tmp_path, info, target)
    assert_same(restored, tree)
    for got, want in zip(
        jax.tree.leaves(restored), jax.tree.leaves(target), strict=True
    ):
        assert got.sharding == want.sharding


def test_more_of_a_checkpoint_is_watched_as_the_rest(tmp_path):
    def save_more(folder):
        (folder / "more").mkdir()
        (folder / "more" / "file").write_bytes(b"something")

    for step in (5, 10):
        train_state.save_checkpoint(
            tmp_path, step, make_tree(), {}, keep=2, save_more=save_more
        )
    file = tmp_path / "checkpoint_10" / "more" / "file"
    assert file.read_bytes() == b"something"
    assert train_state.read_info(tmp_path)["step"] == 10
    file.write_bytes(b"somethink")
    assert train_state.read_info(tmp_path)["step"] == 5


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 20):
        train_state.save_checkpoint(tmp_path, step, make_tree(), {}, keep=2)
    assert train_state.all_steps(tmp_path) == [10, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_10",
        "checkpoint_20",
    ]


def test_all_are_kept_where_that_is_asked_for(tmp_path):
    for step in (1, 2, 3):
        train_state.save_checkpoint(tmp_path, step, make_tree(), {}, keep=None)
    assert train_state.all_steps(tmp_path) == [1, 2, 3]
    train_state.keep_only(tmp_path, {1, 3})
    assert train_state.all_steps(tmp_path) == [1, 3]


def test_a_step_saved_again_replaces_itself(two_steps):
    tree = make_tree(seed=99)
    train_state.save_checkpoint(two_steps, 10, tree, {"note": "new"}, keep=2)
    info = train_state.read_info(two_steps)
    assert info["note"] == "new"
    assert_same(train_state.restore_checkpoint(two_steps, info, abstract(tree)), tree)
    assert train_state.all_steps(two_steps) == [5, 10]


def test_what_is_no_checkpoint_is_not_taken_for_one(two_steps):
    for name in ("checkpoint_", "checkpoint_x", "checkpoint_007", "checkpoint_12.tmp"):
        (two_steps / name).mkdir()
    (two_steps / "checkpoint_99").write_text("a file")
    (two_steps / "checkpoint_٣").mkdir()  # a digit, in Arabic
    (two_steps / ".checkpoint_20.unfinished").mkdir()
    assert train_state.all_steps(two_steps) == [5, 10]
    assert train_state.all_steps(two_steps / "nowhere") == []
    assert train_state.read_info(two_steps / "nowhere") is None


def test_a_damaged_newest_gives_way_to_the_one_before(two_steps, caplog):
    damage(two_steps, 10)
    absl_logging.get_absl_logger().propagate = True
    with caplog.at_level(logging.WARNING):
        info = train_state.read_info(two_steps)
    assert info["step"] == 5
    assert "passing over a damaged checkpoint" in caplog.text
    assert "checkpoint_10/run.json is damaged" in caplog.text
    tree = make_tree(seed=5)
    assert_same(train_state.restore_checkpoint(two_steps, info, abstract(tree)), tree)


def test_a_step_that_is_asked_for_is_that_or_an_error(two_steps):
    assert train_state.read_info(two_steps, step=5)["note"] == 5
    damage(two_steps, 10)
    with pytest.raises(CorruptError, match="checkpoint_10/run.json is damaged"):
        train_state.read_info(two_steps, step=10)
    with pytest.raises(CorruptError, match="checkpoint_7"):
        train_state.read_info(two_steps, step=7)


def test_going_on_from_an_older_step_survives_the_next_save(two_steps):
    # The damaged step 10 is newer than 6; keeping the newest would keep it alone.
    damage(two_steps, 10)
    train_state.save_checkpoint(two_steps, 6, make_tree(), {"note": 6}, keep=1)
    assert train_state.all_steps(two_steps) == [6]
    assert train_state.read_info(two_steps)["step"] == 6


def test_every_one_damaged_is_an_error(two_steps):
    damage(two_steps, 5)
    (two_steps / "checkpoint_10" / "manifest.json").unlink()
    with pytest.raises(CorruptError, match=r"damaged \(steps \[5, 10\]\)"):
        train_state.read_info(two_steps)


def test_a_flipped_byte_in_the_arrays_is_found(two_steps):
    data = sorted((two_steps / "checkpoint_10" / "state").rglob("*"))
    largest = max((p for p in data if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert train_state.read_info(two_steps)["step"] == 5


def test_a_checkpoint_of_another_model_names_what_differs(two_steps):
    info = train_state.read_info(two_steps)
    target = abstract(make_tree())
    kernel = target["params"].pop("kernel")
    target["params"]["kernel_2"] = kernel
    target["params"]["bias"] = jax.ShapeDtypeStruct((4,), jnp.bfloat16)
    with pytest.raises(ConfigError) as caught:
        train_state.restore_checkpoint(two_steps, info, target)
    message = str(caught.value)
    assert "3 arrays differ" in message
    assert (
        "params/bias: the checkpoint has [[3], 'bfloat16'], the model [[4], 'bfloat16']"
    ) in message
    assert (
        "params/kernel: the checkpoint has [[16, 3], 'float32'], the model nothing"
        in (message)
    )
    assert "params/kernel_2: the checkpoint has nothing" in message
    assert "checkpoint_10" in message


def test_a_kill_before_the_move_leaves_the_checkpoint_before(two_steps, monkeypatch):
    def kill(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "finish_directory", kill)
        with pytest.raises(KeyboardInterrupt):
            train_state.save_checkpoint(two_steps, 15, make_tree(), {}, keep=1)
    assert train_state.all_steps(two_steps) == [5, 10]
    assert train_state.read_info(two_steps)["step"] == 10
    train_state.save_checkpoint(two_steps, 15, make_tree(), {}, keep=1)
    assert [path.name for path in two_steps.iterdir()] == ["checkpoint_15"]


def test_a_kill_while_a_step_replaces_itself_loses_nothing(two_steps):
    (two_steps / "checkpoint_10").rename(two_steps / ".checkpoint_10.replaced")
    assert train_state.read_info(two_steps)["step"] == 10
