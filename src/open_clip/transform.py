"""`open_clip.transform`: image transforms, based on `oneclip.image`.

They do not need torchvision or return its classes, but compose with them. Only timm's augmentation (`use_timm`) needs
both timm and torchvision.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oneclip.config import AugmentCfg, as_pair
from oneclip.config import PreprocessCfg as _PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image.augment import Augment, draw_color_jitter
from oneclip.image.preprocess import Preprocess
from oneclip.image.steps import CenterCrop, Resize, ToTensor
from oneclip.model.optional_package import optional_package
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.utils import to_2tuple

__all__ = [
    "AugmentationCfg",
    "CenterCropOrPad",
    "MaybeConvertMode",
    "MaybeToTensor",
    "PreprocessCfg",
    "ResizeKeepRatio",
    "center_crop_or_pad",
    "color_jitter",
    "gray_scale",
    "image_transform",
    "image_transform_v2",
    "merge_preprocess_dict",
    "merge_preprocess_kwargs",
]


@dataclass
class PreprocessCfg(_PreprocessCfg):
    """`oneclip.config.PreprocessCfg` with the shape of the output."""

    def __post_init__(self) -> None:
        if self.mode != "RGB":
            raise ConfigError(f"mode {self.mode!r} is not supported; models take RGB images")

    @property
    def num_channels(self) -> int:
        return 3

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Input shape: (channels, height, width)."""
        return (self.num_channels, *to_2tuple(self.size))


_PREPROCESS_KEYS = {field.name for field in fields(PreprocessCfg)} - {"background"}  # not a published field


@dataclass
class AugmentationCfg:
    """Augmentation of training images; `ratio`, `re_prob` and `re_count` need `use_timm`."""

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] | None = None
    color_jitter: float | tuple[float, float, float] | tuple[float, float, float, float] | None = None
    re_prob: float | None = None
    re_count: int | None = None
    use_timm: bool = False

    color_jitter_prob: float | None = None
    gray_scale_prob: float | None = None


