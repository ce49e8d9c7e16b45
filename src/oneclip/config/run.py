"""Settings of a training run: `RunCfg`, which together with `TrainCfg` has all settings of `oneclip train`."""

# ruff: noqa: RUF009 (`setting` makes a new field each time)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oneclip.config.base import BaseCfg
from oneclip.config.precision import FLOAT_PRECISIONS
from oneclip.config.training import TrainCfg, setting
from oneclip.errors import ConfigError

PREFLIGHT = ("on", "off", "only")
TRUNCATED = ("refuse", "accept")  # see `oneclip.image.open_image`
EPOCHS = 10


@dataclass(frozen=True, kw_only=True)
class RunCfg(BaseCfg):
    """Settings of a training run. `train` has settings of the `Trainer`, by the names of `TrainCfg`.

    Raises:
        ConfigError: on a value out of range, or an unknown name in `train`.
    """

    data: str | Path | tuple[str, ...] = setting(
        group="Data",
        help="Training pairs: a table, tars, a dataset, a folder of classes or synthetic:COUNT. Repeat it for several "
        "sources, each with an optional @WEIGHT.",
        unit="SOURCE",
    )
    images: str | Path | None = setting(
        None,
        group="Data",
        help="Folder that image paths are relative to. [default: the table's folder]",
        unit="FOLDER",
    )
    image_column: str | None = setting(
        None, group="Data", help="Column with image paths. [default: filepath]", unit="NAME"
    )
    caption_column: str | None = setting(
        None,
        group="Data",
        help="Column with captions; in tars txt, json or json:FIELD. [default: caption, txt]",
        unit="NAME",
    )
    split: str | None = setting(None, group="Data", help="Split of a dataset. [default: train]", unit="NAME")
    by_image: bool = setting(
        False,
        group="Data",
        help="Make rows with the same image one sample; each epoch draws one of its captions.",
    )
    separator: str | None = setting(
        None, group="Data", help="Separator of CSV columns, or tab. [default: detected]", unit="CHAR"
    )
    skip_missing: bool = setting(
        False,
        group="Data",
        help="Skip missing images and truncated tars instead of stopping with an error.",
        aliases=("--skip",),
    )
    max_pixels: int | None = setting(
        None, group="Data", help="Skip images with more pixels. [default: 178956970]", unit="N"
    )
    truncated: str = setting(
        "refuse",
        group="Data",
        help="Image files that end early: skip them (refuse), or accept the part that can be read.",
        unit="|".join(TRUNCATED),
    )
    max_bad_fraction: float = setting(
        0.01, group="Data", help="Stop if a larger share of the samples cannot be read.", unit="X"
    )
    threads: int = setting(4, group="Data", help="Threads that read images.", unit="N")
    workers: int = setting(
        0,
        group="Data",
        help="Processes that prepare batches, with --threads threads each; 0: none.",
        unit="N",
    )
    eval_data: str | Path | None = setting(
        None, group="Data", help="Held-out pairs or a folder of classes, for evaluation.", unit="TABLE|FOLDER"
    )
    eval_images: str | Path | None = setting(
        None,
        group="Data",
        help="Folder of held-out images. [default: images, or the table's folder]",
        unit="FOLDER",
    )
    templates: str = setting(
        "simple",
        group="Data",
        help="Prompts of classes: 7 (simple) or 80 of ImageNet, a file with one per line, or a text with {} where the "
        "class name goes.",
        unit="simple|imagenet|FILE|TEXT",
    )

    eval_batch_size: int | None = setting(
        None,
        group="Data",
        help="Images or texts that an evaluation encodes at once. [default: as in training]",
        unit="N",
    )
    eval_precision: str | None = setting(
        None,
        group="Data",
        help="Precision of evaluations: fp32, bf16 or fp16. [default: as in training]",
        unit="NAME",
    )

    model: str | Path | None = setting(
        None,
        group="Model",
        help="Architecture, or a JSON file that describes one.",
        unit="NAME",
        aliases=("-m",),
    )
    pretrained: str | Path | None = setting(
        None,
        group="Model",
        help="Weights to start from: a tag or file of the architecture, or the name of any model.",
        unit="NAME",
    )

    image_size: int | None = setting(
        None,
        group="Model",
        help="Pixels of an image side; position embeddings are resized. [default: as in the model]",
        unit="N",
    )
    context_length: int | None = setting(
        None,
        group="Model",
        help="Tokens of a text; position embeddings are resized. [default: as in the model]",
        unit="N",
    )

    crop_scale: tuple[float, float] = setting(
        (0.9, 1.0),
        group="Augmentation",
        help="Smallest and largest share of the image area in a random crop. [default: 0.9 1.0]",
        unit="X X",
    )
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3),
        group="Augmentation",
        help="Smallest and largest width over height of a crop. [default: 3/4 4/3]",
        unit="X X",
    )
    color_jitter: tuple[float, float, float, float] | None = setting(
        None,
        group="Augmentation",
        help="Random change of brightness, contrast, saturation and hue.",
        unit="X X X X",
    )
    color_jitter_prob: float = setting(
        0.8,
        group="Augmentation",
        help="Share of images with changed colours, if color_jitter is set.",
        unit="X",
    )
    gray_scale_prob: float = setting(0.0, group="Augmentation", help="Share of images made gray.", unit="X")

    epochs: int | None = setting(
        None, group="Length", help=f"Passes over the data. [default: {EPOCHS}]", unit="N"
    )
    steps: int | None = setting(
        None, group="Length", help="Number of optimizer steps, instead of epochs.", unit="N"
    )
    batch_size: int = setting(64, group="Length", help="Pairs in a batch, over all processes.", unit="N")
    warmup: int | None = setting(
        None, group="Length", help="Steps of linear warm-up. [default: a tenth of all]", unit="N"
    )
    evaluate_every: int | None = setting(
        None,
        group="Length",
        help="Steps between evaluations. [default: an epoch]",
        unit="N",
        aliases=("--eval-every",),
    )

    out: str | Path = setting(
        group="The run", help="Folder for everything that the run writes.", unit="FOLDER", aliases=("-o",)
    )
    resume: str | Path | None = setting(
        None,
        group="The run",
        help="Resume from the latest checkpoint in the folder (auto), or from the given one.",
        unit="auto|PATH",
    )
    allow_changes: bool = setting(
        False, group="The run", help="Resume even if changed settings change the losses."
    )
    preflight: str = setting(
        "on",
        group="The run",
        help="Check memory, data and disk before the first step; only: check and stop.",
        unit="|".join(PREFLIGHT),
    )
    device: str | None = setting(
        None, group="The run", help="cpu, cuda, cuda:1, … [default: a GPU if available]", unit="DEVICE"
    )
    tensorboard: bool = setting(
        True, group="The run", help="Write events for TensorBoard, if it is installed."
    )
    wandb: str | None = setting(
        None, group="The run", help="Project of Weights & Biases to report to.", unit="PROJECT"
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
        self._require(
            "eval_precision", self.eval_precision in (None, *FLOAT_PRECISIONS), " or ".join(FLOAT_PRECISIONS)
        )
        self._require("max_bad_fraction", 0 <= self.max_bad_fraction <= 1, "in [0, 1]")
        self._require("truncated", self.truncated in TRUNCATED, " or ".join(TRUNCATED))
        self._require("preflight", self.preflight in PREFLIGHT, ", ".join(PREFLIGHT))
        self._require("separator", len(self.delimiter or " ") == 1, "one character, or tab")
        self._require("data", bool(self.sources) and all(self.sources), "at least one source")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(
                f"epochs is {self.epochs} and steps is {self.steps}; both set the length of the training. "
                "Remove one of them"
            )
        TrainCfg.from_dict({"steps": 1, **self.train})

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources in `data`, one or more."""
        return self.data if isinstance(self.data, tuple) else (str(self.data),)

    @property
    def delimiter(self) -> str | None:
        """Return `separator` as a character; "tab" is a tab."""
        return "\t" if self.separator in ("tab", "\\t") else self.separator

    @property
    def identity(self) -> dict[str, str]:
        """Return settings that a resumed run must share, besides those of its data and its trainer."""
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
        """Return the given names of table columns, for `oneclip.hub.pairs.read_pairs`."""
        given = {"image_column": self.image_column, "caption_column": self.caption_column}
        return {name: column for name, column in given.items() if column is not None}

    @property
    def image_options(self) -> dict[str, Any]:
        """Return `max_pixels` and `truncated`, for `oneclip.image.open_image`."""
        return {"max_pixels": self.max_pixels, "truncated": self.truncated}

    @property
    def folder(self) -> Path:
        """Return `out` as a path."""
        return Path(self.out)

    @property
    def seed(self) -> int:
        """Return the seed of weights, order and augmentation."""
        return int(self.train.get("seed", 0))

    def train_cfg(self, samples: int) -> TrainCfg:
        """Return the settings of the trainer, with its length computed from the data.

        Args:
            samples: number of samples in an epoch.
        """
        pairs_per_step = self.batch_size * int(self.train.get("grad_accum_steps", 1))
        steps_per_epoch = samples / pairs_per_step
        epochs = self.epochs or EPOCHS
        steps = self.steps if self.steps is not None else max(1, round(epochs * steps_per_epoch))
        computed = {
            "steps": steps,
            "steps_per_epoch": steps_per_epoch,
            "warmup": self.warmup if self.warmup is not None else steps // 10,
            "evaluate_every": (
                self.evaluate_every if self.evaluate_every is not None else max(1, round(steps_per_epoch))
            ),
        }
        return TrainCfg.from_dict(computed | dict(self.train))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
