"""`open_clip.factory`: create models, transforms, tokenizers and losses by name."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from oneclip import zoo
from oneclip.config import ModelCfg
from oneclip.model import build_model
from open_clip import architectures
from open_clip.architectures import _MODEL_CONFIG_PATHS as _MODEL_CONFIG_PATHS  # programs add to it
from open_clip.architectures import _MODEL_CONFIGS as _MODEL_CONFIGS  # and to this
from open_clip.architectures import (
    _natural_key,
    _rescan_model_configs,
    add_model_config,
    get_model_config,
    list_models,
)
from open_clip.coca_model import CoCa
from open_clip.convert import convert_state_dict
from open_clip.loss import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss
from open_clip.model import (
    CLIP,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
    convert_weights_to_lp,
    get_cast_dtype,
    get_model_preprocess_cfg,
    resize_pos_embed,
    resize_text_pos_embed,
    set_model_preprocess_cfg,
)
from open_clip.overrides import apply_overrides, set_tower_downloads
from open_clip.precision import check_precision, to_precision
from open_clip.pretrained import (
    download_pretrained,
    download_pretrained_from_hf,
    get_pretrained_cfg,
    is_pretrained_cfg,
    list_pretrained_tags_by_model,
)
from open_clip.sources import parse_model_name, raise_no_weights, read_config, resolve_model
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SigLipTokenizer, SimpleTokenizer
from open_clip.tokenizer_choice import get_tokenizer
from open_clip.training_loss import create_loss
from open_clip.transform import (
    AugmentationCfg,
    PreprocessCfg,
    image_transform_v2,
    merge_preprocess_dict,
    merge_preprocess_kwargs,
)
from open_clip.weights import load_checkpoint, load_state_dict, load_tensors, load_tower

__all__ = [
    "add_model_config",
    "create_loss",
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "get_model_config",
    "get_tokenizer",
    "list_models",
    "load_checkpoint",
    "load_state_dict",
    "parse_model_name",
]

HF_HUB_PREFIX, LOCAL_DIR_PREFIX = zoo.HUB_PREFIX, zoo.FOLDER_PREFIX
WEIGHTS_FILE_NAMES = (  # in order of preference
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
Transform = Callable[[Image.Image], Tensor]


def create_model(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: int | tuple[int, int] | None = None,
    force_preprocess_cfg: dict[str, Any] | None = None,
    force_context_length: int | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    require_pretrained: bool = False,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> nn.Module:
    """Create a model in training mode, with pretrained weights if requested.

    Args:
        model_name: an architecture, of the zoo or registered; or a name that includes weights: `hf-hub:owner/name`,
            `local-dir:path`, or another name for `oneclip.load`. `pretrained` is then ignored.
        pretrained: weights for the architecture: a tag, or a file.
        load_weights: False for random weights instead.
        precision: "fp32"; "amp", "amp_bf16" and "amp_bfloat16", which also have fp32 weights; "fp16" and "bf16" for
            matrices only; "pure_fp16" and "pure_bf16" for all weights.
        device: device of the model.
        jit: compile the model with TorchScript. If that fails, return it uncompiled, with a warning.
        force_quick_gelu: use QuickGELU, for any weights.
        force_custom_text: put the text tower into its own module.
        force_patch_dropout: fraction of patches dropped in training.
        force_image_size: in pixels; positions are resized.
        force_preprocess_cfg: fields of `PreprocessCfg` that replace those of the weights.
        force_context_length: in tokens; positions are resized.
        pretrained_image: initialize a timm tower with timm's weights, if no other weights are given.
        pretrained_text: initialize a transformers tower with its published weights, if no other weights are given.
        pretrained_image_path: file with weights of the visual tower, loaded last.
        pretrained_text_path: file with weights of the text tower, loaded last.
        cache_dir: folder for downloads.
        output_dict: make the model's `forward` return a dict.
        require_pretrained: raise an error instead of using random weights.
        weights_only: accepted for compatibility; code in a file is never executed.
        model_kwargs: fields of the architecture's configuration, for example `init_logit_bias`.

    Raises:
        UnknownModelError: for an unknown name.
        ConfigError: for an unknown precision or field.
        CheckpointError: for a file that is damaged or does not fit.
        DownloadError: if a file cannot be downloaded.
    """
    check_precision(precision)
    pretrained_text = model_kwargs.pop("pretrained_hf", pretrained_text)  # the older name of the argument
    _warn_unused_pretrained(model_name, pretrained)
    found = resolve_model(model_name, pretrained, cache_dir, weights=load_weights)
    has_weights = load_weights and found.state_dict is not None
    if require_pretrained and not has_weights:
        raise_no_weights(model_name, pretrained)
    edits = {
        "force_quick_gelu": force_quick_gelu,
        "force_custom_text": force_custom_text,
        "force_patch_dropout": force_patch_dropout,
        "force_image_size": force_image_size,
        "force_context_length": force_context_length,
    }
    cfg = ModelCfg.from_dict(apply_overrides(found.model_cfg, {**edits, **model_kwargs}))
    set_tower_downloads(
        cfg,
        image=pretrained_image and not has_weights and pretrained_image_path is None,
        text=pretrained_text and not has_weights and pretrained_text_path is None,
    )
    # weights are drawn even if others replace them, as in the published package, so that later random numbers agree
    cast_dtype = get_cast_dtype(precision)
    model: Any = build_model(cfg, pretrained_towers=not has_weights, cast_dtype=cast_dtype)
    if load_weights and found.state_dict is not None:
        load_tensors(model, found.state_dict, str(found.path), cfg=cfg)
    if pretrained_image_path:
        load_tower(model, "visual", pretrained_image_path)
    if pretrained_text_path:
        load_tower(model, "text", pretrained_text_path)
    if not (has_weights or pretrained_image_path or pretrained_text_path):
        logging.getLogger(__name__).warning("%s is initialized with random weights", model_name)
    _set_model_device_and_precision(
        model, torch.device(device), precision, cfg.vision_cfg.timm_model_name is not None
    )
    if output_dict and hasattr(model, "output_dict"):
        model.output_dict = True
    preprocess_cfg = {**found.preprocess_cfg, "size": model.visual.image_size}
    set_model_preprocess_cfg(model, merge_preprocess_dict(preprocess_cfg, force_preprocess_cfg or {}))
    return _script(model) if jit else model


def create_model_and_transforms(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: int | tuple[int, int] | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    aug_cfg: dict[str, Any] | AugmentationCfg | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> tuple[nn.Module, Transform, Transform]:
    """Create a model as `create_model` does, with its transforms for training and evaluation.

    Args:
        image_mean, image_std, image_interpolation, image_resize_mode: replace the preprocessing of the weights.
        aug_cfg: augmentation of training images.

    Other arguments and errors are those of `create_model`.
    """
    model = create_model(
        model_name,
        pretrained,
        load_weights,
        precision,
        device,
        jit,
        force_quick_gelu,
        force_custom_text,
        force_patch_dropout,
        force_image_size,
        _preprocess_overrides(image_mean, image_std, image_interpolation, image_resize_mode),
        force_context_length,
        pretrained_image,
        pretrained_text,
        pretrained_image_path,
        pretrained_text_path,
        cache_dir,
        output_dict,
        weights_only=weights_only,
        **model_kwargs,
    )
    cfg = PreprocessCfg(**get_model_preprocess_cfg(model))
    return (
        model,
        image_transform_v2(cfg, is_train=True, aug_cfg=aug_cfg),
        image_transform_v2(cfg, is_train=False),
    )


def create_model_from_pretrained(
    model_name: str,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_image_size: int | tuple[int, int] | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    return_transform: bool = True,
    cache_dir: str | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> nn.Module | tuple[nn.Module, Transform]:
    """Create a model with pretrained weights, and its transform for evaluation.

    Args:
        image_mean, image_std, image_interpolation, image_resize_mode: replace the preprocessing of the weights.
        return_transform: False to return only the model.

    Other arguments and errors are those of `create_model`.
    """
    model = create_model(
        model_name,
        pretrained,
        precision=precision,
        device=device,
        jit=jit,
        force_quick_gelu=force_quick_gelu,
        force_custom_text=force_custom_text,
        force_image_size=force_image_size,
        force_preprocess_cfg=_preprocess_overrides(
            image_mean, image_std, image_interpolation, image_resize_mode
        ),
        force_context_length=force_context_length,
        cache_dir=cache_dir,
        require_pretrained=True,
        weights_only=weights_only,
        **model_kwargs,
    )
    if not return_transform:
        return model
    return model, image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(model)), is_train=False)


def _set_model_device_and_precision(
    model: nn.Module, device: torch.device, precision: str, is_timm_model: bool = False
) -> None:
    """Convert a model's weights to a precision and move them to a device."""
    to_precision(model, precision, whole_tower=is_timm_model)
    model.to(device)


