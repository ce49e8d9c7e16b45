"""The steps from a PIL image to a normalised tensor, each equal bit for bit to torchvision's of that name.

They work on any PIL image and compose with torchvision's. Sizes are (height, width), as there; Pillow's own
are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from oneclip.errors import ConfigError, ImageError, ImageTooLargeError, ShapeError
from oneclip.image.decode import load_pixels, pixel_limit

Size = tuple[int, int]  # (height, width)

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # some training configurations say it; as published, it means this
}
_WIDE_MODES = {"I": np.int32, "I;16": np.int16, "F": np.float32}  # all others have 8 bits a sample


@dataclass(frozen=True)
class Flatten:
    """Make an image RGB, and lay it over a colour where it is transparent.

    It comes before the resize, which picks single pixels of palette and 1-bit images instead of mixing them.
    """

    background: tuple[int, int, int]

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        if not image.has_transparency_data:
            return ToRGB()(image)
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, self.background), picture).convert("RGB")


@dataclass(frozen=True)
class Resize:
    """Resize so that the shortest edge has `size` pixels, or to exactly (height, width)."""

    size: int | Size
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        resampling(self.interpolation)

    def output_size(self, height: int, width: int) -> Size:
        """The size that a picture of this height and width gets."""
        if not isinstance(self.size, int):
            return self.size
        longest = int(self.size * max(height, width) / min(height, width))  # truncated, as published
        return (longest, self.size) if width <= height else (self.size, longest)

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        return resized(image, self.output_size(image.height, image.width), self.interpolation)


@dataclass(frozen=True)
class ResizeKeepRatio(Resize):
    """Resize so that the picture just covers (height, width) (`longest` 0), or just fits into it (1)."""

    longest: float = 0.0

    def output_size(self, height: int, width: int) -> Size:
        """The size that a picture of this height and width gets; no edge gets less than one pixel."""
        target_height, target_width = pair(self.size)
        ratios = height / target_height, width / target_width
        ratio = max(ratios) * self.longest + min(ratios) * (1 - self.longest)
        return max(1, round(height / ratio)), max(1, round(width / ratio))


@dataclass(frozen=True)
class CenterCrop:
    """Cut (height, width) out of the centre; a smaller picture is first padded with `fill`."""

    size: int | Size
    fill: int | tuple[int, ...] = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = pair(self.size)
        image = require_image(image)
        if width > image.width or height > image.height:
            spare_width, spare_height = max(0, width - image.width), max(0, height - image.height)
            border = spare_width // 2, spare_height // 2, (spare_width + 1) // 2, (spare_height + 1) // 2
            image = padded(image, border, self.fill)
        if image.size == (width, height):
            return image
        top, left = self.corner(image.height, image.width)
        return image.crop((left, top, left + width, top + height))

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Top and left of the crop in a picture of at least its size."""
        crop_height, crop_width = pair(self.size)
        return round((height - crop_height) / 2), round((width - crop_width) / 2)


@dataclass(frozen=True)
class ToRGB:
    """Convert to RGB as Pillow does: alpha is dropped, 16-bit samples are clipped."""

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        if image.mode == "RGB":
            return image
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.copy()  # Pillow would warn of an alpha that is dropped anyway
            del image.info["transparency"]
        try:
            return image.convert("RGB")
        except (ValueError, OSError) as error:
            raise ImageError(
                f"a picture of mode {image.mode} cannot be made RGB ({error}); convert it to LA or RGBA first"
            ) from error


@dataclass(frozen=True)
class ToTensor:
    """Samples to a (C, H, W) tensor: float32 in [0, 1] from 8 bits, the values themselves from more."""

    def __call__(self, image: Image.Image) -> Tensor:
        image = require_image(image)
        samples = torch.from_numpy(np.array(image, _WIDE_MODES.get(image.mode, np.uint8)))
        if image.mode == "1":
            samples = samples * 255
        samples = samples.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1).contiguous()
        return samples.float().div_(255) if samples.dtype == torch.uint8 else samples


