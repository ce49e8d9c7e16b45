"""Augment images for training.

Random resized crop (Szegedy et al. 2015), then colour jitter and grayscale with given probabilities (Chen et al. 2020,
SimCLR). All random numbers come from one generator, so that a training run resumes exactly. Without a generator, the
global ones are used, and the numbers equal those of torchvision and open_clip.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance

from oneclip.config import AugmentCfg, PreprocessCfg
from oneclip.image.preprocess import apply_steps, check_image_size, flatten_steps, tensor_steps
from oneclip.image.steps import ToRGB, require_image, resampling_filter, resize_image

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MAX_ATTEMPTS = 10  # random crops before the centre crop is used

Generator: TypeAlias = "torch.Generator | None"


class RandomResizedCrop:
    """Random crop of an image, resized to `size`, (height, width) in pixels."""

    def __init__(self, size: tuple[int, int], cfg: AugmentCfg, interpolation: str) -> None:
        resampling_filter(interpolation)  # raises if it is unknown
        self.size, self.cfg, self.interpolation = size, cfg, interpolation

    def __call__(self, image: Image.Image, generator: Generator = None) -> Image.Image:
        top, left, height, width = draw_crop(image.height, image.width, self.cfg, generator)
        part = image.crop((left, top, left + width, top + height))
        return resize_image(part, self.size, self.interpolation)

    def __repr__(self) -> str:
        cfg = self.cfg
        return f"RandomResizedCrop(size={self.size}, scale={cfg.scale}, ratio={tuple(round(r, 4) for r in cfg.ratio)})"


class ColorJitter:
    """Change of colours with probability `p`; `amounts` as in `draw_color_jitter`."""

    def __init__(self, amounts: tuple[float, float, float, float], p: float) -> None:
        self.amounts, self.p = amounts, p

    def __call__(self, image: Image.Image, generator: Generator = None) -> Image.Image:
        if _chance(self.p, generator):
            for change in draw_color_jitter(self.amounts, generator):
                image = change(image)
        return image

    def __repr__(self) -> str:
        return f"ColorJitter({self.amounts}, p={self.p})"


class GrayScale:
    """Conversion to grayscale with probability `p`."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Image.Image, generator: Generator = None) -> Image.Image:
        return image.convert("L").convert("RGB") if _chance(self.p, generator) else image

    def __repr__(self) -> str:
        return f"GrayScale(p={self.p})"


class Augment:
    """Augmentation of PIL images to normalized (3, H, W) float32 tensors.

    Args:
        cfg: size, interpolation, mean and standard deviation, as in the `Preprocess` of the model.
        augment: which changes are made, and how strong they are.

    Attributes:
        transforms: the steps in order. It may be edited, like the list in torchvision's `Compose`.
    """

    RANDOM = (RandomResizedCrop, ColorJitter, GrayScale)

    def __init__(self, cfg: PreprocessCfg | None = None, augment: AugmentCfg | None = None) -> None:
        self.cfg, self.augment = cfg or PreprocessCfg(), augment or AugmentCfg()
        self.size = check_image_size(self.cfg.size)
        self.transforms: list[Callable[..., Any]] = [
            *flatten_steps(self.cfg),
            RandomResizedCrop(self.size, self.augment, self.cfg.interpolation),
            ToRGB(),
        ]
        if self.augment.color_jitter and self.augment.color_jitter_prob:
            self.transforms.append(ColorJitter(self.augment.color_jitter, self.augment.color_jitter_prob))
        if self.augment.gray_scale_prob:
            self.transforms.append(GrayScale(self.augment.gray_scale_prob))
        self.transforms += tensor_steps(self.cfg)[1:]  # without ToRGB, which comes earlier here

    def __call__(self, image: Image.Image, generator: torch.Generator | int | None = None) -> Tensor:
        """Augment one image.

        Args:
            image: a PIL image of any mode and size.
            generator: source of all random numbers: a generator, or a seed for one (the same seed gives the same
                tensor). By default torch's global generator and, for the two probabilities, Python's.

        Returns:
            (3, H, W) float32.

        Raises:
            ImageError: if it is not a PIL image, is truncated or empty, or its mode cannot be converted to RGB.
        """
        if isinstance(generator, int):
            import torch

            generator = torch.Generator().manual_seed(generator)
        steps = [
            partial(step, generator=generator) if isinstance(step, self.RANDOM) else step
            for step in self.transforms
        ]
        tensor: Tensor = apply_steps(steps, require_image(image))
        return tensor

    def __repr__(self) -> str:
        return f"Augment({self.cfg}, {self.augment})"


