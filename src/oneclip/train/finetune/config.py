"""What a fine-tuning is told."""

# ruff: noqa: RUF009 (`_in` makes fields; none of them is shared)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from oneclip.config import _Config
from oneclip.errors import ConfigError, nearest
from oneclip.train.config import TrainCfg

WAYS = ("full", "lora", "lit", "last")
BEST, AFTER = "best", "after"
DATA, TASKS, WAY, LENGTH, RUN = (
    "Data",
    "What it is measured on",
    "What is trained, and what is written",
    "Length",
    "The run",
)


def _in(group: str, default: Any = MISSING, *, help: str, unit: str = "", short: tuple[str, ...] = ()) -> Any:
    """A field with what an option of the command line wants, see `oneclip.train.flat.Setting`."""
    return field(default=default, metadata={"help": help, "group": group, "unit": unit, "short": short})


@dataclass(frozen=True, kw_only=True)
class FinetuneCfg(_Config):
    """One fine-tuning. `train` has further settings of the training, by the names of `TrainCfg`.

    Raises:
        ConfigError: on a value out of its range, or an unknown name in `train`.
    """

    model: str | Path = _in(
        DATA, help="What to start from: any model's name, a file or a folder.", unit="MODEL"
    )
    data: str | Path = _in(DATA, help="Pairs to learn: a table, tars, a dataset.", unit="DATA")
    images: str | Path | None = _in(
        DATA, None, help="What paths are relative to. [default: the table's folder]", unit="FOLDER"
    )
    image_column: str = _in(DATA, "filepath", help="Column of pictures, in all tables.", unit="NAME")
    caption_column: str = _in(DATA, "caption", help="Column of captions, in all tables.", unit="NAME")
    separator: str | None = _in(
        DATA, None, help="Between CSV columns; tab for tabs. [default: found out]", unit="CHAR"
    )
    skip_missing: bool = _in(
        DATA, False, help="Leave out pictures that are missing; otherwise an error.", short=("--skip",)
    )
    max_pixels: int | None = _in(DATA, None, help="Skip larger pictures. [default: 178956970]", unit="N")
    max_broken: float = _in(DATA, 0.01, help="Share of samples that may be broken.", unit="X")
    threads: int = _in(DATA, 4, help="That read pictures.", unit="N")
    workers: int = _in(DATA, 0, help="Processes that make batches, of so many threads each.", unit="N")

    before: str | Path = _in(
        TASKS,
        "",
        help="What it could do before: pictures and captions, or a folder of classes. [default: for pocket, its "
        "held-out sample]",
        unit="TABLE|FOLDER|none",
    )
    before_images: str | Path | None = _in(
        TASKS, None, help="What paths of that table are relative to. [default: its folder]", unit="FOLDER"
    )
    eval_data: str | Path | None = _in(
        TASKS,
        None,
        help="Held-out data of the new task, or a folder of classes. [default: a part of DATA]",
        unit="TABLE|FOLDER",
    )
    eval_images: str | Path | None = _in(
        TASKS, None, help="What paths of that table are relative to. [default: images]", unit="FOLDER"
    )
    templates: str = _in(
        TASKS,
        "simple",
        help="Prompts for classes: 7 or 80 of ImageNet's, a file with one a line, or one, with {} for the name.",
        unit="simple|imagenet|FILE|TEXT",
    )
    split: float = _in(TASKS, 0.1, help="Share of DATA's pictures that is held out.", unit="X")

    way: str = _in(
        WAY, "full", help="All, LoRA's adapters, the text tower, or the last groups.", unit="|".join(WAYS)
    )
    last: int | None = _in(
        WAY, None, help="Train the last groups of each tower, so many; way is last.", unit="N"
    )
    rank: int = _in(WAY, 8, help="Of LoRA's matrices.", unit="N")
    lora_alpha: float | None = _in(
        WAY,
        None,
        help="LoRA's changes are multiplied by this over the rank. [default: twice the rank]",
        unit="X",
    )
    teacher: str | None = _in(
        WAY, None, help="Larger model whose similarities are learnt, too: any model's name.", unit="NAME"
    )
    alpha: str | float = _in(
        WAY, BEST, help="Which point between before (0) and after (1) is written.", unit="best|after|X"
    )
    points: int = _in(WAY, 11, help="Points between before and after that are evaluated.", unit="N")

    epochs: int | None = _in(LENGTH, None, help="Times through the data. [default: 10]", unit="N")
    steps: int | None = _in(LENGTH, None, help="Optimizer steps, instead of epochs.", unit="N")
    batch_size: int | None = _in(LENGTH, None, help="Pairs a batch. [default: 64, or all of DATA]", unit="N")
    lr: float | None = _in(
        LENGTH, None, help="Highest learning rate. [default: what suits the way]", unit="X"
    )
    warmup: int | None = _in(LENGTH, None, help="Steps of linear rise. [default: a tenth]", unit="N")
    weight_decay: float = _in(LENGTH, 0.1, help="Of AdamW.", unit="X")  # that of Wortsman et al. 2022

    out: str | Path = _in(RUN, help="Where all that comes of it goes.", unit="FOLDER", short=("-o",))
    resume: str | Path | None = _in(
        RUN, None, help="Go on from the latest checkpoint in the folder, or from one.", unit="auto|PATH"
    )
    device: str | None = _in(
        RUN, None, help="cpu, cuda, cuda:1 … [default: a GPU if there is one]", unit="DEVICE"
    )

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
        self._require("separator", len(self.delimiter or " ") == 1, "one character, or tab")
        wanted = self.wanted
        is_point = wanted in (BEST, AFTER) if isinstance(wanted, str) else 0 <= wanted <= 1
        self._require("alpha", is_point, "best, after, or a number from 0 to 1")
        if self.way == "lora" and self.train.get("strategy") == "fsdp":
            raise ConfigError(
                "LoRA's adapters are too small to be sharded: train them with strategy='ddp' (--strategy ddp)"
            )
        TrainCfg.from_dict({"steps": 1, **self.train})

    @property
    def wanted(self) -> str | float:
        """`alpha`, as a number if it is one."""
        try:
            return float(self.alpha)
        except ValueError:
            return self.alpha

    @property
    def delimiter(self) -> str | None:
        """`separator`, with its words turned into what they mean."""
        return "\t" if self.separator in ("tab", "\\t") else self.separator

    @property
    def seed(self) -> int:
        """Of the split, of adapters, and of the training."""
        return int(self.train.get("seed", 0))

    @property
    def folder(self) -> Path:
        """`out`."""
        return Path(self.out)

    @property
    def alphas(self) -> list[float]:
        """The points to evaluate, 0 and 1 among them; and the one that is to be written."""
        grid = {round(i / (self.points - 1), 6) for i in range(self.points)}
        return sorted(grid | ({self.wanted} if isinstance(self.wanted, float) else set()))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