class Normalize:
    """(tensor - mean) / std, channel by channel, for (..., C, H, W)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ConfigError(
                f"mean and std need one number a channel, std none of 0; found {self.mean}, {self.std}"
            )

    def __call__(self, tensor: Tensor) -> Tensor:
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.ndim >= 3):
            found = (
                f"{tensor.dtype} {tuple(tensor.shape)}"
                if isinstance(tensor, Tensor)
                else type(tensor).__name__
            )
            raise ShapeError(f"Normalize takes a floating-point tensor (..., C, H, W), not {found}")
        mean = torch.tensor(self.mean, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        return tensor.sub(mean).div_(std)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalize) and (self.mean, self.std) == (other.mean, other.std)

    def __hash__(self) -> int:
        return hash((self.mean, self.std))

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


def normalized_tensor(image: Image.Image, normalize: Normalize) -> Tensor:
    """`Normalize` after `ToTensor` for an RGB image, one plane at a time and without a thread pool.

    The same three operations in float32 in the same order: divide by 255, subtract the mean, divide by the
    deviation.
    """
    planes = np.empty((3, image.height, image.width), np.float32)
    for plane, band, mean, std in zip(planes, "RGB", normalize.mean, normalize.std, strict=True):
        samples = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(plane.shape)
        np.divide(samples, np.float32(255), out=plane, dtype=np.float32)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return torch.from_numpy(planes)  # (3, H, W)


def resized(image: Image.Image, size: Size, interpolation: str) -> Image.Image:
    """The picture at (height, width); itself if it has that size already."""
    height, width = size
    if image.size == (width, height):
        return image
    check_size(image, size)
    try:
        return image.resize((width, height), resampling(interpolation))
    except (ValueError, OSError) as error:
        raise ImageError(
            f"a picture of mode {image.mode} cannot be resized ({error}); "
            'convert it first: image.convert("RGB")'
        ) from error


def check_size(image: Image.Image, size: Size) -> None:
    """Refuse to blow a long thin picture up to more pixels than a file may have."""
    limit = pixel_limit()
    if size[0] * size[1] > limit:
        raise ImageTooLargeError(
            f"a picture of {image.width} x {image.height} would be resized to {size[1]} x {size[0]} and then "
            f"cropped; that is more than the limit of {limit} pixels, crop it first"
        )


def padded(image: Image.Image, border: tuple[int, int, int, int], fill: int | tuple[int, ...]) -> Image.Image:
    """The picture with a border (left, top, right, bottom); in a palette picture an integer is an index."""
    bands = len(image.getbands())
    if isinstance(fill, tuple) and len(fill) != bands:
        if len(fill) != 3:
            raise ConfigError(f"fill_color has {len(fill)} numbers; expected one, or three")
        image, bands = ToRGB()(image), 3
    color: Any = (fill,) * bands if isinstance(fill, int) and bands > 1 else fill
    try:
        framed = ImageOps.expand(image, border=border, fill=color)
        if image.mode == "P":
            framed.putpalette(image.getpalette() or [])
    except (ValueError, OSError) as error:
        raise ImageError(
            f"a picture of mode {image.mode} cannot be padded ({error}); "
            'convert it first: image.convert("RGB")'
        ) from error
    return framed


def resampling(interpolation: str) -> Image.Resampling:
    """Pillow's filter of that name.

    Raises:
        ConfigError: for a name that is no filter of ours.
    """
    if interpolation not in RESAMPLING:
        raise ConfigError(f"interpolation {interpolation!r} is not one of {', '.join(RESAMPLING)}")
    return RESAMPLING[interpolation]


def pair(size: int | Size) -> Size:
    """(height, width) of a size that may be one number for both."""
    return (size, size) if isinstance(size, int) else size


def require_image(image: object) -> Image.Image:
    """The argument, if it is a PIL image with pixels, loaded.

    Raises:
        ImageError: if it is something else, or damaged, or empty.
    """
    if not isinstance(image, Image.Image):
        raise ImageError(
            f"expected a PIL image, not {type(image).__name__}; oneclip.image.open_image makes one"
        )
    return load_pixels(image)
