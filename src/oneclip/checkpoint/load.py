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
from oneclip.checkpoint.resolve.match_architecture import parameters
from oneclip.checkpoint.resolve.resolve import Described, Preprocessing, Said, describe
from oneclip.checkpoint.skip_init import build_blank, float32_by_default
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, CheckpointMismatchError, ConfigError, OneCLIPError
from oneclip.text import get_tokenizer

if TYPE_CHECKING:
    from oneclip.text import Tokenizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, in evaluation mode, and the facts that travel with them.

    Attributes:
        model: what `build_model` makes of `cfg`.
        cfg: what the model was built of.
        preprocess_cfg: how a picture becomes a tensor for it.
        name: what it was loaded by.
        home: the folder that it came from, or the repository as "hf-hub:owner/name[/subfolder][@revision]";
            its tokenizer may lie there. None where there is no such place.
        cache_dir: where downloads are kept, instead of the usual folders.
    """

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    name: str
    home: str | Path | None = None
    cache_dir: str | os.PathLike[str] | None = None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with, made at each call.

        Raises:
            ConfigError: for options that the tokenizer does not have.
            DownloadError: if its files are not on this machine and cannot be fetched.
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
) -> Loaded:
    """Load a model by name.

    Args:
        name: what `zoo.resolve` understands.
        device: where to put it; the first CUDA device if there is one, else the CPU.
        precision: "fp32", "bf16" or "fp16", of all its floating-point weights.
        cache_dir: where downloads are kept, instead of the usual folders.
        quick_gelu: the activation that the weights were trained with, for files that do not say it.
        heads: attention heads of both towers, or (image tower, text tower), likewise.
        preprocess: how images are prepared, likewise: "openai", or fields of a `PreprocessCfg` (`mean`, `std`, …).
        image_size: pixels, (height, width) if not a square: for pictures of another size than the model was
            trained with. Its positions are resized, as open_clip does.
        context_length: tokens, for captions of another length than the model was trained with, likewise.
        part: the key of the dict to take from a training checkpoint, such as "state_dict_ema"; see `read`.
        prefix: what stands before the names of the model's tensors in a file that holds more, such as "backbone.".

    Raises:
        UnknownModelError: for a name that means nothing.
        AmbiguousModelError: for weights whose activation, heads or preprocessing cannot be known.
        ConfigError: for a precision that is none, or a file that contradicts what is said about it elsewhere.
        CheckpointError: for a file that is damaged or does not fit. One of another image size or context length is
            resized only where that is asked for; the message says how.
        DownloadError: for a file that cannot be fetched.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r} and must be one of {', '.join(PRECISIONS)}")
    source = zoo.resolve(name)
    said = Said(quick_gelu, heads, preprocess)
    found = describe(source, cache_dir, said, part=part, prefix=prefix)
    for note in found.notes:
        logging.getLogger("oneclip").warning(
            "%s", note
        )  # one line on stderr where a program sets up no logging
    state_dict = found.checkpoint.state_dict
    if image_size is not None or context_length is not None:
        found = _of_size(found, image_size, context_length)
    model = _built(found)
    if image_size is not None or context_length is not None:
        state_dict = resize_positions(state_dict, found.cfg)
    _fill(model, state_dict, found.path)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device=device, dtype=PRECISIONS[precision]).eval()
    return Loaded(model, found.cfg, found.preprocess_cfg, source.name, found.home, cache_dir)


def _of_size(
    found: Described, image_size: int | tuple[int, int] | None, context_length: int | None
) -> Described:
    """The same with configurations for another image size or context length."""
    cfg, pixels = found.cfg, found.preprocess_cfg
    if image_size is not None:
        sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sizes) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
            raise ConfigError(f"image_size is {image_size!r}; pixels were expected, or (height, width)")
        cfg = replace(cfg, vision_cfg=replace(cfg.vision_cfg, image_size=image_size))
        pixels = replace(pixels, size=image_size)
    if context_length is not None:
        if isinstance(context_length, bool) or not isinstance(context_length, int) or context_length < 2:
            raise ConfigError(f"context_length is {context_length!r}; at least 2 tokens were expected")
        cfg = replace(cfg, text_cfg=replace(cfg.text_cfg, context_length=context_length))
    return replace(found, cfg=cfg, preprocess_cfg=pixels)


def check_size(found: Described) -> None:
    """Compare how large a model of a configuration would be with the file that it is for.

    Raises:
        CheckpointError: if it would be many times larger.
    """
    validate_config.check_size(found.cfg, parameters(found.checkpoint.state_dict), found.path)


def _built(found: Described, build: Callable[[ModelCfg], nn.Module] = build_blank) -> nn.Module:
    """A model without values, if its configuration makes sense beside its weights."""
    try:
        check_size(found)
        with float32_by_default():
            model: nn.Module = build(found.cfg)
    except OneCLIPError:
        raise
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{found.path}: no model can be built of its configuration ({why})") from error
    return model


def _fill(model: nn.Module, state_dict: Mapping[str, Tensor], path: Path) -> None:
    """`load_into`, with the way out where only positions do not fit."""
    try:
        load_into(model, state_dict, source=str(path))
    except CheckpointMismatchError as error:
        asked = {position_names().get(name) for name, _, _ in error.reshaped}
        if error.missing or error.unexpected or not asked or None in asked:
            raise
        ways = " and ".join(sorted(str(way) for way in asked))
        hint = f"Only positions differ: to have them resized, load it with {ways} (see oneclip.load)."
        raise CheckpointMismatchError(str(path), reshaped=error.reshaped, hint=hint) from error
