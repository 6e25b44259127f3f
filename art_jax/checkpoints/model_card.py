"""The README.md of an exported retriever: what it is, how to load it, what it scored.

It says only what the retriever and its run know: no licence, language or data set is
made up.
"""

import json
from collections.abc import Mapping
from typing import Any

import art_jax
from art_jax.checkpoints import parity
from art_jax.checkpoints.parity import similarity
from art_jax.checkpoints.retriever import SavedRetriever
from art_jax.errors import ConfigError

# For each kind of export: the library that loads it, and its task on the hub.
KINDS = {
    "sentence-transformers": ("sentence-transformers", "sentence-similarity"),
    "huggingface": ("transformers", "feature-extraction"),
    "dpr": ("transformers", "feature-extraction"),
}
_TAGS = ("dense-retrieval", "passage-retrieval", "art-jax")
_POOLINGS = {
    "cls": "the vector of [CLS]",
    "mean": "the mean over tokens",
    "weighted_mean": "a mean over tokens with learned weights",
}


def make_card(
    kind: str,
    retriever: SavedRetriever,
    *,
    metrics: Mapping[str, Any] | None = None,
    base_model: str | None = None,
) -> str:
    """Returns a model card: Markdown with YAML in front.

    Args:
        kind: "sentence-transformers", "huggingface" or "dpr".
        retriever: what is exported.
        metrics: of the run, by name, numbers; None or empty: none are known.
        base_model: what training started from, as the hub names it; None: unknown.

    Raises:
        ConfigError: the kind is another one.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"there is no model card of kind {kind!r}: the kinds are {', '.join(KINDS)}"
        )
    trained, retriever = retriever, parity.as_exported(retriever, kind)
    sections = [
        _front_matter(kind, base_model),
        "# A passage retriever trained with art_jax\n",
        _summary(retriever),
        "## How to load it\n",
        _loading(kind, retriever),
        "## How it reads texts\n",
        _reading(retriever, trained.max_query_tokens),
        "## How it was trained\n",
        _facts(retriever.training) or "Its files do not say.\n",
    ]
    if metrics:
        sections += ["## What it scored\n", _table(metrics)]
    sections += ["## How to check it\n", _check()]
    return "\n".join(sections)


def _front_matter(kind: str, base_model: str | None) -> str:
    library, task = KINDS[kind]
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task}"]
    if base_model:
        # A JSON string is a YAML string, whatever is in it.
        lines.append(f"base_model: {json.dumps(base_model)}")
    tags = dict.fromkeys([library, task, "feature-extraction", *_TAGS])
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---", ""]
    return "\n".join(lines)


def _summary(retriever: SavedRetriever) -> str:
    encoder = retriever.encoder
    towers = "One encoder turns" if encoder.shared else "Two encoders turn"
    how = (
        "cosine, which is their dot product, since they have length 1"
        if similarity(encoder) == "cosine"
        else "dot product"
    )
    return (
        f"{towers} queries and passages into vectors of {encoder.width} numbers. The "
        f"similarity of two vectors is their {how}; the greater, the better the "
        "passage answers the query.\n"
    )


def _loading(kind: str, retriever: SavedRetriever) -> str:
    if kind == "sentence-transformers":
        return _load_sentence_transformers(retriever)
    return _load_dpr(retriever) if kind == "dpr" else _load_transformers(retriever)


def _load_sentence_transformers(retriever: SavedRetriever) -> str:
    encoder = retriever.encoder
    trust, warning = "", ""
    if encoder.pooling == "weighted_mean":
        trust = ", trust_remote_code=True"
        warning = (
            "\n`trust_remote_code=True` lets Python run `weighted_mean.py` of this "
            "folder, 60 lines of torch that compute the weighted mean. Read the file "
            "before you allow it.\n"
        )
    return f"""\
It needs sentence-transformers 5 or later.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder"{trust})
queries = model.encode_query(["who wrote on the origin of species"])
passages = model.encode_document(["Title [SEP] Text of the passage."])
scores = model.similarity(queries, passages)  # [queries, passages]
```
{warning}"""


def _load_transformers(retriever: SavedRetriever) -> str:
    encoder = retriever.encoder
    side = "" if encoder.shared else "/query_encoder"
    pool = {
        "cls": "vectors = hidden[:, 0]",
        "mean": (
            'mask = inputs["attention_mask"].unsqueeze(-1)\n'
            "vectors = (hidden * mask).sum(1) / mask.sum(1)"
        ),
    }[encoder.pooling]
    if encoder.normalize:
        pool += "\nvectors = vectors / vectors.norm(dim=-1, keepdim=True)"
    text = f"""\
```python
from transformers import AutoModel, AutoTokenizer

