"""Captioning models and their captions; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import small_towers
import torch
from cases_model import VIT, Observed, _record, _sampled
from parity_weights import random_ids, random_images, random_tensor
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, CONTEXT = 24, 16  # small enough that captions end on their own
START, END = VOCABULARY - 2, VOCABULARY - 1
WIDTHS = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 64, "heads": 2, "layers": 2}
TEXT = {**WIDTHS, "embed_cls": True, "output_tokens": True}
VISION = {**VIT, "output_tokens": True}
POOLED = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 7}

INTERMEDIATES: dict[str, dict[str, Any]] = {
    "default": {},
    "last": {"image_indices": 1, "text_indices": 1, "text_output_extra_tokens": True},
    "tokens": {"image_output_fmt": "NLC", "image_output_extra_tokens": True, "normalize": False},
    "only": {"intermediates_only": True, "output_logit_scale_bias": True},
}


@dataclass(frozen=True)
class Case:
    """Configuration of one model."""

    name: str
    vision: dict[str, Any] = field(default_factory=lambda: POOLED)
    text: dict[str, Any] = field(default_factory=lambda: TEXT)
    decoder: dict[str, Any] = field(default_factory=lambda: WIDTHS)
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def cases(folder: Path) -> Iterator[Case]:
    """Make cases with one option each; the configuration of a Hugging Face text model is written to `folder`."""
    yield Case("pooled")
    yield Case("no pool", VISION)
    yield Case("mean of pool", {**POOLED, "pool_type": "avg"})
    yield Case("parallel pools", {**POOLED, "attentional_pool": "parallel"})
    yield Case("other padding", text={**TEXT, "pad_id": 5}, options={"pad_id": 5})
    yield Case("no class token", text={**TEXT, "embed_cls": False})
    yield Case("bidirectional text", text={**TEXT, "no_causal_mask": True})
    yield Case("custom text", text={**TEXT, "embed_cls": False, "scale_attn": True, "scale_heads": True})
    yield Case("deeper decoder", decoder={**WIDTHS, "layers": 3, "heads": 4, "ls_init_value": 0.1})
    yield Case("decoder's fields", decoder={**WIDTHS, "dim_head": 32, "n_queries": 9, "attn_pooler_heads": 2})
    yield Case("quick gelu", options={"quick_gelu": True})
    yield Case("bias", options={"init_logit_bias": -10.0, "nonscalar_logit_scale": True})
    for seed in (1, 2, 3):
        yield Case(f"weights {seed}", seed=seed)
    roberta = small_towers.text_folder("roberta", folder)
    hugging_face = {"hf_model_name": roberta, "hf_model_pretrained": False, "hf_proj_type": "linear"}
    text = {**hugging_face, "output_tokens": True, "vocab_size": VOCABULARY}
    yield Case("Hugging Face text", {**POOLED, "width": 32}, text, {**WIDTHS, "width": 32})


NAMES = tuple(case.name for case in cases(Path(tempfile.gettempdir())))


def observe_all(package: Any) -> dict[str, Observed]:
    """Return the outputs of all cases, by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {case.name: observe(package, case) for case in cases(Path(folder))}


def observe(package: Any, case: Case) -> Observed:
    """Return all outputs of a model."""
    model = build(package, case)
    seen: Observed = {"state": sorted((name, list(t.shape)) for name, t in model.state_dict().items())}
    image, text = random_images(4, 32), texts(model)
    with torch.no_grad():
        for normalize in ((), (False,), (True,)):
            _record(seen, f"image {normalize}", lambda n=normalize: model.encode_image(image, *n))
            _record(seen, f"text {normalize}", lambda n=normalize: model.encode_text(text, *n))
        _record(seen, "forward", lambda: model(image, text))
        _record(seen, "forward without labels", lambda: model(image, text, output_labels=False))
        _record(seen, "picture alone", lambda: model(image))
        latent, tokens = (
            model._encode_image(image) if hasattr(model, "_encode_image") else _both(model, image)
        )
        seen["tokens of images"], seen["tokens of texts"] = tokens, model.text(text)[1]
        _record(seen, "known picture", lambda: model(image, text, latent.flip(0), tokens.flip(0)))
        if not case.text.get(
            "no_causal_mask"
        ):  # otherwise all tokens depend on the position of the class token
            _record(seen, "short captions", lambda: model(image, text[:, :9], output_labels=False)["logits"])
        for name, arguments in INTERMEDIATES.items():
            _record(
                seen,
                f"intermediates {name}",
                lambda a=arguments: model.forward_intermediates(image, text, **a),
            )
    _record(seen, "gradients", lambda: _gradients(model, image, text))
    model.set_grad_checkpointing(True)
    _record(seen, "gradients, checkpointing", lambda: _gradients(model, image, text))
    return seen


def build(package: Any, case: Case) -> Any:
    """Build a model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    width = 32 if case.decoder["width"] == 32 else 64
    model: nn.Module = package.CoCa(width, case.decoder, case.text, case.vision, **case.options).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(random_tensor(f"{case.seed}.{name}" if case.seed else name, tensor))
        if case.seed:  # gives captions without repetition and with different lengths
            model.text.positional_embedding.mul_(4)
            wanted = torch.full((VOCABULARY,), -3.0)  # shift of all logits
            wanted[END] = -1.5
            moved = torch.linalg.lstsq(model.text_decoder.text_projection.T, wanted).solution
            model.text_decoder.ln_final.bias.add_(moved)
    return model


def texts(model: Any) -> Tensor:
    """Make (4, 16) token ids of texts with different lengths."""
    text = random_ids(4, CONTEXT, VOCABULARY)
    pad = model.text.config.pad_token_id if hasattr(model.text, "config") else model.text.pad_id
    ends = (text == END).int().argmax(dim=1)
    return text.masked_fill(torch.arange(CONTEXT) > ends[:, None], pad)


def _both(model: Any, image: Tensor) -> Any:
    output = model(image)
    return output["image_features"], output["image_embs"]


def _gradients(model: Any, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of a loss of all features and logits, in evaluation mode."""
    model.zero_grad()
    output = model(image, text)
    loss = F.cross_entropy(output["logits"].transpose(1, 2), output["labels"], ignore_index=model.pad_id)
    pairs = output["logit_scale"] * output["image_features"] @ output["text_features"].T
    (loss + 0.1 * pairs.pow(2).mean()).backward()
    return _sampled({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
