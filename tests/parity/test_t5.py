"""T5 v1.0 and v1.1 against transformers, both ways: logits and losses."""

import functools

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'art-jax[parity]'")
import transformers  # noqa: E402

from art_jax.checkpoints import huggingface, tensors  # noqa: E402
from art_jax.models import t5  # noqa: E402

# Of logits of about 10 (tiny) and 30 (base).
ALLOWED = {"tiny": 2e-5, "base": 2e-4}
FORMS = pytest.mark.parametrize("form", ["v1.0", "v1.1"])


@functools.partial(jax.jit, static_argnums=1)
def our_logits(params, config, tokens, targets):
    encoded = t5.encode(params, config, tokens)
    inputs = t5.shift_right(targets)
    return t5.decode(params, config, encoded, tokens, inputs)


def losses(logits, targets):
    """The mean negative log-likelihood of a token of each row, padding left out."""
    log_likelihoods = np.asarray(jax.nn.log_softmax(logits))
    taken = np.take_along_axis(log_likelihoods, targets[..., None], axis=-1)[..., 0]
    mask = targets > 0
    return -(taken * mask).sum(1) / mask.sum(1)


def their_outputs(model, tokens, mask, targets):
    """Logits and each row's loss as the model itself computes it."""
    labels = np.where(targets > 0, targets, -100)
    with torch.no_grad():
        outputs = [
            model(
                input_ids=torch.tensor(tokens[i : i + 1]).long(),
                attention_mask=torch.tensor(mask[i : i + 1]).long(),
                labels=torch.tensor(labels[i : i + 1]).long(),
            )
            for i in range(len(tokens))
        ]
    logits = np.concatenate([output.logits.numpy() for output in outputs])
    return logits, np.array([output.loss.item() for output in outputs], np.float32)


def make(models, form, size):
    return models.make_t5(form, models.T5 if size == "tiny" else models.T5_BASE)


def batches(models, vocab_size):
    tokens, mask = models.batch(vocab_size, (3, 37), seed=1)
    targets, _ = models.batch(vocab_size, (3, 11), seed=2)
    return tokens, mask, targets


@FORMS
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_their_folder_gives_their_logits(models, tmp_path, compare, form, size):
    model = make(models, form, size)
    model.save_pretrained(tmp_path, max_shard_size="200MB")
    config, params = huggingface.open_t5(tmp_path, dtype="float32")
    assert config.logits_via_embedding == (form == "v1.0")
    params = tensors.to_host(params)
    tokens, mask, targets = batches(models, config.vocab_size)
    want, want_losses = their_outputs(model, tokens, mask, targets)
    got = np.asarray(our_logits(params, config, tokens, targets))
    rows = targets > 0
    what = f"T5 {form}, {size}"
    compare(f"{what}: logits of their folder", got[rows], want[rows], ALLOWED[size])
    got_losses = losses(got, targets)
    compare(f"{what}: losses of their folder", got_losses, want_losses, ALLOWED[size])


@FORMS
def test_our_folder_gives_our_logits(models, tmp_path, compare, form):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    make(models, form, "tiny").save_pretrained(theirs)
    config, params = huggingface.open_t5(theirs, dtype="float32")
    params = tensors.to_host(params)
    huggingface.save_t5(ours, config, params)
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(
        ours, output_loading_info=True
    )
    assert {key: list(value) for key, value in info.items() if value} == {}
    tokens, mask, targets = batches(models, config.vocab_size)
    got, _ = their_outputs(model.eval(), tokens, mask, targets)
    want = np.asarray(our_logits(params, config, tokens, targets))
    rows = targets > 0
    compare(f"T5 {form}: logits of our folder", got[rows], want[rows], ALLOWED["tiny"])