folder = "path/to/this/folder{side}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder)
inputs = tokenizer(
    ["who wrote on the origin of species"],
    padding=True, truncation=True, max_length={retriever.max_query_tokens},
    return_tensors="pt",
)
hidden = model(**inputs).last_hidden_state
{pool}
```
"""
    if not encoder.shared:
        text += (
            "\nPassages go through `passage_encoder` in the same way, with "
            f"`max_length={retriever.max_passage_tokens}`.\n"
        )
    return text


def _load_dpr(retriever: SavedRetriever) -> str:
    return f"""\
```python
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(f"{{folder}}/question_encoder")
question_encoder = DPRQuestionEncoder.from_pretrained(f"{{folder}}/question_encoder")
passage_encoder = DPRContextEncoder.from_pretrained(f"{{folder}}/ctx_encoder")
question = tokenizer(
    "who wrote on the origin of species",
    truncation=True, max_length={retriever.max_query_tokens}, return_tensors="pt",
)
passage = tokenizer(
    "Title [SEP] Text of the passage.",
    truncation=True, max_length={retriever.max_passage_tokens}, return_tensors="pt",
)
question_vector = question_encoder(**question).pooler_output
score = question_vector @ passage_encoder(**passage).pooler_output.T
```
"""


def _reading(retriever: SavedRetriever, trained_query_tokens: int) -> str:
    encoder, config = retriever.encoder, retriever.encoder.config
    query_tokens = retriever.max_query_tokens
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    case = "lower-cased" if retriever.tokenizer.lowercase else "cased"
    lines = [
        f"- Word pieces, {case}, a vocabulary of {retriever.tokenizer.vocab_size:,}.",
        f"- Queries: `[CLS] query [SEP]`, at most {query_tokens} tokens.",
        "- Passages: `[CLS] title [SEP] text [SEP]`, at most "
        f"{retriever.max_passage_tokens} tokens; without a title "
        "`[CLS] text [SEP]`. All token types are 0.",
        f"- BERT of {layers}, width {config.hidden_size}, "
        f"{'pre' if config.pre_layer_norm else 'post'}-LN; pooled by "
        f"{_POOLINGS[encoder.pooling]}"
        + (
            f", then projected to {encoder.projection_dim}"
            if encoder.projection_dim
            else ""
        )
        + (", then divided by its length." if encoder.normalize else "."),
        f"- Similarity: {similarity(encoder)}.",
    ]
    lines += [_question_form(retriever, name) for name in retriever.query_forms]
    text = "\n".join(lines) + (
        '\n\nGive a passage as one string, `title + " [SEP] " + text`: the tokenizer '
        "reads `[SEP]` as the special token. Where a text itself holds `[SEP]`, take "
        "that out first.\n"
    )
    if query_tokens != trained_query_tokens:
        text += (
            f"\nIn training queries were cut to {trained_query_tokens} tokens. "
            "One encoder has one limit here, which is that of passages.\n"
        )
    return text


def _question_form(retriever: SavedRetriever, name: str) -> str:
    """What has to be done to a question of a task before it is encoded."""
    form = retriever.query_forms[name]
    parts = []
    if form.marker:
        parts.append(f"put token {retriever.special_ids[form.marker]} behind [CLS]")
    if form.suffix:
        parts.append(f"end them in {_plain(form.suffix)}")
    if form.special:
        tokens = (
            f"{one} is token {retriever.special_ids[one]}" for one in form.special
        )
        parts.append(", ".join(tokens))
    if form.keep_mention:
        parts.append("of long ones give the part around the mention")
    return f"- Questions of task {_plain(name)}: {'; '.join(parts) or 'as they are'}."


def _facts(training: Mapping[str, Any]) -> str:
    lines = [f"- {_plain(name)}: {_plain(value)}" for name, value in training.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _table(metrics: Mapping[str, Any]) -> str:
    rows = [f"| {_plain(name)} | {_plain(value)} |" for name, value in metrics.items()]
    return "\n".join(["| measure | value |", "|---|---|", *rows]) + "\n"


def _check() -> str:
    return (
        f"`{parity.FILE}` holds texts and the vectors they must give, within the "
        "`max_abs_difference` it states, computed by art_jax "
        f"{art_jax.__version__} in float32.\n"
    )


def _plain(value: Any) -> str:
    """A value on one line that cannot break a list or a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