def merge_preprocess_dict(
    base: _PreprocessCfg | Mapping[str, Any], overlay: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge preprocessing fields: those of `overlay` that are not None replace those of `base`. Drops other keys."""
    names = {*_PREPROCESS_KEYS, "background"}
    values = asdict(base) if isinstance(base, _PreprocessCfg) else dict(base)
    merged = {key: value for key, value in values.items() if key in names}
    merged.update(
        {key: value for key, value in (overlay or {}).items() if key in names and value is not None}
    )
    if merged.get("background") is None:
        merged.pop("background", None)
    return merged


def merge_preprocess_kwargs(base: _PreprocessCfg | Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Merge preprocessing fields given as keyword arguments into `base`."""
    return merge_preprocess_dict(base, kwargs)


def image_transform(
    image_size: int | tuple[int, int],
    is_train: bool,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    resize_mode: str | None = None,
    interpolation: str | None = None,
    fill_color: int = 0,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
) -> Callable[[Image.Image], Tensor]:
    """Make the transform from a PIL image to a normalized (3, H, W) tensor, for evaluation or training."""
    cfg = PreprocessCfg(
        size=image_size,
        mean=_per_channel(mean or OPENAI_DATASET_MEAN),
        std=_per_channel(std or OPENAI_DATASET_STD),
        resize_mode=resize_mode or "shortest",
        interpolation=interpolation or "bicubic",
        fill_color=tuple(fill_color) if isinstance(fill_color, list) else fill_color,
    )
    return image_transform_v2(cfg, is_train, aug_cfg)


def image_transform_v2(
    cfg: _PreprocessCfg, is_train: bool, aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None
) -> Callable[[Image.Image], Tensor]:
    """Make the transform for a configuration, as `image_transform` does.

    Args:
        cfg: size, statistics and, for evaluation, the resize mode. The interpolation "random" works with `use_timm`
            only; otherwise it means "bicubic".
        is_train: make the transform for training.
        aug_cfg: augmentation of training images; with `use_timm`, timm makes the transform.

    Raises:
        ConfigError: for an invalid mode, filter or amount.
        MissingExtraError: for `use_timm` if timm is not installed or cannot be imported.
    """
    aug = AugmentationCfg(**aug_cfg) if isinstance(aug_cfg, Mapping) else aug_cfg or AugmentationCfg()
    size = cfg.size if isinstance(cfg.size, int) else (cfg.size[0], cfg.size[1])  # JSON has lists
    cfg = replace(cfg, size=size, mean=_per_channel(cfg.mean), std=_per_channel(cfg.std))
    if is_train and aug.use_timm:
        return timm_transform(cfg, aug)
    if cfg.interpolation == "random":
        cfg = replace(cfg, interpolation="bicubic")
    return Augment(cfg, _augment_cfg(aug)) if is_train else Preprocess(cfg)


def timm_transform(cfg: _PreprocessCfg, aug: AugmentationCfg) -> Callable[[Image.Image], Tensor]:
    """Make timm's training transform, without flips; needs torchvision as well."""
    data = optional_package("timm.data", "aug_cfg's use_timm", "timm")
    names = ("scale", "ratio", "color_jitter", "re_prob", "re_count")
    options = {name: value for name in names if (value := getattr(aug, name)) is not None}
    transform: Callable[[Image.Image], Tensor] = data.create_transform(
        input_size=(3, *as_pair(cfg.size)),
        is_training=True,
        hflip=0.0,
        mean=cfg.mean,
        std=cfg.std,
        re_mode="pixel",
        interpolation=cfg.interpolation,
        **{"color_jitter": None, **options},
    )
    return transform


def _setup_size(size: int | Sequence[int], error_msg: str) -> Sequence[int]:
    """Return (height, width) for a number or a list of one or two numbers.

    Raises:
        ConfigError: with `error_msg`, for another length.
    """
    sizes = [size] if isinstance(size, (int, float)) else size
    if len(sizes) not in (1, 2):
        raise ConfigError(error_msg)
    return sizes if len(sizes) == 2 else (int(sizes[0]), int(sizes[0]))


class ResizeKeepRatio:
    """Resize to cover `size` (longest=0), fit into it (1) or in between; optional random scale and aspect."""

    def __init__(
        self,
        size: int | Sequence[int],
        longest: float = 0.0,
        interpolation: Any = "bicubic",
        random_scale_prob: float = 0.0,
        random_scale_range: tuple[float, float] = (0.85, 1.05),
        random_aspect_prob: float = 0.0,
        random_aspect_range: tuple[float, float] = (0.9, 1.11),
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.longest = float(longest)
        self.interpolation = str(
            getattr(interpolation, "value", interpolation)
        )  # torchvision uses the same names
        self.random_scale_prob, self.random_scale_range = random_scale_prob, random_scale_range
        self.random_aspect_prob, self.random_aspect_range = random_aspect_prob, random_aspect_range

    @staticmethod
    def get_params(
        img: Image.Image,
        target_size: Sequence[int],
        longest: float,
        random_scale_prob: float = 0.0,
        random_scale_range: tuple[float, float] = (0.85, 1.05),
        random_aspect_prob: float = 0.0,
        random_aspect_range: tuple[float, float] = (0.9, 1.11),
    ) -> list[int]:
        """Draw the height and width of the resized image."""
        height_factor = width_factor = 1.0
        if random_scale_prob > 0 and random.random() < random_scale_prob:
            height_factor = width_factor = random.uniform(*random_scale_range)
        if random_aspect_prob > 0 and random.random() < random_aspect_prob:
            aspect = random.uniform(*random_aspect_range)
            height_factor, width_factor = height_factor / aspect, width_factor * aspect
        ratios = img.height / target_size[0], img.width / target_size[1]
        ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
        return [round(img.height * height_factor / ratio), round(img.width * width_factor / ratio)]

    def __call__(self, img: Image.Image) -> Image.Image:
        height, width = self.get_params(
            img,
            self.size,
            self.longest,
            self.random_scale_prob,
            self.random_scale_range,
            self.random_aspect_prob,
            self.random_aspect_range,
        )
        return Resize((max(1, height), max(1, width)), self.interpolation)(img)

    def __repr__(self) -> str:
        return (
            f"ResizeKeepRatio(size={self.size}, interpolation={self.interpolation}, longest={self.longest})"
        )


def center_crop_or_pad(
    img: Image.Image | Tensor, output_size: int | Sequence[int], fill: int | tuple[int, ...] = 0
) -> Image.Image | Tensor:
    """Crop the centre of a PIL image or (..., H, W) tensor; pad with `fill` where it is smaller."""
    sizes = [output_size] if isinstance(output_size, int) else list(output_size)
    crop = CenterCrop((sizes[0], sizes[-1]), fill)
    if not isinstance(img, Tensor):
        return crop(img)
    height, width = sizes[0], sizes[-1]
    spare_height, spare_width = max(0, height - img.shape[-2]), max(0, width - img.shape[-1])
    border = spare_width // 2, (spare_width + 1) // 2, spare_height // 2, (spare_height + 1) // 2
    img = torch.nn.functional.pad(img, border, value=fill)  # type: ignore[arg-type]
    top, left = crop.corner(img.shape[-2], img.shape[-1])
    return img[..., top : top + height, left : left + width]


class CenterCropOrPad(torch.nn.Module):
    """Module form of `center_crop_or_pad`."""

    def __init__(self, size: int | Sequence[int], fill: int | tuple[int, ...] = 0) -> None:
        super().__init__()
        self.size = _setup_size(size, f"size is a number of pixels or (height, width), not {size!r}")
        self.fill = fill

    def forward(self, img: Image.Image | Tensor) -> Image.Image | Tensor:
        return center_crop_or_pad(img, self.size, self.fill)

    def extra_repr(self) -> str:
        return f"size={self.size}"


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


class MaybeConvertMode:
    """Converter of PIL images to `mode`; arrays and tensors are returned unchanged."""

    def __init__(self, mode: str = "RGB") -> None:
        self.mode = mode

    def __call__(self, pic: Any) -> Any:
        return pic if isinstance(pic, (np.ndarray, Tensor)) else pic.convert(self.mode)

    def __repr__(self) -> str:
        return "MaybeConvertMode()"


class MaybeToTensor:
    """Converter of PIL images and (H, W[, C]) arrays to (C, H, W) tensors; uint8 is scaled to [0, 1]."""

    def __call__(self, pic: Any) -> Tensor:
        if isinstance(pic, Tensor):
            return pic
        if not isinstance(pic, np.ndarray):
            return ToTensor()(pic)
        samples = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pic).transpose(2, 0, 1)))
        return samples.float().div_(255) if samples.dtype == torch.uint8 else samples

    def __repr__(self) -> str:
        return "MaybeToTensor()"


