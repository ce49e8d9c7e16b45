"""Configuration of training augmentation."""

from __future__ import annotations

from dataclasses import dataclass

from oneclip.errors import ConfigError


@dataclass(frozen=True)
class AugmentCfg:
    """How far training pictures are changed. Ranges are (smallest, largest)."""

    scale: tuple[float, float] = (0.9, 1.0)  # share of the picture's area that a crop keeps
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height of a crop, before it is made square
    color_jitter: tuple[float, float, float, float] | None = None  # of brightness, contrast, saturation, hue
    color_jitter_prob: float = 0.0
    gray_scale_prob: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is (smallest, largest) share of the area, above 0; found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"ratio is (smallest, largest) width over height, above 0; found {self.ratio}")
        for name in ("color_jitter_prob", "gray_scale_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a probability; found {getattr(self, name)}")
        if bool(self.color_jitter_prob) != (self.color_jitter is not None):
            raise ConfigError("color_jitter and color_jitter_prob go together: give both or neither")
        if self.color_jitter is not None:
            if len(self.color_jitter) != 4 or min(self.color_jitter) < 0:
                raise ConfigError(
                    "color_jitter is four amounts (brightness, contrast, saturation, hue), none negative; "
                    f"found {self.color_jitter}"
                )
            if self.color_jitter[3] > 0.5:
                raise ConfigError(f"the hue of color_jitter is at most 0.5; found {self.color_jitter[3]}")
