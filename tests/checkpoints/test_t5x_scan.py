import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_jax.checkpoints import t5x_scan, tensors
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.t5 import T5Config

D, L, H, K, F = 3, 2, 4, 5, 6
CONFIG = T5Config(num_heads=H, head_dim=K, relpos_bias_per_layer=True)
RNG = np.random.default_rng(0)
QUERY, OUT, WI, SCALE, TABLE = (
    RNG.normal(size=shape)
    for shape in ((D, L, H, K), (H, L, K, D), (D, L, F), (D, L), (H, L, 32))
)


def scanned_stack():
    return {
        "attention": {"query": {"kernel": QUERY}, "out": {"kernel": OUT}},
        "mlp": {"wi_0": {"kernel": WI}},
        "pre_mlp_layer_norm": {"scale": SCALE},
        "relpos_bias": {"rel_embedding": TABLE},
    }


def scanned_target():
    norm = {"scale": np.ones(D)}
    target = {
        "token_embedder": {"embedding": np.ones((7, D))},
        "encoder": {"encoder": scanned_stack(), "encoder_norm": norm},
        "decoder": {"decoder": scanned_stack(), "decoder_norm": norm},
    }
    return jax.tree.map(tensors.from_array, target)


def test_each_layer_is_its_slice_with_heads_joined():
    params = tensors.to_host(t5x_scan.split_layers(scanned_target(), "here"))
    assert params["token_embedder"]["embedding"].shape == (7, D)
    assert set(params["decoder"]) == {"layers_0", "layers_1", "decoder_norm"}
    for i in range(L):
        layer = params["encoder"][f"layers_{i}"]
        for got, want in (
            (layer["attention"]["query"]["kernel"], QUERY[:, i].reshape(D, H * K)),
            (layer["attention"]["out"]["kernel"], OUT[:, i].reshape(H * K, D)),
            (layer["mlp"]["wi_0"]["kernel"], WI[:, i]),
            (layer["pre_mlp_layer_norm"]["scale"], SCALE[:, i]),
            (layer["relpos_bias"]["rel_embedding"], TABLE[:, i]),
        ):
            np.testing.assert_array_equal(got, want)


def counted(array):
    """A tensor that writes down what was read of it."""
    reads = []

    def read(index):
        reads.append(tuple((part.start, part.stop) for part in index))
        return array[index]

    return tensors.FileTensor(array.shape, array.dtype, read), reads


def parts_of(size):
    bounds = st.tuples(st.integers(0, size - 1), st.integers(1, size))
    return bounds.map(sorted).filter(lambda pair: pair[0] < pair[1])


@given(rows=parts_of(D), joined=parts_of(H * K), name=st.sampled_from(["query", "out"]))
def test_a_part_of_a_layer_reads_no_more_heads_than_it_needs(rows, joined, name):
    tensor, reads = counted(QUERY if name == "query" else OUT)
    tree = {"encoder": {"encoder": {"attention": {name: {"kernel": tensor}}}}}
    encoder = t5x_scan.split_layers(tree, "here")["encoder"]
    layer = encoder["layers_1"]["attention"][name]["kernel"]
    assert reads == []
    rows_slice, joined_slice = slice(*rows), slice(*joined)
    heads = joined[0] // K, (joined[1] + K - 1) // K
    if name == "query":
        want = QUERY[:, 1].reshape(D, H * K)[rows_slice, joined_slice]
        got = layer.read((rows_slice, joined_slice))
        wanted = (tuple(rows), (0, L), heads, (0, K))
    else:
        want = OUT[:, 1].reshape(H * K, D)[joined_slice, rows_slice]
        got = layer.read((joined_slice, rows_slice))
        wanted = (heads, (0, L), (0, K), tuple(rows))
    np.testing.assert_array_equal(got, want)
    assert reads == [wanted]


def test_an_array_is_read_once_for_all_its_layers_and_kept_no_longer():
    (query, query_reads), (scale, scale_reads) = counted(QUERY), counted(SCALE)
    stack = {"attention": {"query": {"kernel": query}}, "norm": {"scale": scale}}
    params = t5x_scan.split_layers({"encoder": {"encoder": stack}}, "here")
    read = tensors.to_host(params)["encoder"]
    for i in range(L):
        kernel = read[f"layers_{i}"]["attention"]["query"]["kernel"]
        np.testing.assert_array_equal(kernel, QUERY[:, i].reshape(D, H * K))
        np.testing.assert_array_equal(read[f"layers_{i}"]["norm"]["scale"], SCALE[:, i])
    assert (len(query_reads), len(scale_reads)) == (1, 1)
    np.asarray(params["encoder"]["layers_0"]["attention"]["query"]["kernel"])
    np.asarray(params["encoder"]["layers_1"]["norm"]["scale"])
    assert (len(query_reads), len(scale_reads)) == (2, 2)


def test_stacking_undoes_splitting():
    target = scanned_target()
    params = t5x_scan.split_layers(target, "here")
    stacked = t5x_scan.stack_layers(params, CONFIG)
    jax.tree.map(
        lambda got, want: np.testing.assert_array_equal(
            np.asarray(got), np.asarray(want)
        ),
        stacked,
        target,
    )
    kernel = stacked["encoder"]["encoder"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(
        kernel.read((slice(1, 2), slice(0, 2), slice(0, 4), slice(2, 3))),
        QUERY[1:2, :, :, 2:3],
    )


def test_a_table_that_layers_share_is_repeated_in_each():
    params = t5x_scan.split_layers(scanned_target(), "here")
    for stack in ("encoder", "decoder"):
        shared = [params[stack][f"layers_{i}"].pop("relpos_bias") for i in range(L)]
        params[stack]["relpos_bias"] = shared[1]
    config = T5Config(num_heads=H, head_dim=K)
    stacked = t5x_scan.stack_layers(params, config)
    for stack in ("encoder", "decoder"):
        assert "relpos_bias" not in stacked[stack]
        table = stacked[stack][stack]["relpos_bias"]["rel_embedding"]
        for i in range(L):
            np.testing.assert_array_equal(np.asarray(table)[:, i], TABLE[:, 1])


def test_layers_that_are_not_scanned_pass_through():
    tree = {"encoder": {"layers_0": {"a": SCALE}}, "token_embedder": {"embedding": WI}}
    assert t5x_scan.split_layers(tree, "here") == tree


@pytest.mark.parametrize(
    "shapes", [[(D, 2), (D, 3)], [(D,)], [(D, 0)], [(1, 2000)], []]
)
def test_a_number_of_layers_that_is_none_is_an_error(shapes):
    stack = {
        str(i): tensors.from_array(np.zeros(shape)) for i, shape in enumerate(shapes)
    }
    with pytest.raises(CorruptError, match="layers on axis 1"):
        t5x_scan.split_layers({"encoder": {"encoder": stack}}, "here")


def test_a_stack_without_layers_is_not_scanned():
    params = {"encoder": {"encoder_norm": {}}, "decoder": {}}
    with pytest.raises(ConfigError, match="the encoder has no layers"):
        t5x_scan.stack_layers(params, CONFIG)
