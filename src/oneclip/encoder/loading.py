"""Loading of an `Encoder` by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import cast

import torch

from oneclip import checkpoint
from oneclip.checkpoint import Heads, Preprocessing
from oneclip.config.precision import LOAD_PRECISIONS, PLAN_PRECISIONS, check_precision
from oneclip.encoder.checks import check_int8
from oneclip.encoder.encoder import Encoder
from oneclip.engine import automatic_precision, resolve_device
from oneclip.errors import DownloadError, TokenizerNotFoundError
from oneclip.image import Preprocess, Truncated
from oneclip.model import CLIP, CustomTextCLIP
from oneclip.text import Tokenizer, get_tokenizer
from oneclip.text.hf.tokenizer_files import find_tokenizer_files, is_folder


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    precision: str | None = "fp32",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    max_pixels: int | None = None,
    truncated: Truncated = "refuse",
    quick_gelu: bool | None = None,
    heads: Heads | None = None,
    preprocess: Preprocessing | None = None,
    image_size: int | tuple[int, int] | None = None,
    context_length: int | None = None,
    part: str | None = None,
    prefix: str | None = None,
) -> Encoder:
    """Load a model by name.

    Args:
        name: "pocket", an OpenAI name ("ViT-B/32"), "ARCHITECTURE:tag", "hf-hub:owner/repository",
            "ARCHITECTURE:path/to/file", or the path of a folder or file that contains its configuration.
        device: "cpu", "cuda:0", …; None for the first CUDA device, or the CPU if there is no CUDA device.
        precision: of the arithmetic: "fp32" (or None), "bf16", "fp16" or "int8"; or "auto": bf16 if the processor
            supports it (fp16 on a GPU without bf16), else fp32. `model` stays in fp32 beside the packed weights. Its
            own weights are converted for fp16 on a CPU, and on a GPU without enough memory for both.
        cache_dir: folder for downloads; None for the default.
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" or "accept" image files whose pixel data is incomplete.
        quick_gelu: the activation that the weights were trained with, for files that do not record it.
        heads: attention heads of both towers, or (image tower, text tower), for files that do not record them.
        preprocess: how images are preprocessed, for files that do not record it: "openai", or a mapping such as
            `{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}` of the fields of a `PreprocessCfg`.
        image_size: pixels, or (height, width), for images of another size than in training; position embeddings are
            interpolated.
        context_length: tokens, for texts of another length than in training; position embeddings are interpolated.
        part: the key of the dict to read in a training checkpoint, such as "state_dict_ema" or "net".
        prefix: of the names of the model's tensors in a file that contains others, too, such as "backbone.".

    Raises:
        UnknownModelError: for an unknown name; the message has the nearest names.
        AmbiguousModelError: for weights whose activation, heads or preprocessing is unknown.
        CheckpointError, DownloadError: for a file that is damaged, does not fit, or cannot be downloaded.
        ConfigError: for an unknown device or precision.
        MissingExtraError: for a tower that needs a package that is not installed.
    """
    precision = precision or "fp32"
    check_precision(precision, LOAD_PRECISIONS)
    target = resolve_device(device)
    if precision == "auto":
        precision = automatic_precision(target)
    check_int8(precision, target)
    read = partial(
        checkpoint.load,
        name,
        device=target,
        cache_dir=cache_dir,
        quick_gelu=quick_gelu,
        heads=heads,
        preprocess=preprocess,
        image_size=image_size,
        context_length=context_length,
        part=part,
        prefix=prefix,
    )
    loaded, plan_precision = _load_weights(read, precision, target)
    return Encoder(
        cast("CLIP | CustomTextCLIP", loaded.model),
        Preprocess(loaded.preprocess_cfg),
        _tokenizer(loaded),
        loaded.cfg,
        name=loaded.name,
        max_pixels=max_pixels,
        truncated=truncated,
        precision=plan_precision,
    )


def _load_weights(
    read: Callable[..., checkpoint.LoadedModel], precision: str, device: torch.device
) -> tuple[checkpoint.LoadedModel, str | None]:
    """Load the weights, and say which precision the inference plans need; None if the weights have it themselves.

    A plan packs a copy of fp32 weights. Without memory for both, the weights are loaded in the precision of the plan,
    which then uses them without a copy.
    """
    if precision == "fp32" or precision not in PLAN_PRECISIONS.get(device.type, ()):
        return read(precision=precision), None
    try:
        return read(precision="fp32"), precision
    except torch.OutOfMemoryError:
        pass  # the error keeps its tensors alive until here
    return read(precision=precision), None


def _tokenizer(loaded: checkpoint.LoadedModel) -> Tokenizer | Callable[[], Tokenizer]:
    """Return a model's tokenizer, or a function that returns it at the first text if its files are missing now.

    Images need no tokenizer, and loading a folder makes no request for files that the folder lacks.
    """
    text, home = loaded.cfg.text_cfg, loaded.home
    find = partial(get_tokenizer, text, home, loaded.cache_dir)
    if text.hf_tokenizer_name and home is not None and is_folder(home) and not find_tokenizer_files(home):
        return find
    try:
        return find()
    except (TokenizerNotFoundError, DownloadError):
        return find
