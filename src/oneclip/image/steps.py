"""Preprocessing steps of a PIL image, up to a normalized array or tensor. They import torch only for tensors.

Each equals the torchvision transform of the same name bit for bit, accepts any PIL image, and can be mixed with
torchvision's. Sizes are (height, width) as in torchvision; Pillow's are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from oneclip.config import as_pair
from oneclip.errors import ConfigError, ImageError, ImageTooLargeError, ShapeError
from oneclip.image.decode import load_pixels, pixel_limit

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]  # (height, width)

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "random": Image.Resampling.BICUBIC,  # in training configurations; evaluation uses bicubic, as published
}
_WIDE_MODES = {"I": np.int32, "I;16": np.int16, "F": np.float32}  # other modes have 8 bits per sample


@dataclass(frozen=True)
class Flatten:
    """Conversion to RGB over a background colour.

    It comes before the resize, because the resize cannot average the pixels of palette and 1-bit images.
    """

    background: tuple[int, int, int]

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        if not image.has_transparency_data:
            return ToRGB()(image)
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, self.background)
        return Image.alpha_composite(background, foreground).convert("RGB")


@dataclass(frozen=True)
class Resize:
    """Resize of the shortest edge to `size` pixels, or of the image to exactly (height, width)."""

    size: int | Size
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        resampling_filter(self.interpolation)

    def output_size(self, height: int, width: int) -> Size:
        """Compute (height, width) of the result for an image of this height and width."""
        if not isinstance(self.size, int):
            return self.size
        longest = int(self.size * max(height, width) / min(height, width))  # truncated as in torchvision
        return (longest, self.size) if width <= height else (self.size, longest)

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        return resize_image(image, self.output_size(image.height, image.width), self.interpolation)


@dataclass(frozen=True)
class ResizeKeepRatio(Resize):
    """Resize of the image until it just covers (height, width) (`longest` 0), or just fits into it (1)."""

    longest: float = 0.0

    def output_size(self, height: int, width: int) -> Size:
        """Compute (height, width) of the result; each is at least 1."""
        target_height, target_width = as_pair(self.size)
        ratios = height / target_height, width / target_width
        ratio = max(ratios) * self.longest + min(ratios) * (1 - self.longest)
        return max(1, round(height / ratio)), max(1, round(width / ratio))


@dataclass(frozen=True)
class CenterCrop:
    """Crop of (height, width) from the centre; a smaller image is padded with `fill` first."""

    size: int | Size
    fill: int | tuple[int, ...] = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = as_pair(self.size)
        image = require_image(image)
        if width > image.width or height > image.height:
            spare_width, spare_height = max(0, width - image.width), max(0, height - image.height)
            border = spare_width // 2, spare_height // 2, (spare_width + 1) // 2, (spare_height + 1) // 2
            image = pad_image(image, border, self.fill)
        if image.size == (width, height):
            return image
        top, left = self.corner(image.height, image.width)
        return image.crop((left, top, left + width, top + height))

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Compute top and left of the crop in an image of at least its size."""
        crop_height, crop_width = as_pair(self.size)
        return round((height - crop_height) / 2), round((width - crop_width) / 2)


@dataclass(frozen=True)
class ToRGB:
    """Conversion to RGB as Pillow does it: alpha is dropped, 16-bit samples are clipped."""

    def __call__(self, image: Image.Image) -> Image.Image:
        image = require_image(image)
        if image.mode == "RGB":
            return image
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.copy()  # Pillow would warn about the alpha that is dropped
            del image.info["transparency"]
        try:
            return image.convert("RGB")
        except (ValueError, OSError) as error:
            raise ImageError(
                f"an image of mode {image.mode} cannot be converted to RGB ({error}); convert it to LA or RGBA first"
            ) from error


