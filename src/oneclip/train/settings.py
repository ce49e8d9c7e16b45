"""What a run is told: `RunCfg`, which with `TrainCfg` is all that `oneclip train` can be told. Needs no torch."""

# ruff: noqa: RUF009 (`_in` makes fields; none of them is shared)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from oneclip.config import _Config
from oneclip.errors import ConfigError
from oneclip.train.config import TrainCfg

PREFLIGHT = ("on", "off", "only")
EPOCHS = 10


def _in(group: str, default: Any = MISSING, *, help: str, unit: str = "", short: tuple[str, ...] = ()) -> Any:
    """A field with what an option of the command line wants: its group, unit and shorter names."""
    metadata = {"help": help, "group": group, "unit": unit, "short": short}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunCfg(_Config):
    """One training. `train` has what `Trainer` takes, by the names of `TrainCfg`; the rest is here.

    Raises:
        ConfigError: on a value out of its range, or an unknown name in `train`.
    """

    data: str | Path | tuple[str, ...] = _in(
        "Data",
        help="Pairs: a table, tars, a dataset, synthetic:COUNT; several times for several, with @WEIGHT if wanted.",
        unit="SOURCE",
    )
    images: str | Path | None = _in(
        "Data", None, help="What paths are relative to. [default: the table's folder]", unit="FOLDER"
    )
    image_column: str | None = _in("Data", None, help="Column of pictures. [default: filepath]", unit="NAME")
    caption_column: str | None = _in(
        "Data",
        None,
        help="Column of captions, or of tars txt, json or json:FIELD. [default: caption, txt]",
        unit="NAME",
    )
    split: str | None = _in("Data", None, help="Of a dataset. [default: train]", unit="NAME")
    by_picture: bool = _in(
        "Data", False, help="Rows with the same picture are one sample; each epoch draws one of its captions."
    )
    separator: str | None = _in(
        "Data", None, help="Between CSV columns; tab for tabs. [default: found out]", unit="CHAR"
    )
    skip_missing: bool = _in(
        "Data", False, help="Leave out what is missing or cut short; otherwise an error.", short=("--skip",)
    )
    max_pixels: int | None = _in("Data", None, help="Skip larger pictures. [default: 178956970]", unit="N")
    max_broken: float = _in("Data", 0.01, help="Share of samples that may be broken.", unit="X")
    threads: int = _in("Data", 4, help="That read pictures.", unit="N")
    workers: int = _in("Data", 0, help="Processes that make batches, of so many threads each.", unit="N")
    eval_data: str | Path | None = _in("Data", None, help="Held-out pairs, to evaluate on.", unit="TABLE")
    eval_images: str | Path | None = _in(
        "Data", None, help="For the held-out pairs. [default: images, or the table's folder]", unit="FOLDER"
    )

    model: str | Path | None = _in(
        "Model",
        None,
        help="An architecture, or a JSON file that describes one.",
        unit="NAME",
        short=("-m",),
    )
    pretrained: str | Path | None = _in(
        "Model",
        None,
        help="Weights to start from: a tag or file of the architecture, or any model's name.",
        unit="NAME",
    )

    epochs: int | None = _in("Length", None, help=f"Times through the data. [default: {EPOCHS}]", unit="N")
    steps: int | None = _in("Length", None, help="Optimizer steps, instead of epochs.", unit="N")
    batch_size: int = _in("Length", 64, help="Pairs a batch, over all processes.", unit="N")
    warmup: int | None = _in("Length", None, help="Steps of linear rise. [default: a tenth]", unit="N")
    evaluate_every: int | None = _in(
        "Length",
        None,
        help="Steps between evaluations. [default: an epoch]",
        unit="N",
        short=("--eval-every",),
    )

    out: str | Path = _in("The run", help="Where all goes.", unit="FOLDER", short=("-o",))
    resume: str | Path | None = _in(
        "The run",
        None,
        help="Go on from the latest checkpoint in the folder, or from one.",
        unit="auto|PATH",
    )
    preflight: str = _in("The run", "on", help="Checks before the first step.", unit="|".join(PREFLIGHT))
    device: str | None = _in(
        "The run", None, help="cpu, cuda, cuda:1 … [default: a GPU if there is one]", unit="DEVICE"
    )
    tensorboard: bool = _in("The run", True, help="Events for TensorBoard, if it is installed.")
    wandb: str | None = _in(
        "The run", None, help="Report to this project of Weights & Biases.", unit="PROJECT"
    )

    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "threads", "max_pixels"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        for name in ("warmup", "evaluate_every", "workers"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "0 or more")
        self._require("max_broken", 0 <= self.max_broken <= 1, "in [0, 1]")
        self._require("preflight", self.preflight in PREFLIGHT, ", ".join(PREFLIGHT))
        self._require("separator", len(self.delimiter or " ") == 1, "one character, or tab")
        self._require("data", bool(self.sources) and all(self.sources), "at least one source")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(
                f"epochs is {self.epochs} and steps is {self.steps}: both say how long the training is. "
                "Leave one of them out"
            )
        TrainCfg.from_dict({"steps": 1, **self.train})

    @property
    def sources(self) -> tuple[str, ...]:
        """What `data` names, one or more."""
        return self.data if isinstance(self.data, tuple) else (str(self.data),)

    @property
    def delimiter(self) -> str | None:
        """`separator`, with its words turned into what they mean."""
        return "\t" if self.separator in ("tab", "\\t") else self.separator

    @property
    def folder(self) -> Path:
        """`out`."""
        return Path(self.out)

    @property
    def seed(self) -> int:
        """Of weights, order and augmentation."""
        return int(self.train.get("seed", 0))

    def train_cfg(self, steps_per_epoch: int) -> TrainCfg:
        """The trainer's settings.

        Args:
            steps_per_epoch: of the data.
        """
        steps = self.steps if self.steps is not None else (self.epochs or EPOCHS) * steps_per_epoch
        counted = {
            "steps": steps,
            "steps_per_epoch": steps_per_epoch,
            "warmup": self.warmup if self.warmup is not None else steps // 10,
            "evaluate_every": self.evaluate_every if self.evaluate_every is not None else steps_per_epoch,
        }
        return TrainCfg.from_dict(counted | dict(self.train))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
