"""Settings of a fine-tuning: those of a training, and of the evaluation before and after it."""

# ruff: noqa: RUF009 (`setting` makes a new field each time)

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from oneclip.config.run import RunCfg
from oneclip.config.training import setting
from oneclip.errors import ConfigError, nearest_names

METHODS = ("full", "lora", "image", "lit", "last")
BEST, AFTER = "best", "after"  # values of `alpha` besides numbers
NO_REFERENCE = "none"  # value of `reference` that skips the measurement

# groups of settings in help and files
DATA, EVALUATION, METHOD, LENGTH = "Data", "Evaluation", "Method and result", "Length"


@dataclass(frozen=True, kw_only=True)
class FinetuneCfg(RunCfg):
    """Settings of a fine-tuning: a training with evaluations before and after it. Has all settings of `RunCfg`.

    Raises:
        ConfigError: on a value out of range, or an unknown name in `train`.
    """

    model: str | Path = setting(
        group=DATA, help="Model to fine-tune: the name of any model, a file or a folder.", unit="MODEL"
    )
    data: str | Path | tuple[str, ...] = setting(
        group=DATA,
        help="Training pairs: a table, tars, a dataset or a folder of classes; or several of them, each with an "
        "optional @WEIGHT.",
        unit="DATA",
    )
    batch_size: int | None = setting(  # type: ignore[assignment]
        None, group=LENGTH, help="Pairs in a batch. [default: 64, or all of DATA]", unit="N"
    )

    reference: str | Path = setting(
        "",
        group=EVALUATION,
        help="Data that shows what the model could do before: a table of images and captions, or a folder of "
        "classes. [default: for pocket, its held-out sample]",
        unit="TABLE|FOLDER|none",
    )
    reference_images: str | Path | None = setting(
        None,
        group=EVALUATION,
        help="Folder of the reference images. [default: the table's folder]",
        unit="FOLDER",
    )
    held_out: float = setting(
        0.1,
        group=EVALUATION,
        help="Share of the images of DATA to hold out for evaluation, if eval_data is not given.",
        unit="X",
    )

    method: str = setting(
        "full",
        group=METHOD,
        help="Train everything, LoRA adapters, the image tower, the text tower (lit), or the last groups.",
        unit="|".join(METHODS),
    )
    last: int | None = setting(
        None, group=METHOD, help="Number of last groups of each tower to train, for method last.", unit="N"
    )
    rank: int = setting(8, group=METHOD, help="Rank of the LoRA matrices.", unit="N")
    lora_alpha: float | None = setting(
        None,
        group=METHOD,
        help="LoRA changes are multiplied by this over the rank. [default: twice the rank]",
        unit="X",
    )
    teacher: str | None = setting(
        None,
        group=METHOD,
        help="Larger model whose similarities are also learned: the name of any model.",
        unit="NAME",
    )
    alpha: str | float = setting(
        BEST,
        group=METHOD,
        help="Which interpolation between the weights before (0) and after (1) to write.",
        unit="best|after|X",
    )
    points: int = setting(
        11, group=METHOD, help="Number of interpolations between before and after to evaluate.", unit="N"
    )

    lr: float | None = setting(
        None, group=LENGTH, help="Highest learning rate. [default: depends on the method]", unit="X"
    )
    weight_decay: float = setting(  # Wortsman et al. 2022
        0.1, group=LENGTH, help="Weight decay of AdamW.", unit="X"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            near = nearest_names(self.method, METHODS, count=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"method is {self.method!r}; expected one of {', '.join(METHODS)}{hint}")
        if self.method == "last" and self.last is None:
            raise ConfigError(
                "method is 'last', but the number of groups of each tower is missing; set last=2 (--last 2)"
            )
        if self.method != "last" and self.last is not None:
            raise ConfigError(f"last is {self.last} and method is {self.method!r}; last needs method='last'")
        for name in ("last", "rank"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 1, "at least 1")
        self._require("points", self.points >= 2, "at least 2: before and after")
        self._require("held_out", 0 < self.held_out < 1, "a share between 0 and 1")
        self._require("lora_alpha", self.lora_alpha is None or self.lora_alpha > 0, "above 0")
        alpha = self.requested_alpha
        is_valid = alpha in (BEST, AFTER) if isinstance(alpha, str) else 0 <= alpha <= 1
        self._require("alpha", is_valid, "best, after, or a number from 0 to 1")
        if self.method == "lora" and self.train.get("strategy") == "fsdp":
            raise ConfigError(
                "LoRA adapters are too small to shard; train them with strategy='ddp' (--strategy ddp)"
            )

    @property
    def requested_alpha(self) -> str | float:
        """Return `alpha`, as a number if it is one."""
        try:
            return float(self.alpha)
        except ValueError:
            return self.alpha

    @property
    def identity(self) -> dict[str, str]:
        """See `RunCfg`."""
        names = ("method", "last", "rank", "lora_alpha", "teacher")
        return super().identity | {name: str(getattr(self, name)) for name in names}

    @property
    def alphas(self) -> list[float]:
        """Return the alphas to evaluate: a grid from 0 to 1, and the requested one."""
        grid = {round(i / (self.points - 1), 6) for i in range(self.points)}
        return sorted(grid | ({self.requested_alpha} if isinstance(self.requested_alpha, float) else set()))

    def run_cfg(self, **changes: Any) -> RunCfg:
        """Return the settings of the training alone, with some of them changed."""
        named = self.pretrained is not None
        initial = {
            "model": self.model if named else None,
            "pretrained": self.pretrained if named else self.model,
        }
        own = {f.name: getattr(self, f.name) for f in fields(RunCfg)}
        return RunCfg(**(own | initial | changes))
