"""Load a model by name, with its configuration and preprocessing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from oneclip import zoo
from oneclip.checkpoint.interpolate_pos_embed import position_names, resize_positions
from oneclip.checkpoint.load_state_dict import load_into
from oneclip.checkpoint.resolve import validate_config
from oneclip.checkpoint.resolve.attention_heads import Heads
from oneclip.checkpoint.resolve.evidence import DeclaredFacts, Preprocessing
from oneclip.checkpoint.resolve.match_architecture import count_parameters
from oneclip.checkpoint.resolve.resolve import ResolvedCheckpoint, resolve_checkpoint
from oneclip.checkpoint.skip_init import build_uninitialized, float32_by_default
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.config.precision import FLOAT_PRECISIONS, check_precision, torch_dtype
from oneclip.errors import CheckpointError, CheckpointMismatchError, ConfigError, OneCLIPError
from oneclip.text import get_tokenizer

if TYPE_CHECKING:
    from oneclip.text import Tokenizer


@dataclass(frozen=True)
class LoadedModel:
    """Model with its weights, in evaluation mode, and its configurations.

    Attributes:
        model: the module that `build_model` returns for `cfg`.
        cfg: configuration of the model.
        preprocess_cfg: preprocessing of its images.
        name: name that it was loaded by.
        home: folder that it came from, or the repository as `hf-hub:owner/name[/subfolder][@revision]`, where its
            tokenizer is searched. None for a single file.
        cache_dir: folder for downloads, instead of the usual folders.
    """

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    name: str
    home: str | Path | None = None
    cache_dir: str | os.PathLike[str] | None = None

    def tokenizer(self) -> Tokenizer:
        """Create the tokenizer that the model was trained with, a new one at each call.

        Raises:
            ConfigError: for options that the tokenizer does not have.
            DownloadError: if its files are not on this machine and cannot be downloaded.
            MissingExtraError: if it needs a package that is not installed.
        """
        return get_tokenizer(self.cfg.text_cfg, self.home, self.cache_dir)


def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    cache_dir: str | os.PathLike[str] | None = None,
    quick_gelu: bool | None = None,
    heads: Heads | None = None,
    preprocess: Preprocessing | None = None,
    image_size: int | tuple[int, int] | None = None,
    context_length: int | None = None,
    part: str | None = None,
    prefix: str | None = None,
) -> LoadedModel:
    """Load a model by name.

    Args:
        name: any name that `zoo.resolve` accepts.
        device: of the model; by default the first CUDA device if there is one, else the CPU.
        precision: "fp32", "bf16" or "fp16", of all its floating-point weights.
        cache_dir: folder for downloads, instead of the usual folders.
        quick_gelu: the activation that the weights were trained with, for files without this information.
        heads: attention heads of both towers, or (image tower, text tower), for files without this information.
        preprocess: preprocessing of images, for files without this information: "openai", or fields of a
            `PreprocessCfg` (`mean`, `std`, …).
        image_size: pixels, or (height, width), to use the model with images of another size than in training. Its
            positions are resized, as open_clip does.
        context_length: tokens, to use the model with texts of another length than in training. Its positions are
            resized, as open_clip does.
        part: the key of the dict to take from a training checkpoint, such as "state_dict_ema"; see `read`.
        prefix: of the names of the model's tensors in a file that contains more, such as "backbone.".

    Raises:
        UnknownModelError: for an unknown name.
        AmbiguousModelError: for weights whose activation, heads or preprocessing are unknown.
        ConfigError: for an invalid precision, or a file that contradicts the other information about it.
        CheckpointError: for a file that is damaged or does not fit. Positions of another image size or context
            length are resized only on request; the message says how.
        DownloadError: for a file that cannot be downloaded.
    """
    check_precision(precision, FLOAT_PRECISIONS)
    source = zoo.resolve(name)
    declared = DeclaredFacts(quick_gelu, heads, preprocess)
    found = resolve_checkpoint(source, cache_dir, declared, part=part, prefix=prefix)
    for note in found.notes:
        logging.getLogger("oneclip").warning("%s", note)
    state_dict = found.checkpoint.state_dict
    if image_size is not None or context_length is not None:
        found = _with_sizes(found, image_size, context_length)
    model = _build_model(found)
    if image_size is not None or context_length is not None:
        state_dict = resize_positions(state_dict, found.cfg)
    _load_weights(model, state_dict, found.path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device=device, dtype=torch_dtype(precision)).eval()
    return LoadedModel(model, found.cfg, found.preprocess_cfg, source.name, found.home, cache_dir)


def _with_sizes(
    found: ResolvedCheckpoint, image_size: int | tuple[int, int] | None, context_length: int | None
) -> ResolvedCheckpoint:
    """Change the configurations to another image size or context length."""
    cfg, preprocess_cfg = found.cfg, found.preprocess_cfg
    if image_size is not None:
        sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sizes) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
            raise ConfigError(f"image_size is {image_size!r}; expected pixels, or (height, width)")
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size))
        preprocess_cfg = replace(preprocess_cfg, size=image_size)
    if context_length is not None:
        if isinstance(context_length, bool) or not isinstance(context_length, int) or context_length < 2:
            raise ConfigError(f"context_length is {context_length!r}; expected at least 2 tokens")
        cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, context_length=context_length))
    return replace(found, cfg=cfg, preprocess_cfg=preprocess_cfg)


def check_size(found: ResolvedCheckpoint) -> None:
    """Compare the size of a configuration's model with the size of its file.

    Raises:
        CheckpointError: if the model would be many times larger.
    """
    validate_config.check_size(found.cfg, count_parameters(found.checkpoint.state_dict), found.path)


def _build_model(
    found: ResolvedCheckpoint, build: Callable[[ModelCfg], nn.Module] = build_uninitialized
) -> nn.Module:
    """Build a model with uninitialized weights, after checking its size against its file."""
    try:
        check_size(found)
        with float32_by_default():
            model: nn.Module = build(found.cfg)
    except OneCLIPError:
        raise
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(
            f"{found.path}: no model can be built from its configuration ({why})"
        ) from error
    return model


def _load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Load weights; if only positions do not fit, the error says how to resize them."""
    try:
        load_into(model, state_dict, source=str(path))
    except CheckpointMismatchError as error:
        arguments = {position_names().get(name) for name, _, _ in error.reshaped}
        if error.missing or error.unexpected or not arguments or None in arguments:
            raise
        needed = " and ".join(sorted(str(argument) for argument in arguments))
        hint = f"Only positions differ: to resize them, load it with {needed} (see oneclip.load)."
        raise CheckpointMismatchError(str(path), reshaped=error.reshaped, hint=hint) from error
