"""A name to an `Encoder`: a model with its preprocessing and its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import cast

import torch

from oneclip import checkpoint
from oneclip.checkpoint import Heads, Preprocessing
from oneclip.encoder.encoder import Encoder
from oneclip.encoder.parts import check_int8
from oneclip.engine import PLANNED, automatic_precision, usable_device
from oneclip.errors import DownloadError, TokenizerNotFoundError
from oneclip.image import Preprocess, Truncated
from oneclip.model import CLIP, CustomTextCLIP
from oneclip.text import Tokenizer, get_tokenizer
from oneclip.text.hf.tokenizer_files import is_folder, look_for_files


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    precision: str = "fp32",
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
    """Load a model by name, ready to encode.

    Args:
        name: "pocket", an OpenAI name ("ViT-B/32"), "ARCHITECTURE:tag", "hf-hub:owner/repository",
            "ARCHITECTURE:path/to/file", or the path of a folder or file that says what it is.
        device: "cpu", "cuda:0", …; by default the first CUDA device if there is one, else the CPU.
        precision: "fp32", "bf16", "fp16" or "int8": of what is computed; or "auto", for bf16 where the processor
            computes in it (fp16 on a GPU that does not), else fp32. `model` stays the fp32 reference beside the packed
            weights of the others; in fp16 on a CPU, and on a GPU that has no memory for it, its weights are in that
            precision themselves.
        cache_dir: where downloads are kept, instead of the usual folder.
        max_pixels: pictures with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" files whose pixels break off, or "accept" what there is of them.
        quick_gelu: the activation that the weights were trained with, where nothing says it.
        heads: attention heads of both towers, or (image tower, text tower), where nothing says it.
        preprocess: how images are prepared, where nothing says it: "openai", or a mapping such as
            `{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}` of the fields of a `PreprocessCfg`.
        image_size: pixels, (height, width) if not a square: for pictures of another size than the model was
            trained with. Its positions are resized.
        context_length: tokens, for captions of another length than the model was trained with, likewise.
        part: the key of the dict to take from a training checkpoint, such as "state_dict_ema" or "net".
        prefix: what stands before the names of the model's tensors in a file that holds more, such as "backbone.".

    Raises:
        UnknownModelError: for a name that means nothing; its message has the nearest names.
        AmbiguousModelError: for weights whose activation, heads or preprocessing cannot be known.
        CheckpointError, DownloadError: for a file that is damaged, does not fit, or cannot be fetched.
        ConfigError: for a device that is not there, or a precision that is none.
        MissingExtraError: for a tower that needs a package that is not installed.
    """
    place = usable_device(device)
    if precision == "auto":
        precision = automatic_precision(place)
    check_int8(precision, place)
    read = partial(
        checkpoint.load,
        name,
        device=place,
        cache_dir=cache_dir,
        quick_gelu=quick_gelu,
        heads=heads,
        preprocess=preprocess,
        image_size=image_size,
        context_length=context_length,
        part=part,
        prefix=prefix,
    )
    packed = precision != "fp32" and precision in PLANNED.get(place.type, ())
    try:
        loaded = read(precision="fp32" if packed else precision)
    except torch.OutOfMemoryError:
        if not packed:
            raise
        loaded = None
    if loaded is None:  # out here, where the error no longer holds what did not fit
        loaded, packed = read(precision=precision), False  # a plan takes such weights as they are
    return Encoder(
        cast("CLIP | CustomTextCLIP", loaded.model),
        Preprocess(loaded.preprocess_cfg),
        _tokenizer(loaded),
        loaded.cfg,
        name=loaded.name,
        max_pixels=max_pixels,
        truncated=truncated,
        precision=precision if packed else None,
    )


def _tokenizer(loaded: checkpoint.Loaded) -> Tokenizer | Callable[[], Tokenizer]:
    """The tokenizer of a model, or what finds it when the first text comes, where its files are missing.

    Images need none; and loading a folder asks no server for what the folder lacks.
    """
    text, home = loaded.cfg.text_cfg, loaded.home
    find = partial(get_tokenizer, text, home, loaded.cache_dir)
    if text.hf_tokenizer_name and home is not None and is_folder(home) and not look_for_files(home):
        return find
    try:
        return find()
    except (TokenizerNotFoundError, DownloadError):
        return find
