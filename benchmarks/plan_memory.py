"""How near the memory that `art-jax plan` expects comes to what XLA allots.

Compiles the retriever's forward and backward pass and the teacher, and runs nothing: on
this machine's device, or with --topology for a TPU that is not there (needs libtpu).
Sizes are BERT-base's and T5-XL's with few layers, since layers are alike.
"""

import functools

import jax
import jax.numpy as jnp
import measure
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from art_jax.models import bert, memory, t5
from art_jax.models.dual_encoder import DualEncoder
from art_jax.teacher.t5_scoring import T5Teacher


def main() -> None:
    """Prints predicted and allotted bytes of each part."""
    flags = measure.parser(__doc__.splitlines()[0])
    flags.add_argument("--topology", help="such as v5e:2x2: compile for that TPU")
    flags.add_argument("--layers", type=int, default=2)
    flags.add_argument("--rows", type=int, default=32, help="passages of 256 tokens")
    flags.add_argument("--pairs", type=int, default=16, help="that the teacher scores")
    flags.add_argument("--dropout", type=float, default=0.1)
    flags.add_argument("--part", help="of those that are printed (default: all)")
    flags.add_argument("--width", type=int, help="of small models (default: real ones)")
    options = flags.parse_args()
    device = jax.devices()[0]
    if options.topology:
        topology = topologies.get_topology_desc(options.topology, platform="tpu")
        device = topology.devices[0]
    result = {"compiled_for": device.device_kind}
    for name, function, arguments in parts(options):
        if options.part not in (None, name):
            continue
        predicted = memory.live_bytes(function, *arguments)
        allotted = allotted_bytes(function, arguments, device)
        result[f"{name}_predicted_bytes"] = predicted
        result[f"{name}_allotted_bytes"] = allotted
        result[f"{name}_ratio"] = predicted / allotted
    measure.show(result, as_json=options.json)


def parts(options):
    """Yields the name, the function and the shapes of each part."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    for remat in (True, False):
        encoder = DualEncoder(retriever(options, remat), shared=True)
        params = jax.eval_shape(encoder.init, key)

        def loss(params, rows, key, encoder=encoder):
            return encoder.encode_passage(params, rows, key=key).sum()

        arguments = params, tokens((options.rows, 256)), key
        if remat:
            yield "forward", loss, arguments
        name = "backward_remat" if remat else "backward"
        yield name, jax.grad(loss), arguments
    teacher = T5Teacher(scorer(options), chunk_size=options.pairs, length_buckets=())
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, teacher.param_dtype),
        t5.param_shapes(teacher.config),
    )
    questions, passages = tokens((2, 128)), tokens((2, options.pairs, 512))
    yield "teacher", teacher.score, (params, questions, passages)


def retriever(options, remat: bool) -> bert.BertConfig:
    """Returns BERT-base of few layers, or a narrow one."""
    changes = {"num_layers": options.layers, "dtype": "bfloat16", "remat": remat}
    rate = options.dropout
    changes |= {"dropout_rate": rate, "attention_dropout_rate": rate}
    if options.width:
        changes |= {"hidden_size": options.width, "num_heads": 2}
        changes |= {"intermediate_size": 4 * options.width}
    return bert.megatron_base(**changes)


def scorer(options) -> t5.T5Config:
    """Returns T5-XL of few layers, or a narrow one."""
    changes = {
        "num_encoder_layers": options.layers,
        "num_decoder_layers": options.layers,
    }
    if options.width:
        changes |= {"emb_dim": options.width, "mlp_dim": 4 * options.width}
        changes |= {"num_heads": 2, "vocab_size": 1024}
    return t5.v1_1("xl", **changes)


def allotted_bytes(function, arguments, device) -> int:
    """Returns the memory of a compiled function beside its arguments."""
    sharding = SingleDeviceSharding(device)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        arguments,
    )
    found = jax.jit(function).lower(*placed).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


if __name__ == "__main__":
    main()
