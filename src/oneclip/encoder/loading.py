"""A name to an `Encoder`: a model with its preprocessing and its tokenizer."""

from __future__ import annotations

import os
from functools import partial
from typing import cast

import torch

from oneclip import checkpoint
from oneclip.checkpoint import Heads, Preprocessing
from oneclip.encoder.encoder import Encoder
from oneclip.engine import PLANNED, automatic_precision, usable_device
from oneclip.errors import ConfigError
from oneclip.image import Preprocess
from oneclip.model import CLIP, CustomTextCLIP


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    precision: str = "fp32",
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    max_pixels: int | None = None,
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
    if precision == "int8" and place.type != "cpu":
        raise ConfigError(
            f"int8 is computed on a CPU, not on {place}: ask for bf16 or fp16 there, or device='cpu'"
        )
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
        loaded.tokenizer(),
        loaded.cfg,
        name=loaded.name,
        max_pixels=max_pixels,
        precision=precision if packed else None,
    )