def draw_crop(
    height: int, width: int, cfg: AugmentCfg, generator: torch.Generator | None = None
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop whose area and aspect ratio are in the ranges of `cfg`.

    If ten draws do not fit into the image, the result is the largest centre crop with an allowed aspect ratio.
    """
    import torch

    log_ratio = torch.log(torch.tensor(cfg.ratio, dtype=torch.float32)).tolist()  # float32 as in torchvision
    for _ in range(_MAX_ATTEMPTS):
        area = height * width * _uniform(cfg.scale[0], cfg.scale[1], generator).item()
        ratio = torch.exp(_uniform(log_ratio[0], log_ratio[1], generator)).item()
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(torch.randint(0, height - crop_height + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - crop_width + 1, (1,), generator=generator))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < cfg.ratio[0]:
        crop_height = max(1, round(width / cfg.ratio[0]))
    elif width / height > cfg.ratio[1]:
        crop_width = max(1, round(height * cfg.ratio[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def draw_color_jitter(
    amounts: tuple[float, float, float, float], generator: torch.Generator | None = None
) -> list[Callable[[Image.Image], Image.Image]]:
    """Draw changes of brightness, contrast, saturation and hue of an RGB image, in random order.

    Args:
        amounts: for the first three, a factor is drawn from [max(0, 1 - amount), 1 + amount]. The hue is turned by a
            share of the colour circle in [-amount, amount]. 0 does not change the property.
        generator: source of random numbers; None for torch's global one.

    Returns:
        Functions that change an image, to apply in order.
    """
    import torch

    order = torch.randperm(4, generator=generator).tolist()
    changes: list[Callable[[Image.Image], Image.Image] | None] = []
    for enhancer, amount in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), amounts, strict=False
    ):
        factor = _uniform(max(0.0, 1 - amount), 1 + amount, generator).item() if amount else None
        changes.append(None if factor is None else _enhance(enhancer, factor))
    turn = _uniform(-amounts[3], amounts[3], generator).item() if amounts[3] else None
    changes.append(None if turn is None else _turn_hue(turn))
    return [change for index in order if (change := changes[index]) is not None]


def _enhance(enhancer: Callable[[Image.Image], Any], factor: float) -> Callable[[Image.Image], Image.Image]:
    def enhance(image: Image.Image) -> Image.Image:
        enhanced: Image.Image = enhancer(image).enhance(factor)
        return enhanced

    return enhance


def _turn_hue(share: float) -> Callable[[Image.Image], Image.Image]:
    """Turn the hue of an RGB image by a share of the colour circle."""
    step = int(share * 255) % 256  # truncated towards zero as in torchvision

    def turn(image: Image.Image) -> Image.Image:
        hue, saturation, value = image.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hue) + np.uint8(step))  # wraps around
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return turn


def _uniform(low: float, high: float, generator: torch.Generator | None) -> Tensor:
    import torch

    return torch.empty(1).uniform_(low, high, generator=generator)


def _chance(probability: float, generator: torch.Generator | None) -> bool:
    """Return True with this probability, drawn from Python's global generator if there is no other."""
    if generator is None:
        return random.random() < probability
    import torch

    return torch.rand(1, generator=generator).item() < probability
