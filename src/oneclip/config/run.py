"""What a run is told: `RunCfg`, which with `TrainCfg` is all that `oneclip train` can be told. Needs no torch."""

# ruff: noqa: RUF009 (`in_group` makes fields; none of them is shared)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from oneclip.config.base import BaseCfg
from oneclip.config.training import PRECISIONS, TrainCfg
from oneclip.errors import ConfigError

PREFLIGHT = ("on", "off", "only")
EPOCHS = 10


def in_group(
    group: str, default: Any = MISSING, *, help: str, unit: str = "", short: tuple[str, ...] = ()
) -> Any:
    """A field with what an option of the command line wants: its group, unit and shorter names."""
    metadata = {"help": help, "group": group, "unit": unit, "short": short}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class RunCfg(BaseCfg):
    """One training. `train` has what `Trainer` takes, by the names of `TrainCfg`; the rest is here.

    Raises:
        ConfigError: on a value out of its range, or an unknown name in `train`.
    """

    data: str | Path | tuple[str, ...] = in_group(
        "Data",
        help="Pairs: a table, tars, a dataset, a folder of classes, synthetic:COUNT; several times for several, with "
        "@WEIGHT if wanted.",
        unit="SOURCE",
    )
    images: str | Path | None = in_group(
        "Data", None, help="What paths are relative to. [default: the table's folder]", unit="FOLDER"
    )
    image_column: str | None = in_group(
        "Data", None, help="Column of pictures. [default: filepath]", unit="NAME"
    )
    caption_column: str | None = in_group(
        "Data",
        None,
        help="Column of captions, or of tars txt, json or json:FIELD. [default: caption, txt]",
        unit="NAME",
    )
    split: str | None = in_group("Data", None, help="Of a dataset. [default: train]", unit="NAME")
    by_picture: bool = in_group(
        "Data", False, help="Rows with the same picture are one sample; each epoch draws one of its captions."
    )
    separator: str | None = in_group(
        "Data", None, help="Between CSV columns; tab for tabs. [default: found out]", unit="CHAR"
    )
    skip_missing: bool = in_group(
        "Data", False, help="Leave out what is missing or cut short; otherwise an error.", short=("--skip",)
    )
    max_pixels: int | None = in_group(
        "Data", None, help="Skip larger pictures. [default: 178956970]", unit="N"
    )
    max_broken: float = in_group("Data", 0.01, help="Share of samples that may be broken.", unit="X")
    threads: int = in_group("Data", 4, help="That read pictures.", unit="N")
    workers: int = in_group("Data", 0, help="Processes that make batches, of so many threads each.", unit="N")
    eval_data: str | Path | None = in_group(
        "Data", None, help="Held-out pairs, or a folder of classes, to evaluate on.", unit="TABLE|FOLDER"
    )
    eval_images: str | Path | None = in_group(
        "Data", None, help="For the held-out pairs. [default: images, or the table's folder]", unit="FOLDER"
    )
    templates: str = in_group(
        "Data",
        "simple",
        help="Prompts for classes: 7 or 80 of ImageNet's, a file with one a line, or one, with {} for the name.",
        unit="simple|imagenet|FILE|TEXT",
    )

    eval_batch_size: int | None = in_group(
        "Data",
        None,
        help="Images, or captions, that an evaluation encodes at once. [default: as the training does]",
        unit="N",
    )
    eval_precision: str | None = in_group(
        "Data", None, help="Of evaluations: fp32, bf16 or fp16. [default: the training's]", unit="NAME"
    )

    model: str | Path | None = in_group(
        "Model",
        None,
        help="An architecture, or a JSON file that describes one.",
        unit="NAME",
        short=("-m",),
    )
    pretrained: str | Path | None = in_group(
        "Model",
        None,
        help="Weights to start from: a tag or file of the architecture, or any model's name.",
        unit="NAME",
    )

    image_size: int | None = in_group(
        "Model", None, help="Pixels a side; positions are resized. [default: the model's]", unit="N"
    )
    context_length: int | None = in_group(
        "Model", None, help="Tokens a caption; positions are resized. [default: the model's]", unit="N"
    )

    crop_scale: tuple[float, float] = in_group(
        "Augmentation",
        (0.9, 1.0),
        help="Share of an image's area that a random crop keeps: least and most. [default: 0.9 1.0]",
        unit="X X",
    )
    crop_ratio: tuple[float, float] = in_group(
        "Augmentation",
        (3 / 4, 4 / 3),
        help="Width over height of a crop: least and most. [default: 3/4 4/3]",
        unit="X X",
    )
    color_jitter: tuple[float, float, float, float] | None = in_group(
        "Augmentation", None, help="Change of brightness, contrast, saturation and hue.", unit="X X X X"
    )
    color_jitter_prob: float = in_group(
        "Augmentation", 0.8, help="How often colours change, if they do.", unit="X"
    )
    gray_scale_prob: float = in_group(
        "Augmentation", 0.0, help="How often an image loses its colours.", unit="X"
    )

    epochs: int | None = in_group(
        "Length", None, help=f"Times through the data. [default: {EPOCHS}]", unit="N"
    )
    steps: int | None = in_group("Length", None, help="Optimizer steps, instead of epochs.", unit="N")
    batch_size: int = in_group("Length", 64, help="Pairs a batch, over all processes.", unit="N")
    warmup: int | None = in_group("Length", None, help="Steps of linear rise. [default: a tenth]", unit="N")
    evaluate_every: int | None = in_group(
        "Length",
        None,
        help="Steps between evaluations. [default: an epoch]",
        unit="N",
        short=("--eval-every",),
    )

    out: str | Path = in_group("The run", help="Where all goes.", unit="FOLDER", short=("-o",))
    resume: str | Path | None = in_group(
        "The run",
        None,
        help="Go on from the latest checkpoint in the folder, or from one.",
        unit="auto|PATH",
    )
    allow_changes: bool = in_group(
        "The run", False, help="Go on although settings differ from before that change the losses."
    )
    preflight: str = in_group("The run", "on", help="Checks before the first step.", unit="|".join(PREFLIGHT))
    device: str | None = in_group(
        "The run", None, help="cpu, cuda, cuda:1 … [default: a GPU if there is one]", unit="DEVICE"
    )
    tensorboard: bool = in_group("The run", True, help="Events for TensorBoard, if it is installed.")
    wandb: str | None = in_group(
        "The run", None, help="Report to this project of Weights & Biases.", unit="PROJECT"
    )

    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "steps",
            "batch_size",
            "threads",
            "max_pixels",
            "eval_batch_size",
            "image_size",
            "context_length",
        ):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        for name in ("warmup", "evaluate_every", "workers"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "0 or more")
        self._require("eval_precision", self.eval_precision in (None, *PRECISIONS), " or ".join(PRECISIONS))
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
    def identity(self) -> dict[str, str]:
        """What a run that goes on must share, besides what its data and its training say themselves."""
        names = (
            "image_size",
            "context_length",
            "crop_scale",
            "crop_ratio",
            "color_jitter",
            "gray_scale_prob",
        )
        return {name: str(getattr(self, name)) for name in names}

    @property
    def columns(self) -> dict[str, str]:
        """The names of a table's columns that were given, for `oneclip.hub.pairs.read_table`."""
        given = {"image_column": self.image_column, "caption_column": self.caption_column}
        return {name: column for name, column in given.items() if column is not None}

    @property
    def folder(self) -> Path:
        """`out`."""
        return Path(self.out)

    @property
    def seed(self) -> int:
        """Of weights, order and augmentation."""
        return int(self.train.get("seed", 0))

    def train_cfg(self, samples: int) -> TrainCfg:
        """The trainer's settings.

        Args:
            samples: of the data, in an epoch.
        """
        pairs_per_step = self.batch_size * int(self.train.get("accumulate", 1))
        steps_per_epoch = samples / pairs_per_step
        epochs = self.epochs or EPOCHS
        steps = self.steps if self.steps is not None else max(1, round(epochs * steps_per_epoch))
        counted = {
            "steps": steps,
            "steps_per_epoch": steps_per_epoch,
            "warmup": self.warmup if self.warmup is not None else steps // 10,
            "evaluate_every": (
                self.evaluate_every if self.evaluate_every is not None else max(1, round(steps_per_epoch))
            ),
        }
        return TrainCfg.from_dict(counted | dict(self.train))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
