"""How a training goes: its length, learning rate, precision and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from oneclip.config.base import BaseCfg
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


# what may differ when a training goes on: the losses stay those of one run, but for rounding
FREE = (
    *("steps_per_epoch", "log_every", "evaluate_every", "checkpoint_every", "stall_seconds", "keep"),
    *("keep_best", "patience", "best_figure", "prefetch", "prefetch_workers", "text_groups", "micro_batch"),
    *("strategy", "local_loss", "tile_size", "sigmoid_way", "grad_checkpointing", "compile", "channels_last"),
)


@dataclass
class TrainCfg(BaseCfg):
    """The settings of a `Trainer`. Steps are optimizer steps; 0 switches a "every" off.

    Raises:
        ConfigError: on a value out of its range.
    """

    steps: int = setting(help="Optimizer steps of the whole training.")
    steps_per_epoch: float = setting(0.0, help="Names checkpoints by epochs; 0: the data has none.")
    seed: int = setting(0, help="Of weights, order and augmentation.", group=RUN)

    lr: float = setting(
        5e-4, help="Highest learning rate; take less, as 1e-5, for pretrained weights.", group=OPTIMIZER
    )
    warmup: int = setting(0, help="Steps of linear rise.")
    schedule: str = setting(
        "cosine", help="Of the learning rate after that: cosine or constant.", group=OPTIMIZER
    )
    cooldown: int = setting(
        0,
        help="Of a constant schedule: the last steps, in which the rate falls to final_lr.",
        group=OPTIMIZER,
    )
    final_lr: float = setting(0.0, help="Where the cosine, or the cooldown, ends.", group=OPTIMIZER)
    image_lr: float | None = setting(
        None, help="Of the image tower; 0 locks it. [default: lr]", group=OPTIMIZER
    )
    text_lr: float | None = setting(
        None, help="Of the text tower; 0 locks it. [default: lr]", group=OPTIMIZER
    )
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
    keep_best: bool = setting(
        False, help="Keep the best checkpoint on held-out data, and write its weights in the end."
    )
    patience: int = setting(
        0, help="Evaluations in a row without a better one after which to stop; 0: never stop early."
    )
    best_figure: str | None = setting(
        None, help="Figure of the evaluation that says which is best. [default: the task's headline]"
    )
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
            "cooldown",
            "evaluate_every",
            "checkpoint_every",
            "keep",
            "patience",
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "weight_decay", "final_lr", "caption_weight", "teacher_weight"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("image_lr", "text_lr"):
            value = getattr(self, name)
            self._require(name, value is None or 0 <= value < float("inf"), "0 or more")
            self._require(name, value is None or self.lr > 0, "None where lr is 0")
        self._require(
            "cooldown", self.cooldown == 0 or self.schedule == "constant", "0 unless schedule is constant"
        )
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

    def epoch_ending(self, step: int) -> int:
        """The epoch, from 1, that ends with a step; 0 where none does. Ends are rounded to whole steps."""
        if not self.steps_per_epoch:
            return 0
        epoch = int(
            (step + 0.5) / self.steps_per_epoch
        )  # the last one whose end is rounded to this step, or before
        return epoch if epoch and round(epoch * self.steps_per_epoch) == step else 0

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")


def differing(then: Mapping[str, Any], now: TrainCfg) -> tuple[list[str], list[str]]:
    """The settings in which a training that goes on differs from before, as "lr: 0.001, now 0.0005".

    Args:
        then: `to_dict` of the settings before; those of another version of this package may have other names.
        now: the settings.

    Returns:
        all of them, and those that change the losses.
    """
    before = {f.name: f.default for f in fields(TrainCfg)} | dict(then)
    free = set(FREE)
    if now.schedule == "constant" and not now.cooldown:
        free.add("steps")  # the learning rate does not look at the end
    pairs = {f.name: (before[f.name], getattr(now, f.name)) for f in fields(TrainCfg)}
    all_of_them = {
        name: f"{name}: {was}, now {is_now}" for name, (was, is_now) in pairs.items() if was != is_now
    }
    return list(all_of_them.values()), [text for name, text in all_of_them.items() if name not in free]
