"""SeqIO feature converters: from a task's features to what the encoders read."""

from collections.abc import Mapping

from art_jax.data import question_table, vocabularies
from art_jax.data.host_tensorflow import seqio, tf
from art_jax.errors import ConfigError


class RetrieverQueryConverter(seqio.FeatureConverter):
    """Lays a question's ids out for the query encoder.

    In:  {"query": [7, 8, 5]} with task_feature_lengths {"query": 8}
    Out: {"query_tokens": [2, 7, 8, 5, 3, 0, 0, 0]}

    where [CLS] is 2, [SEP] 3 and [PAD] 0. A question with more than 6 ids loses its
    end: {"query": [7, 8, 5, 9, 4, 6, 1]} becomes [2, 7, 8, 5, 9, 4, 6, 3].

    `pack` and `use_custom_packing_ops` are there because T5X passes them. Features
    named in `passthrough_features` stay as they are; lists of any length among them
    need `apply_length_check=False`.

    Raises:
        ConfigError: `pack` is true.
    """

    TASK_FEATURES = {"query": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)}
    MODEL_FEATURES = {
        "query_tokens": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
    }
    PACKING_FEATURE_DTYPES = {}

    def __init__(
        self,
        pack: bool = False,
        use_custom_packing_ops: bool = False,
        apply_length_check: bool = True,
        passthrough_features: Mapping | None = None,
    ):
        if pack:
            raise ConfigError(
                "pack=True, but one embedding is made of one row, so questions are "
                "not packed: set pack = False"
            )
        super().__init__(
            pack=False,
            use_custom_packing_ops=use_custom_packing_ops,
            apply_length_check=apply_length_check,
            passthrough_features=passthrough_features,
        )

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        layout = question_table.query_layout(
            vocabularies.chosen_tokenizer(), task_feature_lengths["query"]
        )

        def lay_out(example):
            ids = example["query"][: layout.max_head_tokens - len(layout.prefix)]
            row = tf.concat([layout.prefix, ids, layout.suffix], axis=0)
            padding = layout.max_tokens - tf.shape(row)[0]
            row = tf.pad(row, [[0, padding]], constant_values=layout.pad_id)
            row.set_shape([layout.max_tokens])
            kept = {name: example[name] for name in self._passthrough_features}
            return {"query_tokens": row, **kept}

        return ds.map(lay_out, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> dict[str, int]:
        """The lengths of the model's features: `query_tokens` has that of `query`."""
        lengths = dict(task_feature_lengths)
        return {"query_tokens": lengths.pop("query"), **lengths}
