"""Bytes sent: by hand for programs written down, and for programs that XLA compiles."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from art_jax import partitioning
from art_jax.models.collectives import sent_bytes


def program(*lines, devices=4):
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f"HloModule a, num_partitions={devices}\n\n"
        f"ENTRY %main (p: s32[]) -> s32[] {{\n{body}\n}}\n"
    )


GROUPS = "replica_groups={{0,1,2,3}}"


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        # Of 6 floats in the result a device adds 1/4 itself, and passes on the rest.
        ("all-gather", 24 * 3 / 4),
        # Each result is a sum of 4 parts, of which 3 come one after the other.
        ("reduce-scatter", 24 * 3),
        ("all-reduce", 2 * 24 * 3 / 4),
        ("all-to-all", 24 * 3 / 4),
        ("collective-permute", 24),
    ],
)
def test_a_ring_by_hand(kind, sent):
    line = (
        f"%x.1 = f32[2,3]{{1,0}} {kind}(%p), channel_id=1, {GROUPS}, dimensions={{0}}"
    )
    assert sent_bytes(program(line)) == {kind: sent}


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{{0},{1},{2},{3},{4},{5},{6},{7}}", 1),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}", 4),
        ("mesh['axis_0'=4,'axis_2'=2] {'axis_0','axis_2'}", 8),
        ("{}", 8),
    ],
)
def test_groups_in_every_notation(groups, size):
    line = (
        f"%x = bf16[80]{{0}} all-gather(%p), replica_groups={groups}, dimensions={{0}}"
    )
    found = sent_bytes(program(line, devices=8))
    assert found == {"all-gather": 160 * (size - 1) / size}


@pytest.mark.parametrize(
    ("result", "num_bytes"),
    [
        ("pred[8]{0}", 8),
        ("s32[]", 4),
        ("f8e4m3fn[16]{0}", 16),
        ("u4[16]{0}", 8),
        ("(f32[3]{0}, /*index=5*/u16[2,2]{1,0}, f32[0,9]{1,0})", 12 + 8),
    ],
)
def test_every_part_of_a_result_counts(result, num_bytes):
    line = f"ROOT %x = {result} collective-permute(%p), source_target_pairs={{{{0,1}}}}"
    assert sent_bytes(program(line)) == {"collective-permute": num_bytes}


def test_no_devices_send_nothing():
    assert sent_bytes(program("ROOT %x = s32[] add(%p, %p)")) == {}


def test_programs_of_other_backends_are_refused():
    line = f"%x = (f32[1]{{0}}, f32[4]{{0}}) all-gather-start(%p), {GROUPS}"
    with pytest.raises(ValueError, match="all-gather-start"):
        sent_bytes(program(line))


@pytest.fixture(scope="module")
def eight():
    return partitioning.make_mesh(8, model_parallelism=2)


def compiled(function, mesh, in_spec, out_spec, shape):
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_spec, out_specs=out_spec, check_vma=False
    )
    sharding = jax.sharding.NamedSharding(mesh, in_spec)
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    return jax.jit(mapped).lower(array).compile().as_text()


def test_a_sum_over_one_axis(eight):
    spec = PartitionSpec("data")
    text = compiled(
        lambda x: jax.lax.psum(x, "data"), eight, spec, PartitionSpec(), (40, 6)
    )
    # 10 x 6 floats on each of 4 devices of the axis.
    assert sent_bytes(text) == {"all-reduce": 2 * 240 * 3 / 4}


def test_rows_gathered_by_every_turn_of_a_loop(eight):
    def turns(x):
        def turn(total, place):
            part = x * place.astype(jnp.float32)
            whole = jax.lax.all_gather(part, ("data", "model"), tiled=True)
            return total + whole.sum(), None

        total, _ = jax.lax.scan(turn, jnp.float32(0), jnp.arange(5))
        return total[None]

    spec = PartitionSpec(("data", "model"))
    text = compiled(turns, eight, spec, PartitionSpec(), (16, 6))
    assert sent_bytes(text) == {"all-gather": 5 * (16 * 6 * 4) * 7 / 8}


def test_a_loop_of_unknown_length_counts_once_and_all_branches_do(eight):
    def search(x):
        def turn(state):
            half = jax.lax.psum(state, "model") / 2
            return jax.lax.cond(
                half[0, 0] > 3,
                lambda: half + jax.lax.psum(half, "data"),
                lambda: half * jax.lax.pmax(half, "data"),
            )

        return jax.lax.while_loop(lambda state: state[0, 0] < 9, turn, x)

    spec = PartitionSpec("data")
    text = compiled(search, eight, spec, spec, (8, 2))
    each = 2 * 2 * 4  # 2 x 2 floats
    assert sent_bytes(text) == {"all-reduce": 2 * each * 1 / 2 + 2 * (2 * each * 3 / 4)}