class color_jitter:
    """Random change of brightness, contrast, saturation and hue, with probability `p`."""

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 0.8,
    ) -> None:
        self.amounts, self.p = (brightness, contrast, saturation, hue), p

    def __call__(self, img: Image.Image) -> Image.Image:
        if random.random() < self.p:
            for change in draw_color_jitter(self.amounts):
                img = change(img)
        return img


class gray_scale:
    """Conversion to grayscale with probability `p`."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    def __call__(self, img: Image.Image) -> Image.Image:
        return img.convert("L").convert("RGB") if random.random() < self.p else img


def _augment_cfg(aug_cfg: AugmentationCfg) -> AugmentCfg:
    """Convert an `AugmentationCfg` for `Augment`, which does what the published package does without timm."""
    unused = [name for name in ("ratio", "re_prob", "re_count") if getattr(aug_cfg, name) is not None]
    if aug_cfg.color_jitter is not None and not aug_cfg.color_jitter_prob:
        unused.append("color_jitter")
    if unused:
        warnings.warn(f"ignored, since use_timm is not set: {', '.join(unused)}", stacklevel=4)
    jitter = aug_cfg.color_jitter if aug_cfg.color_jitter_prob else None
    if aug_cfg.color_jitter_prob and not (isinstance(jitter, (tuple, list)) and len(jitter) == 4):
        raise ConfigError(
            f"color_jitter is {jitter!r}; expected four amounts, because color_jitter_prob is set"
        )
    return AugmentCfg(
        scale=(aug_cfg.scale[0], aug_cfg.scale[1]),
        color_jitter=tuple(jitter) if isinstance(jitter, (tuple, list)) else None,  # type: ignore[arg-type]
        color_jitter_prob=aug_cfg.color_jitter_prob or 0.0,
        gray_scale_prob=aug_cfg.gray_scale_prob or 0.0,
    )


def _per_channel(value: Sequence[float] | float) -> tuple[float, float, float]:
    values: Sequence[float] = [value] * 3 if isinstance(value, (int, float)) else value
    return values[0], values[1], values[2]
