"""How a training goes: its length, learning rate, precision and what it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from oneclip.config import _Config
from oneclip.errors import ConfigError

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("cosine", "constant")


@dataclass
class TrainCfg(_Config):
    """The settings of a `Trainer`. Steps are optimizer steps; 0 switches a "every" off.

    Raises:
        ConfigError: on a value out of its range.
    """

    steps: int  # of the whole training
    steps_per_epoch: int = 0  # names the checkpoints epoch_1.pt, epoch_2.pt, … ; 0: the data has no epochs
    seed: int = 0  # of dropout and its like; the order of the data has the seed of its source

    lr: float = 5e-4
    warmup: int = 0  # steps of linear rise
    schedule: str = "cosine"  # or "constant"
    final_lr: float = 0.0  # where the cosine ends
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    clip_norm: float | None = 1.0  # of all gradients together
    max_logit_scale: float = 100.0  # exponentiated (Radford et al. 2021, section 2.5)

    precision: str = "fp32"  # or "bf16": autocast, with normalisation of features and loss in fp32
    accumulate: int = 1  # batches a step; their gradients are averaged
    channels_last: bool = False

    prefetch: int = 2  # batches made ahead
    prefetch_workers: int = 1  # threads that make them, a batch each

    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 3  # checkpoints; 0 keeps all

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "prefetch", "prefetch_workers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps_per_epoch", "warmup", "evaluate_every", "checkpoint_every", "keep"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "weight_decay", "final_lr"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("eps", self.eps > 0, "above 0")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        self._require("max_logit_scale", self.max_logit_scale >= 1, "at least 1")
        self._require("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))
        self._require("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
