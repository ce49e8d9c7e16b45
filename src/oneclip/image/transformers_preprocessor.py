"""Convert transformers' `preprocessor_config.json` to a `PreprocessCfg`, and back.

Pixels are then computed as in the published training pipelines (PIL and torchvision). The processors of transformers
differ from these by rounding, and by one pixel in a crop with an odd margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError

RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
INTERPOLATION = {name: number for number, name in RESAMPLE.items()}
HALF = (0.5, 0.5, 0.5)
RESCALE = 1 / 255
MAX_INT = 2**31 - 1  # of the integers in a configuration

# Defaults of each kind of processor, for fields that are missing in the file.
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


def read_preprocessor(
    content: Mapping[str, Any] | None, image_size: int | tuple[int, int]
) -> PreprocessCfg | None:
    """Convert the content of a file to a preprocessing; None if there is no content.

    Args:
        content: of `preprocessor_config.json`, or of a `processor_config.json` with an `image_processor`.
        image_size: image size of the model.

    Raises:
        ConfigError: for steps that are not supported here, or a size other than the model's.
    """
    if not content:
        return None
    image_size = check_square(image_size, "image_size")
    nested = content.get("image_processor")
    content = nested if isinstance(nested, Mapping) else content
    fields: dict[str, Any] = dict(DEFAULTS[_kind(content)])
    fields |= {key: value for key, value in content.items() if value is not None}
    for step in ("do_resize", "do_rescale"):
        if not fields[step]:
            raise ConfigError(f"{step} is false in preprocessor_config.json; it is always done here")
    for step in ("do_pad", "do_flip_channel_order", "do_color_quantize"):
        if fields.get(step):
            raise ConfigError(f"{step} is true in preprocessor_config.json; it is not supported here")
    if not math.isclose(check_number(fields["rescale_factor"], "rescale_factor"), RESCALE, rel_tol=1e-6):
        raise ConfigError(
            f"rescale_factor is {fields['rescale_factor']}; pixels are always divided by 255 here"
        )
    if not isinstance(fields["resample"], int) or fields["resample"] not in RESAMPLE:
        raise ConfigError(f"resample is {fields['resample']!r}; supported: 2 (bilinear) and 3 (bicubic)")
    resize_mode = _resize_mode(fields, image_size)
    return PreprocessCfg(
        size=image_size,
        mean=_three(fields["image_mean"], "image_mean") if fields["do_normalize"] else (0.0, 0.0, 0.0),
        std=_three(fields["image_std"], "image_std") if fields["do_normalize"] else (1.0, 1.0, 1.0),
        interpolation=RESAMPLE[fields["resample"]],
        resize_mode=resize_mode,
    )


def write_preprocessor(cfg: PreprocessCfg, family: str) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json`.

    Args:
        cfg: the preprocessing.
        family: "CLIP", "ChineseCLIP" or "Siglip", a key of `DEFAULTS`.

    Raises:
        ConfigError: for steps that the processors of transformers do not have.
    """
    edges = tuple(cfg.size) if isinstance(cfg.size, tuple | list) else (cfg.size, cfg.size)
    if edges[0] != edges[1]:
        raise ConfigError(
            f"the image size is {edges[0]} x {edges[1]}; the towers of transformers need a square"
        )
    if cfg.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"resize_mode is {cfg.resize_mode!r}; the processors of transformers support shortest and squash"
        )
    if cfg.interpolation not in INTERPOLATION:
        raise ConfigError(f"interpolation is {cfg.interpolation!r}; expected {' or '.join(INTERPOLATION)}")
    if cfg.background is not None:
        raise ConfigError(
            "transparent images get a background here, and the processors of transformers ignore transparency: "
            "set background to null in preprocess_cfg if no image is transparent"
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
    """Return the kind of processor, a key of `DEFAULTS`; CLIP if the file does not name it, as in the oldest files."""
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
        "it keeps the aspect ratio of each image (NaFlex); load a SigLIP 2 of fixed resolution"
        if str(name).startswith("Siglip2")
        else f"supported: the processors of {', '.join(DEFAULTS)}"
    )
    raise ConfigError(f"the preprocessing {name!r} is not supported: {reason}")


def _resize_mode(fields: Mapping[str, Any], image_size: int) -> str:
    """Return "shortest" or "squash", after checking that all sizes are the model's."""
    size = fields["size"]
    size = {"shortest_edge": size} if isinstance(size, int) else size  # in the oldest files
    crop = fields.get("crop_size", image_size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    square = {"height": image_size, "width": image_size}
    if size == square and (not fields["do_center_crop"] or crop == square):
        return "squash"
    if size == {"shortest_edge": image_size} and fields["do_center_crop"] and crop == square:
        return "shortest"
    cropped = f", then cropped to {crop}" if fields["do_center_crop"] else ""
    raise ConfigError(
        f"preprocessor_config.json resizes images to {size}{cropped}; the model needs {image_size} x {image_size}"
    )


def _three(values: Any, what: str) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ConfigError(f"{what} is {values!r}; expected three numbers, one per channel")
    red, green, blue = (check_number(value, what) for value in values)
    return red, green, blue


def check_number(value: Any, what: str) -> float:
    """Return a value of a JSON file as float; raise ConfigError unless it is a number of ordinary size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_INT:
        raise ConfigError(f"{what} is {str(value)[:80]!r}; expected a number")
    return float(value)


def check_square(value: Any, what: str) -> int:
    """Return the side of a square, given as one number or two equal ones."""
    edges = set(value) if isinstance(value, list | tuple) else {value}
    if len(edges) != 1 or not isinstance(edge := edges.pop(), int):
        raise ConfigError(f"{what} is {value!r}; the towers of transformers need a square")
    return edge
