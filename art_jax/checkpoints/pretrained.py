"""A retriever as its files say it is, whoever wrote them, before it is read."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
from flax import traverse_util
from jax.sharding import Mesh

from art_jax import partitioning
from art_jax.checkpoints import tensors
from art_jax.checkpoints.param_shapes import require_shapes
from art_jax.data.query_forms import QueryForm
from art_jax.data.tokenizers import WordPieceTokenizer
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder, stack_towers
from art_jax.types import Params

# What a BERT's weights decide: an encoder that was asked for has it all or is another.
_FORM = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "width_of_head",
    "intermediate_size",
    "pre_layer_norm",
    "embedding_layer_norm",
    "use_positions",
    "max_positions",
)
# What its files decide without changing what the model is to its user.
_HELD = ("vocab_size", "type_vocab_size", "layer_norm_eps", "head_dim")


@dataclasses.dataclass(frozen=True)
class PretrainedRetriever:
    """One or two BERT towers in files, and all that the files say about their use.

    What is None is not said there, and up to whoever uses the towers.

    format: what was recognised, for people: "Hugging Face BertModel".
    config: of each tower's BERT; sizes and form are the files', the rest default.
    towers: {"shared": tower} or {"query": tower, "passage": tower}, trees of
        `FileTensor`s as dual_encoder.py describes them.
    pooling: "cls", "mean" or "weighted_mean".
    normalize: whether embeddings are divided by their lengths.
    projection_dim: width of each tower's projection; 0: it has none.
    tokenizer: of both sides.
    max_query_tokens: Q.
    max_passage_tokens: L.
    training: facts about how it was made, JSON values.
    query_towers: names of the question towers where there are several, whose arrays
        are stacked then.
    query_token_id: see `DualEncoder`.
    query_forms: how questions of each task are read, by name.
    special_ids: ids of the texts that are one piece in them, by text.
    """

    format: str
    config: BertConfig
    towers: Mapping[str, Params]
    pooling: str | None = None
    normalize: bool | None = None
    projection_dim: int = 0
    tokenizer: WordPieceTokenizer | None = None
    max_query_tokens: int | None = None
    max_passage_tokens: int | None = None
    training: Mapping = dataclasses.field(default_factory=dict)
    query_towers: tuple[str, ...] = ()
    query_token_id: int | None = None
    query_forms: Mapping[str, QueryForm] = dataclasses.field(default_factory=dict)
    special_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """Whether one tower serves both sides."""
        return "shared" in self.towers


def encoder_of(found: PretrainedRetriever, *, pooling: str = "cls") -> DualEncoder:
    """Returns the encoder that the files describe.

    Args:
        found: what they say.
        pooling: taken where they do not say it.
    """
    return DualEncoder(
        config=found.config,
        pooling=found.pooling or pooling,
        shared=found.is_shared,
        projection_dim=found.projection_dim,
        normalize=bool(found.normalize),
        query_towers=found.query_towers,
        query_token_id=found.query_token_id,
    )


def require_towers(found: PretrainedRetriever, source: object) -> None:
    """Raises CorruptError unless the towers have the arrays that their sizes ask for.

    Args:
        found: what the files say and hold.
        source: where they are, for the message.
    """
    require_shapes(found.towers, _param_shapes(encoder_of(found)), source)


@functools.cache
def _param_shapes(encoder: DualEncoder) -> Params:
    return jax.eval_shape(encoder.init, jax.random.key(0))


def fit_encoder(
    found: PretrainedRetriever, wanted: DualEncoder, source: object
) -> DualEncoder:
    """Returns the encoder to train from files: their model, trained as `wanted` says.

    Sizes and form must be the same in both. Vocabulary, pooling, normalisation and
    projection are the files' where they say any; dropout, dtype, remat, and whether
    one tower becomes two, or one question tower several, are `wanted`'s.

    Args:
        found: what the files say.
        wanted: the encoder that was configured.
        source: where the files are, for errors.

    Raises:
        ConfigError: the files hold a model of another size or form, or more towers
            than are wanted, or others.
    """
    differences = [
        f"its {name} is {getattr(found.config, name)}, not "
        f"{getattr(wanted.config, name)}"
        for name in _FORM
        if getattr(found.config, name) != getattr(wanted.config, name)
    ]
    if differences:
        raise ConfigError(
            f"{source} ({found.format}) holds another model than ENCODER: "
            f"{', '.join(differences)}. Set these fields of BertConfig, or include the "
            "gin/models file of its size."
        )
    if wanted.shared and not found.is_shared:
        raise ConfigError(
            f"{source} ({found.format}) holds a tower for queries and one for "
            "passages: set DualEncoder.shared to False, since one cannot stand for "
            "both."
        )
    if found.query_towers and found.query_towers != wanted.query_towers:
        raise ConfigError(
            f"{source} ({found.format}) has question towers "
            f"{', '.join(found.query_towers)}, not "
            f"{', '.join(wanted.query_towers) or 'one for all'}: set "
            "DualEncoder.query_towers to its own, in this order."
        )
    held = {name: getattr(found.config, name) for name in _HELD}
    return dataclasses.replace(
        wanted,
        config=dataclasses.replace(wanted.config, **held),
        pooling=found.pooling or wanted.pooling,
        normalize=wanted.normalize if found.normalize is None else found.normalize,
        projection_dim=found.projection_dim or wanted.projection_dim,
        query_token_id=(
            wanted.query_token_id
            if found.query_token_id is None
            else found.query_token_id
        ),
    )


def load_params(
    found: PretrainedRetriever,
    encoder: DualEncoder,
    mesh: Mesh,
    source: object,
    *,
    key: jax.Array | None = None,
) -> Params:
    """Returns the towers' parameters for an encoder, float32, on every device.

    Args:
        found: what the files hold; their poolers are left where `encoder` has none.
        encoder: `encoder_of` or `fit_encoder` the same files.
        mesh: where to.
        source: where the files are, for errors.
        key: consumed, for what `encoder` adds to the files' model, such as a new
            projection; None: it adds nothing.

    Raises:
        CorruptError: the files' arrays do not fit what they say of themselves.
    """
    on_mesh = partitioning.replicated(mesh)
    num_towers = len(encoder.query_towers)
    if num_towers and not found.query_towers:
        single = dataclasses.replace(encoder, query_towers=())
        params = load_params(found, single, mesh, source, key=key)
        stack = jax.jit(
            lambda tower: stack_towers(tower, num_towers), out_shardings=on_mesh
        )
        return {**params, "query": stack(params["query"])}
    wanted = jax.eval_shape(encoder.init, jax.random.key(0))
    if key is not None:
        wanted = jax.jit(encoder.init, out_shardings=on_mesh)(key)
    return {
        name: _fill(
            tower, found.towers["shared" if found.is_shared else name], mesh, source
        )
        for name, tower in wanted.items()
    }


def _fill(wanted: Params, held: Params, mesh: Mesh, source: object) -> Params:
    """Returns a tower with all that `held` has of it, and the rest as in `wanted`."""
    added = {part: wanted[part] for part in wanted if part not in held}
    for leaf in jax.tree.leaves(added):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise CorruptError(
                f"{source} holds nothing of {sorted(added)}, which its own config says "
                "it has: copy it again from its source."
            )
    shapes = {part: wanted[part] for part in wanted if part in held}
    shapes = traverse_util.flatten_dict(shapes, sep="/")
    taken = traverse_util.flatten_dict(dict(held), sep="/")
    taken = {path: leaf for path, leaf in taken.items() if path in shapes}
    require_shapes(taken, shapes, source)
    loaded = tensors.to_devices(taken, partitioning.replicated(mesh), "float32")
    return {**added, **traverse_util.unflatten_dict(loaded, sep="/")}
