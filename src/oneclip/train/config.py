"""How a training goes: its length, learning rate, precision and what it leaves behind."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any

from oneclip.config import _Config
from oneclip.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")
LOSSES = ("softmax", "sigmoid")
STRATEGIES = ("ddp", "fsdp")
SIGMOID_WAYS = ("bidir", "shift", "reduce", "gather")
SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")

# what settings are about, for people
OPTIMIZER, LOSS, SPEED, RUN = "Optimizer", "Loss", "Memory and speed", "The run"


def setting(default: Any = MISSING, *, help: str, group: str = "Training") -> Any:
    """A field of a configuration with a line of help, from which options of the command line are made, by groups."""
    return field(default=default, metadata={"help": help, "group": group})


@dataclass
class TrainCfg(_Config):
    """The settings of a `Trainer`. Steps are optimizer steps; 0 switches a "every" off.

    Raises:
        ConfigError: on a value out of its range.
    """

    steps: int = setting(help="Optimizer steps of the whole training.")
    steps_per_epoch: int = setting(0, help="Names checkpoints by epochs; 0: the data has none.")
    seed: int = setting(0, help="Of weights, order and augmentation.", group=RUN)

    lr: float = setting(
        5e-4, help="Highest learning rate; take less, as 1e-5, for pretrained weights.", group=OPTIMIZER
    )
    warmup: int = setting(0, help="Steps of linear rise.")
    schedule: str = setting(
        "cosine", help="Of the learning rate after that: cosine or constant.", group=OPTIMIZER
    )
    final_lr: float = setting(0.0, help="Where the cosine ends.", group=OPTIMIZER)
    optimizer: str = setting("adamw", help="adamw (Loshchilov & Hutter 2019) or sgd.", group=OPTIMIZER)
    weight_decay: float = setting(0.2, help="Norms, biases and the temperature have none.", group=OPTIMIZER)
    beta1: float = setting(0.9, help="Of AdamW.", group=OPTIMIZER)
    beta2: float = setting(0.98, help="Of AdamW.", group=OPTIMIZER)
    eps: float = setting(1e-6, help="Of AdamW.", group=OPTIMIZER)
    momentum: float = setting(0.9, help="Of SGD.", group=OPTIMIZER)
    layer_decay: float = setting(
        1.0,
        help="Times the learning rate, for each layer from the top of a tower down (Bao et al. 2022).",
        group=OPTIMIZER,
    )
    clip_norm: float | None = setting(
        1.0, help="Limit to the norm of all gradients together.", group=OPTIMIZER
    )
    max_logit_scale: float = setting(
        100.0, help="Limit to the temperature (Radford et al. 2021, 2.5).", group=OPTIMIZER
    )

    loss: str = setting(
        "softmax", help="softmax (Radford et al. 2021) or sigmoid (Zhai et al. 2023).", group=LOSS
    )
    local_loss: bool = setting(True, help="Softmax: each rank scores its own rows only.", group=LOSS)
    tile_size: int | None = setting(
        None, help="Rows and columns of logits held at once, as 1024; else all.", group=LOSS
    )
    sigmoid_way: str = setting(
        "bidir", help="How captions travel between ranks: bidir, shift, reduce, gather.", group=LOSS
    )
    caption_weight: float = setting(
        2.0, help="Of the loss of captions, for a CoCa (Yu et al. 2022).", group=LOSS
    )
    teacher_weight: float = setting(1.0, help="Of the distance from a teacher.", group=LOSS)

    precision: str = setting(
        "fp32", help="Of forward passes: fp32, or bf16 or fp16 (autocast); weights are fp32.", group=SPEED
    )
    accumulate: int = setting(1, help="Batches a step; their gradients are averaged.", group=SPEED)
    micro_batch: int = setting(
        0, help="Pairs in the towers at once, for batches of any size; 0: all of a batch.", group=SPEED
    )
    ema: float = setting(
        0.0, help="Decay of a moving average of the weights, as 0.999; 0: none.", group=OPTIMIZER
    )
    text_groups: int = setting(
        4, help="Captions are encoded in so many groups of like length, at most.", group=SPEED
    )
    strategy: str = setting(
        "ddp", help="Of several processes: ddp (all weights on each) or fsdp (in shards).", group=SPEED
    )
    grad_checkpointing: bool = setting(
        False, help="Recompute blocks in the backward pass, to save memory.", group=SPEED
    )
    compile: bool = setting(False, help="Compile both towers (torch.compile).", group=SPEED)
    channels_last: bool = setting(
        False, help="Memory format that convolutions may be faster in.", group=SPEED
    )

    prefetch: int = setting(2, help="Batches made ahead.", group=SPEED)
    prefetch_workers: int = setting(1, help="Threads that make batches, one each.", group=SPEED)

    log_every: int = setting(10, help="Steps between reports.", group=RUN)
    evaluate_every: int = setting(0, help="Steps between evaluations.")
    checkpoint_every: int = setting(0, help="Steps between checkpoints, besides those of epochs.", group=RUN)
    stall_seconds: float = setting(
        1800.0, help="Without a step after which a run is ended and says why; 0: never.", group=RUN
    )
    keep: int = setting(3, help="Checkpoints to keep; 0: all.", group=RUN)

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "text_groups", "log_every", "prefetch", "prefetch_workers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("ema", 0 <= self.ema < 1, "in [0, 1)")
        self._require("tile_size", self.tile_size is None or self.tile_size >= 1, "at least 1, or None")
        for name in (
            "steps_per_epoch",
            "micro_batch",
            "stall_seconds",
            "warmup",
            "evaluate_every",
            "checkpoint_every",
            "keep",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "weight_decay", "final_lr", "caption_weight", "teacher_weight"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("beta1", "beta2", "momentum"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("eps", self.eps > 0, "above 0")
        self._require("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1")
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")
        self._require("max_logit_scale", self.max_logit_scale >= 1, "at least 1")
        choices = {"precision": PRECISIONS, "schedule": SCHEDULES, "loss": LOSSES, "strategy": STRATEGIES}
        choices |= {"sigmoid_way": SIGMOID_WAYS, "optimizer": OPTIMIZERS}
        for name, known in choices.items():
            self._require(name, getattr(self, name) in known, " or ".join(known))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
