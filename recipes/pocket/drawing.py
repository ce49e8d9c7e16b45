"""Drawing of a batch: RGB images with random colours, positions and rotations, from alpha maps and RGBA images.

Shapes: M one-colour and C colour images, B = M + C, S the side asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SOURCE = 64


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation.

    Attributes:
        shift: greatest shift, as a share of the side.
        scale: smallest and greatest size.
        degrees: greatest rotation; half of the images are not rotated.
        mirror: share of the mirrored, among images that may be.
        dark_on_white: share of one-colour images drawn dark on white or nearly white.
        tint: greatest change of a colour channel of colour images.
        recolour: share of colour images whose colours are mixed anew, as another style would have them.
    """

    shift: float = 0.08
    scale: tuple[float, float] = (0.75, 1.12)
    degrees: float = 12.0
    mirror: float = 0.25
    dark_on_white: float = 0.55
    tint: float = 0.12
    recolour: float = 0.0


def draw_batch(
    mono: Tensor,
    colour: Tensor,
    is_colour: Tensor,
    may_mirror: Tensor,
    size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Tensor:
    """Draw a batch.

    Args:
        mono: (M, 64, 64) uint8 alpha.
        colour: (C, 64, 64, 4) uint8 straight RGBA.
        is_colour: (B,) bool, which places the colour images take.
        may_mirror: (B,) bool.
        size: S.
        augmentation: how far images are changed.
        generator: the only source of chance.

    Returns:
        (B, 3, S, S) uint8.
    """
    transforms = _transforms(may_mirror, augmentation, generator)
    images = torch.empty(len(is_colour), 3, size, size, dtype=torch.uint8)
    ink, paper = _ink_and_paper(len(mono), augmentation.dark_on_white, generator)
    alpha = _sample(mono[:, None].float(), transforms[~is_colour], size).div_(255)  # (M, 1, S, S)
    images[~is_colour] = torch.addcmul(paper, alpha, ink - paper).round_().to(torch.uint8)
    rgba = colour.permute(0, 3, 1, 2).float()
    rgb = (rgba[:, :3] * _tints(len(colour), augmentation.tint, generator)).clamp_(max=255)
    if augmentation.recolour:
        rgb = _recoloured(rgb, augmentation.recolour, generator)
    rgba = torch.cat(
        [rgb * (rgba[:, 3:] / 255), rgba[:, 3:]], 1
    )  # premultiplied, so that edges keep their colour
    rgba = _sample(rgba, transforms[is_colour], size)
    paper = _light_paper(len(colour), generator)
    images[is_colour] = (
        (rgba[:, :3] + paper * (1 - rgba[:, 3:] / 255)).clamp_(0, 255).round_().to(torch.uint8)
    )
    return images


def draw_plain(alpha_or_rgba: Tensor) -> Tensor:
    """Draw images without augmentation: one-colour images black on white, others on white.

    Args:
        alpha_or_rgba: (N, 64, 64) alpha or (N, 64, 64, 4) straight RGBA, uint8.

    Returns:
        (N, 3, 64, 64) uint8.
    """
    if alpha_or_rgba.ndim == 3:
        return (255 - alpha_or_rgba)[:, None].expand(-1, 3, -1, -1).contiguous()
    rgba = alpha_or_rgba.permute(0, 3, 1, 2).float()
    alpha = rgba[:, 3:] / 255
    return (rgba[:, :3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _transforms(may_mirror: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return (B, 2, 3) affine maps from the drawn image to the source, for `affine_grid`."""
    count = len(may_mirror)
    zoom = 1 / _uniform(count, *augmentation.scale, generator)
    turned = torch.rand(count, generator=generator) < 0.5
    angle = torch.deg2rad(_uniform(count, -augmentation.degrees, augmentation.degrees, generator)) * turned
    mirrored = may_mirror & (torch.rand(count, generator=generator) < augmentation.mirror)
    sign = torch.where(mirrored, -1.0, 1.0)
    shift = 2 * augmentation.shift
    x, y = _uniform(count, -shift, shift, generator), _uniform(count, -shift, shift, generator)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack([sign * cosine, -sign * sine, x, sine, cosine, y], 1)
    return rows.view(count, 2, 3)


def _sample(images: Tensor, transforms: Tensor, size: int) -> Tensor:
    """Sample (N, K, 64, 64) to (N, K, S, S). At half the side a sample is the mean of four pixels."""
    grid = F.affine_grid(transforms, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _ink_and_paper(count: int, dark_on_white: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw (count, 3, 1, 1) colours of ink and paper with enough contrast."""
    ink, paper = torch.rand(2, count, 3, generator=generator)
    luminance = torch.tensor([0.299, 0.587, 0.114])
    too_close = ((ink - paper) @ luminance).abs() < 0.35
    dark = torch.rand(count, 1, generator=generator) * 0.35
    light = 1 - torch.rand(count, 1, generator=generator) * 0.1 * (
        torch.rand(count, 1, generator=generator) < 0.5
    )
    grey_dark = dark * (torch.rand(count, 1, generator=generator) < 0.5) + 0 * ink
    plain = torch.rand(count, generator=generator) < dark_on_white
    ink = torch.where(plain[:, None], grey_dark, torch.where(too_close[:, None], ink * 0.5, ink))
    paper = torch.where(
        plain[:, None], light + 0 * paper, torch.where(too_close[:, None], 1 - 0.2 * paper, paper)
    )
    return (ink * 255)[:, :, None, None], (paper * 255)[:, :, None, None]


def _light_paper(count: int, generator: torch.Generator) -> Tensor:
    """Draw (count, 3, 1, 1) paper colours: mostly white, sometimes a light colour, rarely any colour."""
    shade = torch.rand(count, 3, generator=generator)
    which = torch.rand(count, 1, generator=generator)
    paper = torch.where(which < 0.65, torch.ones(1), torch.where(which < 0.92, 1 - 0.25 * shade, shade))
    return (paper * 255)[:, :, None, None]


def _tints(count: int, tint: float, generator: torch.Generator) -> Tensor:
    """Draw (count, 3, 1, 1) factors of the channels; half of the images keep their colours."""
    factors = 1 + (torch.rand(count, 3, generator=generator) * 2 - 1) * tint
    kept = torch.rand(count, 1, generator=generator) < 0.5
    return torch.where(kept, torch.ones(1), factors)[:, :, None, None]


def _recoloured(rgb: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Change saturation, hue and contrast of a share of (N, 3, S, S) images in [0, 255]."""
    count = len(rgb)
    saturation = _uniform(count, 0.5, 1.4, generator)[:, None, None]
    grey = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    turn = 0.12 * torch.randn(count, 3, 3, generator=generator)
    mix = (
        saturation * torch.eye(3) + (1 - saturation) * grey + turn - turn.mean(2, keepdim=True)
    )  # grey stays grey
    contrast = _uniform(count, 0.7, 1.3, generator)[:, None, None]
    middle = _uniform(count, 90, 170, generator)[:, None, None]
    mixed = (mix @ rgb.flatten(2) - middle) * contrast + middle
    kept = torch.rand(count, 1, 1, 1, generator=generator) >= share
    return torch.where(kept, rgb, mixed.view_as(rgb).clamp_(0, 255))