def _get_hf_config(model_id: str, cache_dir: str | None = None) -> dict[str, Any]:
    """Read the `open_clip_config.json` of a repository, downloaded if it is not cached."""
    return read_config(zoo.resolve(HF_HUB_PREFIX + model_id), cache_dir)


def _find_checkpoint_in_dir(dir_path: Path) -> str | None:
    """Return the weights file of a folder: the first of `WEIGHTS_FILE_NAMES`, else safetensors, else any."""
    found = [path for path in dir_path.iterdir() if path.suffix in (".safetensors", ".bin", ".pth")]
    ranks = {name: rank for rank, name in enumerate(WEIGHTS_FILE_NAMES)}
    order = sorted(found, key=lambda p: (ranks.get(p.name, len(ranks)), p.suffix != ".safetensors", p))
    return str(order[0]) if order else None


def _preprocess_overrides(
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    interpolation: str | None,
    resize_mode: str | None,
) -> dict[str, Any]:
    return merge_preprocess_kwargs(
        {}, mean=mean, std=std, interpolation=interpolation, resize_mode=resize_mode
    )


def _warn_unused_pretrained(model_name: str, pretrained: str | os.PathLike[str] | None) -> None:
    """Warn if `pretrained` is given with a name that includes weights."""
    if pretrained and architectures.architecture_name(model_name) is None:
        warnings.warn(
            f"pretrained={pretrained!r} is not used: {model_name} includes its weights", stacklevel=3
        )


def _script(model: nn.Module) -> nn.Module:
    """Compile a model with TorchScript and keep its preprocessing; return the model itself if that fails."""
    try:
        scripted = torch.jit.script(model)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[:1]
        warnings.warn(
            f"jit: this model cannot be compiled and is returned uncompiled: {reason}", stacklevel=3
        )
        return model
    set_model_preprocess_cfg(scripted, get_model_preprocess_cfg(model))
    return scripted
