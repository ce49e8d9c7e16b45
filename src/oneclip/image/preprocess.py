"""A picture to the tensor that a model was trained on, as its `PreprocessCfg` says.

Bit for bit what torchvision computes for the published pipelines, without importing it. OpenAI's and
open_clip's both resize and crop in the picture's own mode, and convert to RGB after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.image.steps import (
    CenterCrop,
    Flatten,
    Normalize,
    Resize,
    ResizeKeepRatio,
    ToRGB,
    ToTensor,
    normalized_tensor,
    pair,
)

Step = Callable[[Any], Any]


class Preprocess:
    """Turn a PIL image into a normalised (3, H, W) float32 tensor.

    Works inside a torchvision `Compose`, in threads and in worker processes.

    Args:
        cfg: size, resize mode, interpolation, mean and deviation; by default those of OpenAI's models at 224
            pixels.

    Attributes:
        cfg: the configuration it was made from.
        transforms: the steps in their order, a list as in torchvision's `Compose`: edits of it count.

    Raises:
        ConfigError: for a configuration that names an unknown mode, filter or size.
    """

    def __init__(self, cfg: PreprocessCfg | None = None) -> None:
        self.cfg = cfg or PreprocessCfg()
        over = [Flatten(self.cfg.background)] if self.cfg.background is not None else []
        self.transforms: list[Step] = [
            *over,
            *(step for step in geometry(self.cfg) if step),
            *to_model_input(self.cfg),
        ]

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one picture.

        Args:
            image: a PIL image of any mode and size.

        Returns:
            (3, H, W) float32.

        Raises:
            ImageError: if it is no PIL image, is truncated or empty, or has a mode without conversion to RGB.
        """
        tensor: Tensor = run(self.transforms, image)
        return tensor

    def __repr__(self) -> str:
        return f"Preprocess({' -> '.join(map(repr, self.transforms))})"


def run(steps: list[Step], image: Any) -> Any:
    """Apply the steps in order; to an RGB image `ToTensor` and `Normalize` at once, in half their time."""
    for position, step in enumerate(steps):
        following = steps[position + 1] if position + 1 < len(steps) else None
        if isinstance(step, ToTensor) and isinstance(following, Normalize) and _is_rgb(image, following):
            return run(steps[position + 2 :], normalized_tensor(image, following))
        image = step(image)
    return image


def to_model_input(cfg: PreprocessCfg) -> list[Step]:
    """The steps from a PIL image of the right size to a normalised tensor."""
    if cfg.mode != "RGB":
        raise ConfigError(f"mode {cfg.mode!r}: pictures enter a model as RGB")
    if len(cfg.mean) != 3 or len(cfg.std) != 3:
        raise ConfigError(f"mean and std need one number a channel (3); found {cfg.mean} and {cfg.std}")
    return [ToRGB(), ToTensor(), Normalize(cfg.mean, cfg.std)]


def geometry(cfg: PreprocessCfg) -> tuple[Resize, CenterCrop | None]:
    """The steps that bring a picture to the size of `cfg`: a resize, and unless it squashes a crop.

    Raises:
        ConfigError: for an unknown mode, filter or size.
    """
    height, width = checked_size(cfg.size)
    if cfg.resize_mode == "shortest":
        if height == width:
            return Resize(height, cfg.interpolation), CenterCrop((height, width))
        return ResizeKeepRatio((height, width), cfg.interpolation), CenterCrop((height, width))
    if cfg.resize_mode == "longest":
        return (
            ResizeKeepRatio((height, width), cfg.interpolation, longest=1.0),
            CenterCrop((height, width), cfg.fill_color),
        )
    if cfg.resize_mode == "squash":
        return Resize((height, width), cfg.interpolation), None
    raise ConfigError(f"resize_mode {cfg.resize_mode!r} is not one of shortest, longest, squash")


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width), both at least 1.

    Raises:
        ConfigError: for anything else.
    """
    edges = pair(size)
    if len(edges) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in edges):
        raise ConfigError(f"size is a number of pixels or (height, width), not {size!r}")
    return edges[0], edges[1]


def _is_rgb(image: Any, normalize: Normalize) -> bool:
    return isinstance(image, Image.Image) and image.mode == "RGB" and len(normalize.mean) == 3