@dataclass(frozen=True)
class ToTensor:
    """Conversion to a (C, H, W) tensor: float32 in [0, 1] for 8-bit samples, the values themselves for others."""

    def __call__(self, image: Image.Image) -> Tensor:
        import torch

        image = require_image(image)
        samples = torch.from_numpy(np.array(image, _WIDE_MODES.get(image.mode, np.uint8)))
        if image.mode == "1":
            samples = samples * 255
        samples = samples.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1).contiguous()
        return samples.float().div_(255) if samples.dtype == torch.uint8 else samples


class Normalize:
    """Normalization of (..., C, H, W): (tensor - mean) / std per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ConfigError(
                f"mean and std must have one number per channel, and std no 0; found {self.mean}, {self.std}"
            )

    def __call__(self, tensor: Tensor) -> Tensor:
        import torch
        from torch import Tensor

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


def normalized_array(image: Image.Image, normalize: Normalize) -> NDArray[np.float32]:
    """Compute `ToTensor` and `Normalize` of an RGB image, one channel at a time and without a thread pool.

    The three float32 operations have the same order: divide by 255, subtract the mean, divide by the deviation.

    Returns:
        (3, H, W) float32.
    """
    planes = np.empty((3, image.height, image.width), np.float32)
    for plane, band, mean, std in zip(planes, "RGB", normalize.mean, normalize.std, strict=True):
        samples = np.frombuffer(image.tobytes("raw", band), np.uint8).reshape(plane.shape)
        np.divide(samples, np.float32(255), out=plane, dtype=np.float32)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return planes


def resize_image(image: Image.Image, size: Size, interpolation: str) -> Image.Image:
    """Resize an image to (height, width). Returns the image itself if it has that size."""
    height, width = size
    if image.size == (width, height):
        return image
    check_resize_limit(image, size)
    try:
        return image.resize((width, height), resampling_filter(interpolation))
    except (ValueError, OSError) as error:
        raise conversion_error(image, "resized", error) from error


def check_resize_limit(image: Image.Image, size: Size) -> None:
    """Raise ImageTooLargeError if a long thin image would be enlarged to more pixels than the limit."""
    limit = pixel_limit()
    if size[0] * size[1] > limit:
        raise ImageTooLargeError(
            f"an image of {image.width} x {image.height} would be resized to {size[1]} x {size[0]} and then "
            f"cropped; that is more than the limit of {limit} pixels. Crop the image first"
        )


def pad_image(
    image: Image.Image, border: tuple[int, int, int, int], fill: int | tuple[int, ...]
) -> Image.Image:
    """Add a border (left, top, right, bottom). In a palette image, an integer `fill` is an index."""
    bands = len(image.getbands())
    if isinstance(fill, tuple) and len(fill) != bands:
        if len(fill) != 3:
            raise ConfigError(f"fill_color has {len(fill)} numbers; expected one or three")
        image, bands = ToRGB()(image), 3
    color: Any = (fill,) * bands if isinstance(fill, int) and bands > 1 else fill
    try:
        framed = ImageOps.expand(image, border=border, fill=color)
        if image.mode == "P":
            framed.putpalette(image.getpalette() or [])
    except (ValueError, OSError) as error:
        raise conversion_error(image, "padded", error) from error
    return framed


def conversion_error(image: Image.Image, action: str, reason: Exception) -> ImageError:
    """Make the error for an image whose mode Pillow does not support."""
    return ImageError(
        f'an image of mode {image.mode} cannot be {action} ({reason}); convert it first: image.convert("RGB")'
    )


def resampling_filter(interpolation: str) -> Image.Resampling:
    """Return the Pillow filter with this name.

    Raises:
        ConfigError: if the name is unknown.
    """
    if interpolation not in RESAMPLING:
        raise ConfigError(f"unknown interpolation {interpolation!r}; available: {', '.join(RESAMPLING)}")
    return RESAMPLING[interpolation]


def require_image(image: object) -> Image.Image:
    """Load a PIL image and return it.

    Raises:
        ImageError: if the argument is not a PIL image, or is damaged or empty.
    """
    if not isinstance(image, Image.Image):
        raise ImageError(
            f"expected a PIL image, not {type(image).__name__}; open it with oneclip.image.open_image"
        )
    return load_pixels(image)
