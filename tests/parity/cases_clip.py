"""OpenAI's models, small and at full size; both sides of a comparison run this file."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from parity_weights import fill, random_ids, random_images, without_initial_values
from torch import Tensor, nn

VIT_B_32 = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)  # OpenAI's ten arguments
RN50 = (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12)
SMALL_VIT = (48, 32, 3, 64, 8, 16, 120, 64, 1, 3)
SMALL_RESNET = (48, 64, (1, 2, 1, 1), 64, None, 16, 120, 64, 1, 3)
SMALL = {"vit": SMALL_VIT, "resnet": SMALL_RESNET}
FULL = {"ViT-B/32": VIT_B_32, "RN50": RN50}


def observe(package: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return the outputs of a `clip.model.CLIP` with the given arguments."""
    torch.manual_seed(0)
    with without_initial_values() if arguments in FULL.values() else nullcontext():
        model = package.model.CLIP(*arguments).eval()
    fill(model)
    seen = _features(model, arguments)
    if arguments in FULL.values():
        return seen
    image, text = _inputs(arguments)
    with torch.no_grad():
        seen["per image"], seen["per text"] = model(image, text)
    seen["state"] = sorted((name, list(tensor.shape)) for name, tensor in model.state_dict().items())
    seen["short captions"] = model.encode_text(text[:2, :9]).detach()
    seen["prompts"] = _prompts(model, text)
    if hasattr(model.visual, "transformer"):
        tokens = torch.randn(7, 2, 64, generator=torch.Generator().manual_seed(3))  # (L, B, C)
        seen["visual transformer"] = model.visual.transformer(tokens).detach()
        seen["first block"] = model.visual.transformer.resblocks[0](tokens).detach()
    tokens = torch.randn(16, 2, 64, generator=torch.Generator().manual_seed(4))
    seen["text transformer"] = model.transformer(tokens).detach()
    seen["first text block"] = model.transformer.resblocks[0](tokens).detach()
    seen["blocks"] = model.transformer.resblocks(tokens).detach()
    seen["attributes"] = [
        model.visual.input_resolution,
        model.context_length,
        model.vocab_size,
        str(model.dtype),
    ]
    built = package.model.build_model(dict(model.state_dict()))
    seen["built dtypes"] = sorted((name, str(tensor.dtype)) for name, tensor in built.state_dict().items())
    with torch.no_grad():  # in fp16, norms in fp32, as on a GPU
        seen["half"] = {"image": built.encode_image(image), "text": built.encode_text(text)}
    seen["built"] = [built.visual.input_resolution, built.training, str(built.dtype)]
    return seen


def of_open_clip(package: Any, name: str) -> dict[str, Any]:
    """Build the same model as `open_clip.CLIP`."""
    arguments = FULL[name]
    dim, size, layers, width, patch, context, vocab, text_width, heads, text_layers = arguments
    vision = {
        "image_size": size,
        "layers": layers,
        "width": width,
        **({"patch_size": patch} if patch else {}),
    }
    text = {
        "context_length": context,
        "vocab_size": vocab,
        "width": text_width,
        "heads": heads,
        "layers": text_layers,
    }
    with without_initial_values():
        model = package.CLIP(dim, vision, text, quick_gelu=True).eval()
    fill(model)
    return _features(model, arguments)


def _inputs(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    return random_images(2, arguments[1]), random_ids(4, arguments[5], arguments[6])


def _features(model: nn.Module, arguments: tuple[Any, ...]) -> dict[str, Any]:
    image, text = _inputs(arguments)
    with torch.no_grad():
        return {"image": model.encode_image(image), "text": model.encode_text(text)}


def _prompts(model: nn.Module, text: Tensor) -> Tensor:
    """Encode token embeddings with the parts of the text tower, as prompt learning does."""
    x = model.token_embedding(text).type(model.dtype) + model.positional_embedding.type(model.dtype)
    x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = model.ln_final(x).type(model.dtype)
    return (x[torch.arange(len(x)), text.argmax(dim=-1)] @ model.text_projection).detach()


def signatures(package: Any) -> dict[str, Any]:
    """List names and defaults of public arguments."""
    names = (
        "CLIP",
        "VisionTransformer",
        "ModifiedResNet",
        "Transformer",
        "ResidualAttentionBlock",
        "AttentionPool2d",
    )
    seen = {name: _arguments(getattr(package.model, name).__init__) for name in names}
    seen["tokenize"] = _arguments(package.tokenize)
    seen["models"] = list(package.available_models())
    seen["urls"] = list(package.clip._MODELS.values())
    return seen


def _arguments(function: Any) -> list[str]:
    given = inspect.signature(function).parameters.values()
    return [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in given]
