"""`open_clip.model`: dual encoders, their configurations, and helpers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneclip import checkpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, as_pair
from oneclip.model import (
    CLIP,
    Attention,
    CustomTextCLIP,
    LayerNorm,
    LayerNormFp32,
    ModifiedResNet,
    QuickGELU,
    TextTransformer,
    VisionTransformer,
    build_model,
    build_text_tower,
    build_visual_tower,
)
from open_clip.hf_model import HFTextEncoder
from open_clip.positions import resize_pos_embed, resize_text_pos_embed
from open_clip.precision import (
    convert_weights_to_fp16,
    convert_weights_to_lp,
    get_cast_dtype,
    get_input_dtype,
)
from open_clip.timm_model import TimmModel
from open_clip.transformer import lock_text_tower, text_global_pool
from open_clip.utils import to_2tuple

__all__ = [
    "CLIP",
    "Attention",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "CustomTextCLIP",
    "HFTextEncoder",
    "LayerNorm",
    "LayerNormFp32",
    "ModifiedResNet",
    "QuickGELU",
    "TextTransformer",
    "TimmModel",
    "VisionTransformer",
    "build_model_from_openai_state_dict",
    "convert_to_custom_text_state_dict",
    "convert_weights_to_fp16",
    "convert_weights_to_lp",
    "get_cast_dtype",
    "get_input_dtype",
    "get_model_preprocess_cfg",
    "get_model_tokenize_cfg",
    "lock_text_tower",
    "resize_pos_embed",
    "resize_text_pos_embed",
    "set_model_preprocess_cfg",
    "text_global_pool",
    "to_2tuple",
    "trace_model",
]

CPU = torch.device("cpu")
TEXT_NAMES = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")


def trace_model(
    model: Any, batch_size: int = 256, device: str | torch.device = CPU
) -> torch.jit.ScriptModule:
    """Record a model as TorchScript: its `forward`, `encode_image` and `encode_text`.

    The script takes any batch size, and texts of the full context length, which it does not cut. It is not checked by
    a second run, which would double the time.

    Args:
        model: set to evaluation mode.
        batch_size: batch size of the example inputs.
        device: device of the model.
    """
    model.eval()
    size = model.visual.image_size
    height, width = as_pair(size)
    convolutions = (module for module in model.visual.modules() if isinstance(module, nn.Conv2d))
    dtype = next((module.weight.dtype for module in convolutions), torch.float32)
    image = torch.ones((batch_size, 3, height, width), device=device, dtype=dtype)
    text = torch.zeros((batch_size, model.context_length), dtype=torch.int, device=device)
    inputs = {"forward": (image, text), "encode_text": (text,), "encode_image": (image,)}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", torch.jit.TracerWarning
        )  # about input checks, which hold for all such inputs
        traced = torch.jit.trace_module(model, inputs, check_trace=False, strict=False)  # type: ignore
    traced.visual.image_size = size
    return traced  # type: ignore[no-any-return]


def convert_to_custom_text_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a `CLIP` for a `CustomTextCLIP`; other state dicts stay unchanged."""
    if "text_projection" not in state_dict:
        return dict(state_dict)
    return {f"text.{name}" if name.startswith(TEXT_NAMES) else name: t for name, t in state_dict.items()}


def build_model_from_openai_state_dict(
    state_dict: Mapping[str, Tensor], quick_gelu: bool = True, cast_dtype: torch.dtype | None = torch.float16
) -> CLIP:
    """Build an fp16 model from OpenAI's state dict; its shapes determine the architecture.

    Raises:
        CheckpointError: if it is not such a state dict.
    """
    weights = {
        key: t
        for key, t in state_dict.items()
        if key not in ("input_resolution", "context_length", "vocab_size")
    }
    cfg = checkpoint.infer_openai_config(weights)
    cfg.quick_gelu = quick_gelu
    model: Any = build_model(
        cfg, cast_dtype=cast_dtype
    )  # weights are drawn, as in the published package, although they are replaced
    convert_weights_to_fp16(model)
    checkpoint.load_into(model, weights, source="the state dict")
    return model.eval()  # type: ignore[no-any-return]


def get_model_preprocess_cfg(model: Any) -> dict[str, Any]:
    """Return the preprocessing of a model: that of `set_model_preprocess_cfg`, or the attributes of its tower."""
    visual = getattr(model, "visual", model)
    cfg: dict[str, Any] = getattr(visual, "preprocess_cfg", {})
    if cfg:
        return cfg
    known = {"size": "image_size", "mean": "image_mean", "std": "image_std"}
    return {key: value for key, name in known.items() if (value := getattr(visual, name, None)) is not None}


def set_model_preprocess_cfg(model: Any, preprocess_cfg: Mapping[str, Any]) -> None:
    """Store the preprocessing of a model on its visual tower."""
    visual = getattr(model, "visual", model)
    visual.image_mean, visual.image_std = preprocess_cfg["mean"], preprocess_cfg["std"]
    visual.preprocess_cfg = copy.deepcopy(dict(preprocess_cfg))


def get_model_tokenize_cfg(model: Any) -> dict[str, int]:
    """Return the context length and vocabulary size, if the text tower has these attributes."""
    text = getattr(model, "text", model)
    return {
        key: getattr(text, key)
        for key in ("context_length", "vocab_size")
        if getattr(text, key, None) is not None
    }


def _build_vision_tower(
    embed_dim: int,
    vision_cfg: CLIPVisionCfg | Mapping[str, Any],
    quick_gelu: bool = False,
    cast_dtype: torch.dtype | None = None,
) -> nn.Module:
    cfg = CLIPVisionCfg.from_dict(vision_cfg) if isinstance(vision_cfg, Mapping) else vision_cfg
    return build_visual_tower(embed_dim, cfg, quick_gelu, cast_dtype)


def _build_text_tower(
    embed_dim: int,
    text_cfg: CLIPTextCfg | Mapping[str, Any],
    quick_gelu: bool = False,
    cast_dtype: torch.dtype | None = None,
) -> nn.Module:
    cfg = CLIPTextCfg.from_dict(text_cfg) if isinstance(text_cfg, Mapping) else text_cfg
    return build_text_tower(embed_dim, cfg, quick_gelu, cast_dtype)
