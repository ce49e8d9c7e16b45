"""What a fine-tuning is told."""

# ruff: noqa: RUF009 (`setting` makes fields; none of them is shared)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oneclip.config import _Config
from oneclip.errors import ConfigError, nearest
from oneclip.train.config import setting

WAYS = ("full", "lora", "lit", "last")
BEST, AFTER = "best", "after"


@dataclass(frozen=True)
class FinetuneCfg(_Config):
    """One fine-tuning. `train` has further settings of the training, by the names of `TrainCfg`.

    Raises:
        ConfigError: on a value out of its range.
    """

    model: str | Path = setting(help="What to start from: whatever `oneclip.load` takes.")
    data: str | Path = setting(help="Table of pictures and captions to train on.")
    out: str | Path = setting(help="Folder for all that comes of it.")

    way: str = setting(
        "full", help="What is trained: all, LoRA adapters, the text tower, or the last groups."
    )
    last: int | None = setting(None, help="Groups of each tower that are trained, from the end.")
    rank: int = setting(8, help="Of LoRA's matrices.")
    lora_alpha: float | None = setting(None, help="LoRA's changes are multiplied by this over the rank.")

    images: str | Path | None = setting(None, help="What paths are relative to; None: the table's folder.")
    image_column: str = setting("filepath", help="Column of picture paths.")
    caption_column: str = setting("caption", help="Column of captions.")
    separator: str | None = setting(None, help="Between CSV columns; None: found out.")
    skip_missing: bool = setting(False, help="Leave out pictures that are missing.")
    max_pixels: int | None = setting(None, help="Skip larger pictures.")
    threads: int = setting(4, help="That read pictures.")

    eval_data: str | Path | None = setting(None, help="Held-out table or folder of classes; None: a split.")
    eval_images: str | Path | None = setting(None, help="What paths of the held-out table are relative to.")
    split: float = setting(0.1, help="Share of the pictures that is held out.")
    before: str | Path | None = setting(None, help="Table or folder of classes from before, or none.")
    before_images: str | Path | None = setting(None, help="What paths of that table are relative to.")
    alpha: str | float = setting(BEST, help="Which point between before and after is written.")
    points: int = setting(11, help="Points between before and after that are evaluated.")

    epochs: int | None = setting(None, help="Times through the data; None: 10.")
    steps: int | None = setting(None, help="Optimizer steps, instead of epochs.")
    batch_size: int | None = setting(None, help="Pairs a batch; None: 64, or all if there are fewer.")
    lr: float | None = setting(None, help="Highest learning rate; None: what suits the way.")
    warmup: int | None = setting(None, help="Steps of linear rise; None: a tenth.")
    resume: str | Path | None = setting(None, help="auto, or a checkpoint.")
    device: str | None = setting(None, help="None: a GPU if there is one.")
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            near = nearest(self.way, WAYS, count=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"way is {self.way!r}; {hint}There are {', '.join(WAYS)}")
        if (self.way == "last") != (self.last is not None):
            raise ConfigError(
                "way is 'last' and nothing says how many groups of each tower (last=2, --last 2)"
                if self.last is None
                else f"last is {self.last} and way is {self.way!r}; last groups are trained by way='last' alone"
            )
        for name in ("last", "rank", "epochs", "steps", "batch_size", "threads"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("points", self.points >= 2, "at least 2: before and after")
        self._require("split", 0 < self.split < 1, "a share between 0 and 1")
        self._require("lora_alpha", self.lora_alpha is None or self.lora_alpha > 0, "above 0")
        if isinstance(self.alpha, str):
            self._require("alpha", self.alpha in (BEST, AFTER), "best, after, or a number from 0 to 1")
        else:
            self._require("alpha", 0 <= self.alpha <= 1, "best, after, or a number from 0 to 1")

    @property
    def folder(self) -> Path:
        """`out`."""
        return Path(self.out)

    @property
    def alphas(self) -> list[float]:
        """The points to evaluate, 0 and 1 among them; and the one that is to be written."""
        grid = {round(i / (self.points - 1), 6) for i in range(self.points)}
        return sorted(grid | ({float(self.alpha)} if not isinstance(self.alpha, str) else set()))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
