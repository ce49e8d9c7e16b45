"""transformers' `preprocessor_config.json` to a `PreprocessCfg`, and back.

Pixels are then computed as the published training pipelines do (PIL and torchvision). transformers' own processors
differ from those by rounding, and by one pixel in a crop whose margin is odd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oneclip.checkpoint.formats.transformers_common import number, square
from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError

RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
INTERPOLATION = {name: number for number, name in RESAMPLE.items()}
HALF = (0.5, 0.5, 0.5)
RESCALE = 1 / 255

# kinds of processors to what they do where the file is silent
_CLIP_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": RESCALE,
    "do_normalize": True,
    "image_mean": list(PreprocessCfg().mean),
    "image_std": list(PreprocessCfg().std),
}
_SIGLIP_DEFAULTS = _CLIP_DEFAULTS | {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": list(HALF),
    "image_std": list(HALF),
}
DEFAULTS = {
    "CLIP": _CLIP_DEFAULTS,
    "ChineseCLIP": _CLIP_DEFAULTS,
    "Siglip": _SIGLIP_DEFAULTS,
}
_SUFFIXES = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def read_pixels(content: Mapping[str, Any] | None, image_size: int | tuple[int, int]) -> PreprocessCfg | None:
    """How a picture becomes a tensor; None if there is no content.

    Args:
        content: of `preprocessor_config.json`, or of a `processor_config.json` that has an `image_processor`.
        image_size: of the model.

    Raises:
        ConfigError: for steps that are not taken here, or a size that is not the model's.
    """
    if not content:
        return None
    image_size = square(image_size, "image_size")
    nested = content.get("image_processor")
    content = nested if isinstance(nested, Mapping) else content
    said: dict[str, Any] = dict(DEFAULTS[_kind(content)])
    said |= {key: value for key, value in content.items() if value is not None}
    for step in ("do_resize", "do_rescale"):
        if not said[step]:
            raise ConfigError(f"preprocessor_config.json has {step} switched off; a model needs it here")
    for step in ("do_pad", "do_flip_channel_order", "do_color_quantize"):
        if said.get(step):
            raise ConfigError(f"preprocessor_config.json has {step} switched on, which is not done here")
    if not math.isclose(number(said["rescale_factor"], "rescale_factor"), RESCALE, rel_tol=1e-6):
        raise ConfigError(f"rescale_factor is {said['rescale_factor']}; pictures are divided by 255 here")
    if not isinstance(said["resample"], int) or said["resample"] not in RESAMPLE:
        raise ConfigError(
            f"resample is {said['resample']!r}; pictures are resized here with 2 (bilinear) or 3 (bicubic)"
        )
    resize_mode = _resize_mode(said, image_size)
    return PreprocessCfg(
        size=image_size,
        mean=_three(said["image_mean"], "image_mean") if said["do_normalize"] else (0.0, 0.0, 0.0),
        std=_three(said["image_std"], "image_std") if said["do_normalize"] else (1.0, 1.0, 1.0),
        interpolation=RESAMPLE[said["resample"]],
        resize_mode=resize_mode,
    )


def write_pixels(cfg: PreprocessCfg, family: str) -> dict[str, Any]:
    """Content of `preprocessor_config.json`.

    Args:
        cfg: how a picture becomes a tensor.
        family: "CLIP", "ChineseCLIP" or "Siglip", a key of `DEFAULTS`.

    Raises:
        ConfigError: for steps that transformers' processors do not take.
    """
    edges = tuple(cfg.size) if isinstance(cfg.size, tuple | list) else (cfg.size, cfg.size)
    if edges[0] != edges[1]:
        raise ConfigError(f"pictures of {edges[0]} x {edges[1]} pixels: transformers' towers take squares")
    if cfg.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"resize_mode {cfg.resize_mode!r} is no step of transformers' processors, which know shortest and squash"
        )
    if cfg.interpolation not in INTERPOLATION:
        raise ConfigError(f"interpolation {cfg.interpolation!r}: expected {' or '.join(INTERPOLATION)}")
    if cfg.background is not None:
        raise ConfigError(
            "transparent pictures get a background here, and transformers' processors drop transparency: "
            "set background to null in preprocess_cfg if no picture is transparent"
        )
    square = {"height": edges[0], "width": edges[0]}
    crops = cfg.resize_mode == "shortest"
    content = {
        "image_processor_type": f"{'CLIP' if crops and family == 'Siglip' else family}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": edges[0]} if crops else square,
        "resample": INTERPOLATION[cfg.interpolation],
        "do_center_crop": crops,
        "do_rescale": True,
        "rescale_factor": RESCALE,
        "do_normalize": True,
        "image_mean": list(cfg.mean),
        "image_std": list(cfg.std),
        "do_convert_rgb": True,
    }
    return content | ({"crop_size": square} if crops else {})


def _kind(content: Mapping[str, Any]) -> str:
    """Whose processor it is; CLIP's where the file does not say it, as in the oldest."""
    name = (
        content.get("image_processor_type") or content.get("feature_extractor_type") or "CLIPImageProcessor"
    )
    for suffix in _SUFFIXES:
        if (
            isinstance(name, str)
            and name.endswith(suffix)
            and (kind := name.removesuffix(suffix)) in DEFAULTS
        ):
            return kind
    reason = (
        "it keeps each picture's own shape (NaFlex); load a SigLIP 2 of fixed resolution"
        if str(name).startswith("Siglip2")
        else f"known are those of {', '.join(DEFAULTS)}"
    )
    raise ConfigError(f"preprocessing by {name!r} is not done here: {reason}")


def _resize_mode(said: Mapping[str, Any], image_size: int) -> str:
    """ "shortest" or "squash", with every size the model's."""
    size = said["size"]
    size = {"shortest_edge": size} if isinstance(size, int) else size  # as the oldest files have it
    crop = said.get("crop_size", image_size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = {"height": image_size, "width": image_size}
    if size == square and (not said["do_center_crop"] or crop == square):
        return "squash"
    if size == {"shortest_edge": image_size} and said["do_center_crop"] and crop == square:
        return "shortest"
    cropped = f", then cropped to {crop}" if said["do_center_crop"] else ""
    raise ConfigError(
        f"preprocessor_config.json resizes pictures to {size}{cropped}; the model takes {image_size} x {image_size}"
    )


def _three(values: Any, what: str) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ConfigError(f"{what} is {values!r}; one number a channel (3) was expected")
    red, green, blue = (number(value, what) for value in values)
    return red, green, blue
