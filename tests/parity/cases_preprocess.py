"""Images of all modes and odd sizes, and the published transforms; both sides of a comparison run this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

MODES = (
    "RGB",
    "L",
    "1",
    "P",
    "PA",
    "LA",
    "La",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
)
SIZES = ((40, 30), (31, 47), (32, 32), (5, 90), (200, 7), (1, 1), (33, 32))

OPEN_CLIP: dict[str, dict[str, Any]] = {
    "shortest": {"image_size": 32},
    "shortest, bilinear": {"image_size": 32, "interpolation": "bilinear"},
    "shortest, wide": {"image_size": (24, 40)},
    "longest": {"image_size": 32, "resize_mode": "longest", "fill_color": 128},
    "longest, high": {"image_size": (40, 24), "resize_mode": "longest"},
    "squash": {"image_size": 32, "resize_mode": "squash"},
    "squash, bilinear": {"image_size": (24, 40), "resize_mode": "squash", "interpolation": "bilinear"},
    "other statistics": {"image_size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)},
}
OPENAI = (32, 45)  # side, in pixels


def sample_images() -> Iterator[tuple[str, Image.Image]]:
    """Yield a named image for each mode and size."""
    rng = np.random.default_rng(0)
    for mode in MODES:
        for width, height in SIZES:
            smooth = np.linspace(0, 255, width)[None, :, None] + np.linspace(0, 90, height)[:, None, None]
            noise = rng.integers(0, 120, (height, width, 3))
            colours = Image.fromarray(((smooth + noise) % 256).astype(np.uint8))
            yield f"{mode} {width}x{height}", _in_mode(colours, mode)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(image.convert("L"))
        return Image.fromarray(grey.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    if mode in ("RGBa", "La"):
        return image.convert(mode.upper() if mode == "RGBa" else "LA").convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    return image.convert(mode)


def observe(transforms: dict[str, Callable[[Image.Image], Any]]) -> dict[str, Any]:
    """Apply each transform to each image; return tensors, or the type of the exception."""
    seen: dict[str, Any] = {}
    for name, transform in transforms.items():
        for image_name, image in sample_images():
            try:
                seen[f"{name}: {image_name}"] = transform(image)
            except Exception as error:
                seen[f"{name}: {image_name}"] = f"raised {type(error).__name__}"
    return seen


def of_open_clip(package: Any) -> dict[str, Any]:
    """Apply `open_clip.image_transform` for evaluation."""
    return observe(
        {name: package.image_transform(is_train=False, **options) for name, options in OPEN_CLIP.items()}
    )


def of_openai(package: Any) -> dict[str, Any]:
    """Apply `clip.clip._transform`."""
    return observe({f"{side} pixels": package.clip._transform(side) for side in OPENAI})
