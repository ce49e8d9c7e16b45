"""Configuration of training augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from oneclip.errors import ConfigError


@dataclass(frozen=True)
class AugmentCfg:
    """Strength of the augmentation of training images. Ranges are (smallest, largest)."""

    scale: tuple[float, float] = (0.9, 1.0)  # share of the image's area that a crop keeps
    ratio: tuple[float, float] = (
        3 / 4,
        4 / 3,
    )  # width over height of a crop, before it is resized to a square
    color_jitter: tuple[float, float, float, float] | None = None  # brightness, contrast, saturation, hue
    color_jitter_prob: float = 0.0
    gray_scale_prob: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"scale is {self.scale}; expected (smallest, largest) share of the area, above 0"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(
                f"ratio is {self.ratio}; expected (smallest, largest) width over height, above 0"
            )
        for name in ("color_jitter_prob", "gray_scale_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a probability from 0 to 1")
        if bool(self.color_jitter_prob) != (self.color_jitter is not None):
            raise ConfigError("color_jitter and color_jitter_prob are used together: set both or neither")
        if self.color_jitter is not None:
            if len(self.color_jitter) != 4 or min(self.color_jitter) < 0:
                raise ConfigError(
                    f"color_jitter is {self.color_jitter}; expected four amounts, 0 or more "
                    "(brightness, contrast, saturation, hue)"
                )
            if self.color_jitter[3] > 0.5:
                raise ConfigError(f"the hue of color_jitter is {self.color_jitter[3]}; expected at most 0.5")
