"""Read, set and check the numbers of attention heads, which the shapes of tensors do not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from oneclip.config import ModelCfg
from oneclip.errors import ConfigError

Heads: TypeAlias = int | Sequence[int]
TOWERS = ("image", "text")


def of_both(heads: Heads) -> tuple[int, int]:
    """Heads of the image tower and of the text tower, from the argument `heads`.

    Raises:
        ConfigError: unless it is a number of heads, or two.
    """
    both = tuple(heads) if isinstance(heads, Sequence) else (heads, heads)
    if len(both) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in both):
        raise ConfigError(f"heads is {heads!r}; a number of heads was expected, or (image tower, text tower)")
    return both[0], both[1]


def heads_of(cfg: ModelCfg) -> tuple[int | None, int | None]:
    """Heads of the image tower and of the text tower; None for a tower that another library builds by its name."""
    vision, text = cfg.vision_cfg, cfg.text_cfg
    width = (
        vision.width if isinstance(vision.layers, int) else 32 * vision.width
    )  # a ResNet pools 32 times its width
    image = None if vision.timm_model_name else width // vision.head_width
    return image, None if text.hf_model_name else text.heads


def with_heads(cfg: ModelCfg, heads: tuple[int, int], source: object) -> ModelCfg:
    """A configuration that shapes tell, with the heads that the caller says.

    Raises:
        ConfigError: if they do not divide a width.
    """
    vision, text = cfg.vision_cfg, cfg.text_cfg
    known = heads_of(cfg)
    widths = (known[0] or 0) * vision.head_width, 0 if known[1] is None else text.width
    for tower, width, count in zip(TOWERS, widths, heads, strict=True):
        if width % count:
            raise ConfigError(
                f"the {tower} tower of {source} is {width} wide, which {count} heads do not divide"
            )
    if widths[0]:
        vision = replace(vision, head_width=widths[0] // heads[0])
    if widths[1]:
        text = replace(text, heads=heads[1])
    return replace(cfg, vision_cfg=vision, text_cfg=text)


def check_heads(cfg: ModelCfg, heads: tuple[int, int], source: object, by: str) -> None:
    """Raise ConfigError if a configuration has other heads than `by` says."""
    for tower, known, said in zip(TOWERS, heads_of(cfg), heads, strict=True):
        if known is not None and known != said:
            raise ConfigError(
                f"{source} has {known} heads in its {tower} tower by its configuration, and {said} by {by}: "
                "leave out or change the one that is wrong"
            )
