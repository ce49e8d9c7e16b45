"""Read, set and check the numbers of attention heads, which the shapes of tensors do not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from oneclip.config import ModelCfg
from oneclip.errors import ConfigError

Heads: TypeAlias = int | Sequence[int]
TOWER_NAMES = ("image", "text")


def heads_per_tower(heads: Heads) -> tuple[int, int]:
    """Convert the argument `heads` to (heads of the image tower, heads of the text tower).

    Raises:
        ConfigError: unless it is one or two positive integers.
    """
    both = tuple(heads) if isinstance(heads, Sequence) else (heads, heads)
    if len(both) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in both):
        raise ConfigError(f"heads is {heads!r}; expected a number of heads, or (image tower, text tower)")
    return both[0], both[1]


def head_counts(cfg: ModelCfg) -> tuple[int | None, int | None]:
    """Return (heads of the image tower, heads of the text tower); None for a tower of timm or transformers."""
    vision, text = cfg.vision_cfg, cfg.text_cfg
    width = vision.width if isinstance(vision.layers, int) else 32 * vision.width  # of a ResNet's pooling
    image = None if vision.timm_model_name else width // vision.head_width
    return image, None if text.hf_model_name else text.heads


def with_heads(cfg: ModelCfg, heads: tuple[int, int], source: object) -> ModelCfg:
    """Set the numbers of heads of a configuration.

    Args:
        cfg: a configuration that was found by shapes.
        heads: of the image tower and of the text tower.
        source: the checkpoint, for messages.

    Raises:
        ConfigError: if the width of a tower is not a multiple of its heads.
    """
    vision, text = cfg.vision_cfg, cfg.text_cfg
    known = head_counts(cfg)
    widths = (known[0] or 0) * vision.head_width, 0 if known[1] is None else text.width
    for tower, width, count in zip(TOWER_NAMES, widths, heads, strict=True):
        if width % count:
            raise ConfigError(
                f"the {tower} tower of {source} has width {width}, not a multiple of {count} heads"
            )
    if widths[0]:
        vision = replace(vision, head_width=widths[0] // heads[0])
    if widths[1]:
        text = replace(text, heads=heads[1])
    return replace(cfg, vision_cfg=vision, text_cfg=text)


def check_heads(cfg: ModelCfg, heads: tuple[int, int], source: object) -> None:
    """Raise ConfigError if the configuration of `source` contradicts the argument `heads`."""
    for tower, known, declared in zip(TOWER_NAMES, head_counts(cfg), heads, strict=True):
        if known is not None and known != declared:
            raise ConfigError(
                f"the {tower} tower of {source} has {known} heads by its configuration, and {declared} by heads=: "
                "remove or correct the wrong one"
            )
