"""`open_clip.openai`: load models published by OpenAI."""

from __future__ import annotations

import os

import torch

from oneclip import checkpoint
from oneclip.errors import UnknownModelError
from oneclip.model import CLIP
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import build_model_from_openai_state_dict, convert_weights_to_lp, get_cast_dtype
from open_clip.precision import check_precision, to_precision
from open_clip.pretrained import (
    download_pretrained_from_url,
    get_pretrained_url,
    list_pretrained_models_by_tag,
)

__all__ = ["list_openai_models", "load_openai_model"]


def list_openai_models() -> list[str]:
    """List the architectures with weights by OpenAI, including their `-quickgelu` names."""
    return list_pretrained_models_by_tag("openai")


def load_openai_model(
    name: str,
    precision: str | None = None,
    device: str | torch.device | None = None,
    cache_dir: str | None = None,
) -> CLIP:
    """Load a model published by OpenAI, with QuickGELU.

    Args:
        name: one of `list_openai_models()`, or a file in OpenAI's format.
        precision: as for `create_model`; None for "fp32" on the CPU and "fp16" elsewhere.
        device: None for the first CUDA device if there is one, else the CPU.
        cache_dir: folder for downloads.

    Returns:
        The model, in evaluation mode.

    Raises:
        UnknownModelError: for an unknown name.
        CheckpointError: for a file in another format.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = precision or ("fp32" if device.type == "cpu" else "fp16")
    check_precision(precision)
    if url := get_pretrained_url(name, "openai"):
        path = download_pretrained_from_url(url, cache_dir)
    elif os.path.isfile(name):
        path = name
    else:
        raise UnknownModelError(name, list_openai_models(), kind="OpenAI model")
    model = build_model_from_openai_state_dict(checkpoint.read(path).state_dict).float()
    to_precision(model, precision)
    visual = model.visual
    visual.image_mean, visual.image_std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD  # type: ignore[assignment]
    return model.to(device)
