"""Preprocess an image for inference.

The result equals that of the published torchvision pipelines bit for bit, without importing torchvision. OpenAI's and
open_clip's pipelines both resize and crop in the mode of the image, and convert to RGB after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oneclip.config import PreprocessCfg, as_pair
from oneclip.errors import ConfigError
from oneclip.image.steps import (
    CenterCrop,
    Flatten,
    Normalize,
    Resize,
    ResizeKeepRatio,
    ToRGB,
    ToTensor,
    normalized_array,
)

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[[Any], Any]


class Preprocess:
    """Preprocessing of PIL images to normalized (3, H, W) float32 tensors.

    Works inside a torchvision `Compose`, in threads and in worker processes.

    Args:
        cfg: size, resize mode, interpolation, mean and standard deviation; by default those of OpenAI's models at 224
            pixels.

    Attributes:
        cfg: the configuration it was made from.
        transforms: the steps in order. It may be edited, like the list in torchvision's `Compose`.

    Raises:
        ConfigError: if the configuration has an unknown mode, filter or size.
    """

    def __init__(self, cfg: PreprocessCfg | None = None) -> None:
        self.cfg = cfg or PreprocessCfg()
        self.transforms: list[Step] = [
            *flatten_steps(self.cfg),
            *(step for step in resize_steps(self.cfg) if step),
            *tensor_steps(self.cfg),
        ]

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one image.

        Args:
            image: a PIL image of any mode and size.

        Returns:
            (3, H, W) float32.

        Raises:
            ImageError: if it is not a PIL image, is truncated or empty, or its mode cannot be converted to RGB.
        """
        tensor: Tensor = apply_steps(self.transforms, image)
        return tensor

    def array(self, image: Image.Image) -> NDArray[np.float32]:
        """Preprocess one image without torch; the numbers, shape and errors are those of a call.

        Raises:
            ConfigError: if `transforms` was edited and no longer ends with the steps of a tensor.
        """
        return apply_steps_to_array(self.transforms, image)

    def __repr__(self) -> str:
        return f"Preprocess({' -> '.join(map(repr, self.transforms))})"


def apply_steps(steps: list[Step], image: Any) -> Any:
    """Apply steps in order. For an RGB image, `ToTensor` and `Normalize` are computed together in half the time."""
    for position, step in enumerate(steps):
        following = steps[position + 1] if position + 1 < len(steps) else None
        if isinstance(step, ToTensor) and isinstance(following, Normalize) and _is_rgb(image, following):
            import torch

            return apply_steps(steps[position + 2 :], torch.from_numpy(normalized_array(image, following)))
        image = step(image)
    return image


def apply_steps_to_array(steps: list[Step], image: Any) -> NDArray[np.float32]:
    """Apply steps that end with `ToRGB`, `ToTensor` and `Normalize`, without torch.

    Returns:
        (3, H, W) float32, the numbers of `apply_steps`.

    Raises:
        ConfigError: for other steps.
    """
    normalize = steps[-1] if steps else None
    usual = [type(step) for step in steps[-3:]] == [ToRGB, ToTensor, Normalize]
    if not (usual and isinstance(normalize, Normalize) and len(normalize.mean) == 3):
        raise ConfigError(
            "the steps of the preprocessing were edited, so they can only be applied with torch"
        )
    return normalized_array(apply_steps(steps[:-2], image), normalize)


def flatten_steps(cfg: PreprocessCfg) -> list[Step]:
    """Make the step that removes transparency before the resize, if the configuration has a background."""
    return [] if cfg.background is None else [Flatten(cfg.background)]


def tensor_steps(cfg: PreprocessCfg) -> list[Step]:
    """Make the steps from a PIL image of the final size to a normalized tensor.

    Raises:
        ConfigError: if the mode is not RGB, or mean and std do not have three numbers.
    """
    if cfg.mode != "RGB":
        raise ConfigError(f"mode {cfg.mode!r} is not supported; models take RGB images")
    if len(cfg.mean) != 3 or len(cfg.std) != 3:
        raise ConfigError(
            f"mean and std must have one number per channel (3); found {cfg.mean} and {cfg.std}"
        )
    return [ToRGB(), ToTensor(), Normalize(cfg.mean, cfg.std)]


def resize_steps(cfg: PreprocessCfg) -> tuple[Resize, CenterCrop | None]:
    """Make the resize, and the crop if the mode has one, that give an image the size of `cfg`.

    Raises:
        ConfigError: if the mode, filter or size is unknown.
    """
    height, width = check_image_size(cfg.size)
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
    raise ConfigError(f"unknown resize_mode {cfg.resize_mode!r}; expected shortest, longest or squash")


def check_image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return an image size as (height, width).

    Raises:
        ConfigError: if it is not one or two whole numbers above 0.
    """
    edges = (size,) if isinstance(size, int) else size
    if len(edges) not in (1, 2) or not all(isinstance(edge, int) and edge > 0 for edge in edges):
        raise ConfigError(f"size must be a number of pixels or (height, width), not {size!r}")
    return as_pair(size)


def _is_rgb(image: Any, normalize: Normalize) -> bool:
    return isinstance(image, Image.Image) and image.mode == "RGB" and len(normalize.mean) == 3
