"""A retriever as Hugging Face model folders, of BERTs or of DPR's encoders.

BERTs: the folder itself where one tower serves both sides, else query_encoder/ and
passage_encoder/. DPR: question_encoder/ and ctx_encoder/, as its classes are called.
"""

import pathlib

from art_jax.checkpoints import hf_tokenizers, huggingface
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.errors import ConfigError
from art_jax.types import Params


def save_berts(folder: pathlib.Path, retriever: SavedRetriever) -> None:
    """Writes each tower as a BertModel or MegatronBertModel with its tokeniser.

    How its states become one vector is not part of such a folder: "cls" and "mean",
    and the division by the length, are left to who loads it.

    Raises:
        ConfigError: a tower has weights besides its BERT's, which would be lost.
    """
    encoder = retriever.encoder
    _refuse(
        "Hugging Face's BERT folders",
        {
            "learned pooling weights": encoder.pooling == "weighted_mean",
            "a projection": encoder.projection_dim > 0,
        },
    )
    names = {"shared": ".", "query": "query_encoder", "passage": "passage_encoder"}
    for side, tower in retriever.params.items():
        part = _new_part(folder, names[side])
        huggingface.save_bert(part, encoder.config, tower["encoder"])
        _save_tokenizer(part, retriever, side)


def save_dpr(folder: pathlib.Path, retriever: SavedRetriever) -> None:
    """Writes a DPRQuestionEncoder and a DPRContextEncoder with their tokenisers.

    A tower that serves both sides is written twice.

    Raises:
        ConfigError: the retriever is of another form than DPR's.
    """
    encoder, params = retriever.encoder, retriever.params
    _refuse(
        "DPR",
        {
            f"pooling {encoder.pooling!r} in place of 'cls'": encoder.pooling != "cls",
            "embeddings divided by their lengths": encoder.normalize,
            "pre-LN blocks": encoder.config.pre_layer_norm,
        },
    )
    for side, name in (("query", "question_encoder"), ("passage", "ctx_encoder")):
        tower: Params = params["shared" if encoder.shared else side]
        part = _new_part(folder, name)
        huggingface.save_dpr(part, encoder.config, encoder.projection_dim, tower, name)
        _save_tokenizer(part, retriever, side)


def _refuse(form: str, reasons: dict[str, bool]) -> None:
    found = [reason for reason, is_there in reasons.items() if is_there]
    if found:
        raise ConfigError(
            f"this retriever has {' and '.join(found)}, for which {form} has no place: "
            "export it --to sentence-transformers."
        )


def _new_part(folder: pathlib.Path, name: str) -> pathlib.Path:
    part = folder / name
    part.mkdir(exist_ok=True)
    return part


def _save_tokenizer(folder: pathlib.Path, retriever: SavedRetriever, side: str) -> None:
    is_query = side == "query"
    limit = retriever.max_query_tokens if is_query else retriever.max_passage_tokens
    hf_tokenizers.save_tokenizer(folder, retriever.tokenizer, limit)
