"""A trained retriever as a folder: encoder, weights, tokeniser, lengths.

config.json               the encoder's settings, row lengths, how it was trained
params.safetensors        float32 parameters by their path
tokenizer/                as `data.tokenizers` saves it
manifest.json
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from art_jax import atomic, manifest, partitioning
from art_jax.checkpoints import pretrained
from art_jax.checkpoints.pretrained import PretrainedRetriever
from art_jax.checkpoints.tensor_files import open_safetensors, write_safetensors
from art_jax.data.layouts import Layout, layout_token_lists
from art_jax.data.query_forms import PLAIN, QueryForm, encode_queries
from art_jax.data.question_table import query_layout
from art_jax.data.questions import Question
from art_jax.data.tokenizers import (
    WordPieceTokenizer,
    load_tokenizer,
    save_tokenizer,
)
from art_jax.errors import ConfigError, CorruptError
from art_jax.models.bert import BertConfig
from art_jax.models.dual_encoder import DualEncoder
from art_jax.types import Params

_KIND = "retriever"
_CONFIG = "config.json"
_PARAMS = "params.safetensors"
_ONE_FILE = 2**62  # bytes: never split

# What a folder of `save_retriever` is called where formats are told apart.
FORMAT = "a retriever of art_jax"


@dataclasses.dataclass(frozen=True)
class SavedRetriever:
    """An encoder with its weights and how it reads texts.

    encoder: the pure functions.
    params: its parameters, on the host or the mesh.
    tokenizer: of queries and passages.
    max_query_tokens: Q.
    max_passage_tokens: L.
    training: facts about how it was made, JSON values.
    query_forms: how it reads the questions of each task it knows, by name; none: any
        question as it is.
    special_ids: ids of the texts that are one piece in them, by text.
    """

    encoder: DualEncoder
    params: Params
    tokenizer: WordPieceTokenizer
    max_query_tokens: int
    max_passage_tokens: int
    training: dict = dataclasses.field(default_factory=dict)
    query_forms: Mapping[str, QueryForm] = dataclasses.field(default_factory=dict)
    special_ids: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def of_task(self, name: str) -> "SavedRetriever":
        """The retriever of one of its tasks: one question tower, one way to read.

        Raises:
            ConfigError: it knows no such task.
        """
        if name not in self.query_forms:
            raise ConfigError(
                f"the retriever knows no task {name!r}: choose of "
                f"{', '.join(self.query_forms) or 'none'}."
            )
        form = self.query_forms[name]
        encoder, params = self.encoder, self.params
        if encoder.query_towers:
            encoder, params = encoder.with_tower(params, form.tower)
        return dataclasses.replace(
            self, encoder=encoder, params=params, query_forms={name: form}
        )

    @property
    def query_form(self) -> QueryForm:
        """How it reads a question that nothing is known of: as of its only task."""
        forms = [*self.query_forms.values()]
        return forms[0] if len(forms) == 1 else PLAIN

    def query_tokens(self, questions: Sequence[Question]) -> np.ndarray:
        """Token rows of questions, read by `query_form`; [n, Q] int32."""
        if self.query_form == PLAIN:
            ids = self.tokenizer.encode_batch([one.text for one in questions])
        else:
            ids = encode_queries(
                questions,
                self.query_form,
                tokenizer=self.tokenizer,
                special_ids=self.special_ids,
                max_tokens=self.max_query_tokens,
            )
        return layout_token_lists(self.query_layout, ids)

    @property
    def query_layout(self) -> Layout:
        """How a question is laid out: `[CLS] question [SEP]`."""
        return query_layout(self.tokenizer, self.max_query_tokens)

    @property
    def passage_layout(self) -> Layout:
        """How a passage is laid out: `[CLS] title [SEP] text [SEP]`."""
        return query_layout(self.tokenizer, self.max_passage_tokens)


def save_retriever(directory: pathlib.Path, retriever: SavedRetriever) -> None:
    """Writes the folder, all of it or nothing; the first process alone writes."""
    if jax.process_index() == 0:
        folder = atomic.new_directory(directory)
        config = {
            "encoder": dataclasses.asdict(retriever.encoder),
            "max_query_tokens": retriever.max_query_tokens,
            "max_passage_tokens": retriever.max_passage_tokens,
            "training": retriever.training,
            "query_forms": {
                name: dataclasses.asdict(form)
                for name, form in retriever.query_forms.items()
            },
            "special_ids": dict(retriever.special_ids),
        }
        atomic.write_text(folder / _CONFIG, json.dumps(config, indent=1))
        flat = traverse_util.flatten_dict(retriever.params, sep="/")
        arrays = {name: np.asarray(value) for name, value in flat.items()}
        stem = _PARAMS.removesuffix(".safetensors")
        write_safetensors(folder, arrays, stem, max_shard_bytes=_ONE_FILE)
        save_tokenizer(retriever.tokenizer, folder / "tokenizer")
        manifest.write_manifest(folder, {"kind": _KIND})
        atomic.finish_directory(directory)
    partitioning.barrier("retriever_saved")


def load_retriever(directory: pathlib.Path, mesh: Mesh) -> SavedRetriever:
    """Returns a retriever, its parameters whole on every device of the mesh.

    Args:
        directory: a folder of `save_retriever`, or a run that holds one.
        mesh: where to.

    Raises:
        ConfigError: there is none.
        CorruptError: a file is missing or damaged, or does not fit the others.
    """
    directory = find_retriever(directory)
    found = open_retriever(directory)
    encoder = pretrained.encoder_of(found)
    return SavedRetriever(
        encoder=encoder,
        params=pretrained.load_params(found, encoder, mesh, directory),
        tokenizer=found.tokenizer,
        max_query_tokens=found.max_query_tokens,
        max_passage_tokens=found.max_passage_tokens,
        training=dict(found.training),
        query_forms=found.query_forms,
        special_ids=found.special_ids,
    )


def open_retriever(directory: pathlib.Path) -> PretrainedRetriever:
    """Returns what a folder of `save_retriever` holds, verified, its arrays unread.

    Raises:
        CorruptError: a file is missing or damaged, or of another version.
    """
    directory = pathlib.Path(directory)
    manifest.verify_manifest(directory)
    config = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    try:
        settings = dict(config["encoder"])
        encoder = DualEncoder(BertConfig(**settings.pop("config")), **settings)
        lengths = {
            name: config[name] for name in ("max_query_tokens", "max_passage_tokens")
        }
        training = config["training"]
        # Folders written before there were tasks have neither.
        forms = {
            name: QueryForm(**fields)
            for name, fields in config.get("query_forms", {}).items()
        }
        special_ids = dict(config.get("special_ids", {}))
    except (TypeError, KeyError) as error:
        raise CorruptError(
            f"{directory / _CONFIG} describes an encoder this art_jax does not "
            f"know ({error}): use the art_jax that wrote it, or a newer one."
        ) from error
    flat = open_safetensors(directory / _PARAMS)
    towers = traverse_util.unflatten_dict(flat, sep="/")
    wanted = ["shared"] if encoder.shared else ["passage", "query"]
    if sorted(towers) != wanted:
        raise CorruptError(
            f"{directory / _PARAMS} holds towers {', '.join(sorted(towers))}, where "
            f"{_CONFIG} says tower {', '.join(wanted)}: they are of two retrievers."
        )
    return PretrainedRetriever(
        format=FORMAT,
        config=encoder.config,
        towers=towers,
        pooling=encoder.pooling,
        normalize=encoder.normalize,
        projection_dim=encoder.projection_dim,
        tokenizer=load_tokenizer(directory / "tokenizer"),
        training=training,
        query_towers=encoder.query_towers,
        query_token_id=encoder.query_token_id,
        query_forms=forms,
        special_ids=special_ids,
        **lengths,
    )


def find_retriever(path: pathlib.Path) -> pathlib.Path:
    """Returns the retriever's folder, given it or the run it is in.

    Raises:
        ConfigError: neither is one.
    """
    path = pathlib.Path(path)
    for candidate in (path / "retriever", path):
        atomic.recover_directory(candidate)
        if _is_retriever(candidate):
            return candidate
    raise ConfigError(
        f"{path} holds no retriever: give the MODEL_DIR of a finished `art-jax train`, "
        "or its folder `retriever`."
    )


def holds_retriever(path: pathlib.Path) -> bool:
    """Whether `find_retriever` finds one, be it damaged."""
    return any(_is_retriever(folder) for folder in (path / "retriever", path))


def _is_retriever(folder: pathlib.Path) -> bool:
    """Whether a folder is a retriever's; a file may be gone, which loading names."""
    names = (_PARAMS, _CONFIG, manifest.MANIFEST_NAME)
    params, config, listed = ((folder / name).exists() for name in names)
    if params:
        return config or listed
    # Exports have a config.json and a manifest too.
    return config and listed and manifest.says(folder, kind=_KIND)
