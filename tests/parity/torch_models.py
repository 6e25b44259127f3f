"""Random models of transformers, and their outputs as NumPy; loaded by its path."""

import numpy as np
import torch
import transformers

BERT = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
T5 = {
    "vocab_size": 101,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
}
T5_BASE = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "num_heads": 12,
}
T5_FORMS = {
    "v1.0": {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def make(name, settings, seed=0, spread=0.1):
    """A model whose every parameter is random, none of them zero or one."""
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            is_scale = "norm" in key.lower() or ".ln." in key
            is_scale = is_scale and key.endswith("weight")
            parameter.normal_(0, spread, generator=generator)
            parameter += is_scale
    return model


def make_t5(form, sizes, seed=0):
    """A T5 of either form as its class starts it, norms and head made random.

    It divides no attention logit, so with larger queries one key would take all, and
    the last bits of a logit would decide which.
    """
    torch.manual_seed(seed)
    settings = {"dropout_rate": 0.0, "decoder_start_token_id": 0}
    cls = transformers.T5ForConditionalGeneration
    model = cls(cls.config_class(**sizes, **T5_FORMS[form], **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    if form == "v1.1":
        # transformers 5 ties them whatever is asked for, and unties what it loads.
        head = torch.randn_like(model.shared.weight) * sizes["d_model"] ** -0.5
        model.lm_head.weight = torch.nn.Parameter(head)
    return model


def batch(vocab_size, shape=(3, 19), seed=0):
    """Token ids, [B, L], and a mask with padding at the ends of rows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, vocab_size, shape)
    lengths = rng.integers(2, shape[1], shape[0])
    lengths[0] = shape[1]
    mask = np.arange(shape[1]) < lengths[:, None]
    return np.where(mask, tokens, 0).astype(np.int32), mask


def numpy(tensor):
    return tensor.detach().to(torch.float32).numpy()


def bert_states(model, tokens, mask, types=None):
    """The last layer's states, [B, L, D], where there is a token: [n, D]."""
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            token_type_ids=None if types is None else torch.tensor(types).long(),
        )
    return numpy(output.last_hidden_state)[mask]
