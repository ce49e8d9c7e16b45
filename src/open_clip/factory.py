"""Names to models, transforms and tokenizers, as programs written for open_clip ask for them."""

from __future__ import annotations

import os

import torch

from oneclip import checkpoint, zoo
from oneclip.errors import ConfigError
from oneclip.image import Augment, Preprocess
from oneclip.model import CLIP, CustomTextCLIP, build_model
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform_v2

__all__ = ["create_model_and_transforms", "get_tokenizer"]

PRECISIONS = {"fp32": "fp32", "pure_bf16": "bf16", "pure_fp16": "fp16"}


def create_model_and_transforms(
    model_name: str,
    pretrained: str | os.PathLike[str] | None = None,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    cache_dir: str | None = None,
    output_dict: bool | None = None,
) -> tuple[CLIP | CustomTextCLIP, Preprocess | Augment, Preprocess | Augment]:
    """A model with its transforms for training and for evaluation.

    Args:
        model_name: an architecture, or any name of weights that `oneclip.load` takes.
        pretrained: a tag of published weights, or a file; None gives an architecture random weights.
        precision: "fp32", or "pure_bf16" or "pure_fp16" for all weights.
        device: where the model goes.
        cache_dir: where downloads are kept.
        output_dict: whether the model's `forward` gives a dict; None leaves it at a tuple.

    Returns:
        The model, in training mode as there; the training transform; the evaluation transform.

    Raises:
        ConfigError: on an unknown precision; for the rest as `oneclip.checkpoint.load`.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    architecture = _architecture(model_name)
    if pretrained or architecture is None:
        name = f"{model_name}:{os.fspath(pretrained)}" if pretrained else model_name
        load = {"device": device, "precision": PRECISIONS[precision], "cache_dir": cache_dir}
        loaded = checkpoint.load(name, **load)
        model, preprocess_cfg = loaded.model, loaded.preprocess_cfg
    else:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[PRECISIONS[precision]]
        model = build_model(zoo.architecture(architecture)).to(device=device, dtype=dtype)
        preprocess_cfg = zoo.preprocess_of(architecture)
    model.output_dict = bool(output_dict)
    return (
        model.train(),
        image_transform_v2(preprocess_cfg, is_train=True),
        Preprocess(preprocess_cfg),
    )


def get_tokenizer(model_name: str = "", context_length: int | None = None) -> SimpleTokenizer:
    """The tokenizer of an architecture, CLIP's where none is named.

    Args:
        model_name: an architecture.
        context_length: longest caption, in tokens; the architecture's if None.

    Raises:
        UnknownModelError: if there is no such architecture.
        ConfigError: if its tokenizer is not CLIP's.
    """
    if not model_name:
        return SimpleTokenizer(context_length=context_length or 77)
    cfg = zoo.architecture(model_name).text_cfg
    if cfg.hf_tokenizer_name:
        raise ConfigError(
            f"{model_name} has the tokenizer {cfg.hf_tokenizer_name}; this version has CLIP's only"
        )
    return SimpleTokenizer(
        context_length=context_length or cfg.context_length, **(cfg.tokenizer_kwargs or {})
    )


def _architecture(name: str) -> str | None:
    """The architecture of that name, or None for a name that means something else."""
    return zoo.canonical_name(name) if name.replace("/", "-") in zoo.architectures() else None
