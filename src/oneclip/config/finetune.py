"""The settings of a fine-tuning: those of a training, and what is around it."""

# ruff: noqa: RUF009 (`in_group` makes fields; none of them is shared)

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from oneclip.config.run import RunCfg, in_group
from oneclip.errors import ConfigError, nearest

WAYS = ("full", "lora", "image", "lit", "last")
BEST, AFTER = "best", "after"
DATA, TASKS, WAY, LENGTH = (
    "Data",
    "What it is measured on",
    "What is trained, and what is written",
    "Length",
)


@dataclass(frozen=True, kw_only=True)
class FinetuneCfg(RunCfg):
    """One fine-tuning: a training with an evaluation before and after it. All of `RunCfg` is set here, too.

    Raises:
        ConfigError: on a value out of its range, or an unknown name in `train`.
    """

    model: str | Path = in_group(
        DATA, help="What to start from: any model's name, a file or a folder.", unit="MODEL"
    )
    data: str | Path | tuple[str, ...] = in_group(
        DATA,
        help="Pairs to learn: a table, tars, a dataset, a folder of classes; several, with @WEIGHT if wanted.",
        unit="DATA",
    )
    batch_size: int | None = in_group(  # type: ignore[assignment]
        LENGTH, None, help="Pairs a batch. [default: 64, or all of DATA]", unit="N"
    )

    before: str | Path = in_group(
        TASKS,
        "",
        help="What it could do before: pictures and captions, or a folder of classes. [default: for pocket, its "
        "held-out sample]",
        unit="TABLE|FOLDER|none",
    )
    before_images: str | Path | None = in_group(
        TASKS, None, help="What paths of that table are relative to. [default: its folder]", unit="FOLDER"
    )
    held_out: float = in_group(
        TASKS, 0.1, help="Share of DATA's pictures that is held out, unless eval_data is given.", unit="X"
    )

    way: str = in_group(
        WAY,
        "full",
        help="All, LoRA's adapters, the image tower, the text tower (lit), or the last groups.",
        unit="|".join(WAYS),
    )
    last: int | None = in_group(
        WAY, None, help="Train the last groups of each tower, so many; way is last.", unit="N"
    )
    rank: int = in_group(WAY, 8, help="Of LoRA's matrices.", unit="N")
    lora_alpha: float | None = in_group(
        WAY,
        None,
        help="LoRA's changes are multiplied by this over the rank. [default: twice the rank]",
        unit="X",
    )
    teacher: str | None = in_group(
        WAY, None, help="Larger model whose similarities are learnt, too: any model's name.", unit="NAME"
    )
    alpha: str | float = in_group(
        WAY, BEST, help="Which point between before (0) and after (1) is written.", unit="best|after|X"
    )
    points: int = in_group(WAY, 11, help="Points between before and after that are evaluated.", unit="N")

    lr: float | None = in_group(
        LENGTH, None, help="Highest learning rate. [default: what suits the way]", unit="X"
    )
    weight_decay: float = in_group(LENGTH, 0.1, help="Of AdamW.", unit="X")  # that of Wortsman et al. 2022

    def __post_init__(self) -> None:
        super().__post_init__()
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
        for name in ("last", "rank"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("points", self.points >= 2, "at least 2: before and after")
        self._require("held_out", 0 < self.held_out < 1, "a share between 0 and 1")
        self._require("lora_alpha", self.lora_alpha is None or self.lora_alpha > 0, "above 0")
        wanted = self.wanted
        is_point = wanted in (BEST, AFTER) if isinstance(wanted, str) else 0 <= wanted <= 1
        self._require("alpha", is_point, "best, after, or a number from 0 to 1")
        if self.way == "lora" and self.train.get("strategy") == "fsdp":
            raise ConfigError(
                "LoRA's adapters are too small to be sharded: train them with strategy='ddp' (--strategy ddp)"
            )

    @property
    def wanted(self) -> str | float:
        """`alpha`, as a number if it is one."""
        try:
            return float(self.alpha)
        except ValueError:
            return self.alpha

    @property
    def identity(self) -> dict[str, str]:
        """See `RunCfg`."""
        names = ("way", "last", "rank", "lora_alpha", "teacher")
        return super().identity | {name: str(getattr(self, name)) for name in names}

    @property
    def alphas(self) -> list[float]:
        """The points to evaluate, 0 and 1 among them; and the one that is to be written."""
        grid = {round(i / (self.points - 1), 6) for i in range(self.points)}
        return sorted(grid | ({self.wanted} if isinstance(self.wanted, float) else set()))

    def run_cfg(self, **changes: Any) -> RunCfg:
        """The training alone, with some settings changed."""
        named = self.pretrained is not None
        start = {
            "model": self.model if named else None,
            "pretrained": self.pretrained if named else self.model,
        }
        own = {f.name: getattr(self, f.name) for f in fields(RunCfg)}
        return RunCfg(**(own | start | changes))
