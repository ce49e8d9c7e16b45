"""Settings of the training loop: length, optimizer, loss, precision and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from oneclip.config.base import BaseCfg
from oneclip.config.precision import FLOAT_PRECISIONS
from oneclip.errors import ConfigError

LOSSES = ("softmax", "sigmoid")
STRATEGIES = ("ddp", "fsdp")
SIGMOID_DIST_IMPLS = ("bidir", "shift", "reduce", "gather")
SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")

# groups of settings in help and files
OPTIMIZER, LOSS, SPEED, RUN = "Optimizer", "Loss", "Memory and speed", "The run"


def setting(
    default: Any = MISSING,
    *,
    help: str,
    group: str = "Training",
    unit: str = "",
    aliases: tuple[str, ...] = (),
) -> Any:
    """Make a dataclass field that is also a command-line option.

    Args:
        default: of the field; without it the setting is required.
        help: one sentence.
        group: heading in help and files.
        unit: placeholder of the value in help.
        aliases: other names of the option.
    """
    metadata = {"help": help, "group": group, "unit": unit, "aliases": aliases}
    return field(default=default, metadata=metadata)


# may change when a run resumes: the losses stay those of one run, except for rounding
LOSS_PRESERVING = (
    *("steps_per_epoch", "log_every", "evaluate_every", "checkpoint_every", "stall_seconds"),
    *("keep_checkpoints", "keep_best", "patience", "best_metric", "prefetch", "prefetch_workers"),
    *("text_length_buckets", "micro_batch", "strategy", "local_loss", "tile_size", "sigmoid_dist_impl"),
    *("grad_checkpointing", "compile", "channels_last"),
)


@dataclass
class TrainCfg(BaseCfg):
    """Settings of a `Trainer`. Steps are optimizer steps. 0 turns off a setting that ends in `_every`.

    Raises:
        ConfigError: on a value out of range.
    """

    steps: int = setting(help="Optimizer steps of the whole training.")
    steps_per_epoch: float = setting(0.0, help="Names checkpoints by epoch; 0: by step.")
    seed: int = setting(0, help="Seed of weights, order and augmentation.", group=RUN)

    lr: float = setting(
        5e-4, help="Highest learning rate; use less, such as 1e-5, for pretrained weights.", group=OPTIMIZER
    )
    warmup: int = setting(0, help="Steps of linear warm-up.")
    schedule: str = setting(
        "cosine", help="Learning rate after the warm-up: cosine or constant.", group=OPTIMIZER
    )
    cooldown: int = setting(
        0,
        help="With a constant schedule: last steps, in which the rate falls to final_lr.",
        group=OPTIMIZER,
    )
    final_lr: float = setting(
        0.0, help="Learning rate at the end of the cosine or the cooldown.", group=OPTIMIZER
    )
    image_lr: float | None = setting(
        None, help="Learning rate of the image tower; 0 locks it. [default: lr]", group=OPTIMIZER
    )
    text_lr: float | None = setting(
        None, help="Learning rate of the text tower; 0 locks it. [default: lr]", group=OPTIMIZER
    )
    optimizer: str = setting("adamw", help="adamw (Loshchilov & Hutter 2019) or sgd.", group=OPTIMIZER)
    weight_decay: float = setting(
        0.2, help="Weight decay, except of norms, biases and the temperature.", group=OPTIMIZER
    )
    beta1: float = setting(0.9, help="beta1 of AdamW.", group=OPTIMIZER)
    beta2: float = setting(0.98, help="beta2 of AdamW.", group=OPTIMIZER)
    eps: float = setting(1e-6, help="epsilon of AdamW.", group=OPTIMIZER)
    momentum: float = setting(0.9, help="Momentum of SGD.", group=OPTIMIZER)
    layer_decay: float = setting(
        1.0,
        help="Factor of the learning rate for each layer below the top of a tower (Bao et al. 2022).",
        group=OPTIMIZER,
    )
    max_grad_norm: float | None = setting(
        1.0, help="Largest norm of all gradients together; larger ones are scaled down.", group=OPTIMIZER
    )
    max_logit_scale: float = setting(
        100.0, help="Largest logit scale (Radford et al. 2021, 2.5).", group=OPTIMIZER
    )

    loss: str = setting(
        "softmax", help="softmax (Radford et al. 2021) or sigmoid (Zhai et al. 2023).", group=LOSS
    )
    local_loss: bool = setting(True, help="Softmax: each rank scores its own rows only.", group=LOSS)
    tile_size: int | None = setting(
        None, help="Rows and columns of logits in memory at once, such as 1024. [default: all]", group=LOSS
    )
    sigmoid_dist_impl: str = setting(
        "bidir",
        help="Sigmoid: how text embeddings are exchanged between ranks: bidir, shift, reduce or gather.",
        group=LOSS,
    )
    caption_weight: float = setting(
        2.0, help="Weight of the captioning loss of a CoCa (Yu et al. 2022).", group=LOSS
    )
    teacher_weight: float = setting(1.0, help="Weight of the distillation loss.", group=LOSS)

    precision: str = setting(
        "fp32",
        help="Precision of forward passes: fp32, or bf16 or fp16 (autocast); weights stay fp32.",
        group=SPEED,
    )
    grad_accum_steps: int = setting(
        1, help="Batches in one optimizer step; their gradients are averaged.", group=SPEED
    )
    micro_batch: int = setting(
        0,
        help="Pairs in the towers at once, for large batches in little memory; 0: whole batch.",
        group=SPEED,
    )
    ema_decay: float = setting(
        0.0, help="Decay of a moving average of the weights, such as 0.999; 0: no average.", group=OPTIMIZER
    )
    text_length_buckets: int = setting(
        4, help="Most groups of similar length in which the texts of a batch are encoded.", group=SPEED
    )
    strategy: str = setting(
        "ddp",
        help="With several processes: ddp (all weights on each) or fsdp (sharded weights).",
        group=SPEED,
    )
    grad_checkpointing: bool = setting(
        False, help="Recompute blocks in the backward pass, to save memory.", group=SPEED
    )
    compile: bool = setting(False, help="Compile both towers (torch.compile).", group=SPEED)
    channels_last: bool = setting(
        False, help="Use a memory format that can speed up convolutions.", group=SPEED
    )

    prefetch: int = setting(2, help="Batches prepared ahead.", group=SPEED)
    prefetch_workers: int = setting(1, help="Threads that prepare batches, one batch each.", group=SPEED)

    log_every: int = setting(10, help="Steps between reports.", group=RUN)
    evaluate_every: int = setting(0, help="Steps between evaluations.")
    keep_best: bool = setting(
        False, help="Keep the best checkpoint on held-out data, and write its weights at the end."
    )
    patience: int = setting(
        0, help="Stop after this many evaluations in a row without a new best; 0: never stop early."
    )
    best_metric: str | None = setting(
        None, help="Metric of the evaluation that decides which is best. [default: the task's headline]"
    )
    checkpoint_every: int = setting(
        0, help="Steps between checkpoints, besides those at the end of epochs.", group=RUN
    )
    stall_seconds: float = setting(
        1800.0, help="End a run with an error after this many seconds without a step; 0: never.", group=RUN
    )
    keep_checkpoints: int = setting(3, help="Number of checkpoints to keep; 0: all.", group=RUN)

    def __post_init__(self) -> None:
        at_least_one = ("steps", "grad_accum_steps", "text_length_buckets", "log_every")
        for name in (*at_least_one, "prefetch", "prefetch_workers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._require("tile_size", self.tile_size is None or self.tile_size >= 1, "at least 1, or None")
        for name in (
            *("steps_per_epoch", "micro_batch", "stall_seconds", "warmup", "cooldown"),
            *("evaluate_every", "checkpoint_every", "keep_checkpoints", "patience"),
        ):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("lr", "weight_decay", "final_lr", "caption_weight", "teacher_weight"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("image_lr", "text_lr"):
            value = getattr(self, name)
            self._require(name, value is None or 0 <= value < float("inf"), "0 or more")
            self._require(name, value is None or self.lr > 0, "None if lr is 0")
        self._require(
            "cooldown", self.cooldown == 0 or self.schedule == "constant", "0 unless schedule is constant"
        )
        for name in ("beta1", "beta2", "momentum"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("eps", self.eps > 0, "above 0")
        self._require("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1")
        self._require(
            "max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or None"
        )
        self._require("max_logit_scale", self.max_logit_scale >= 1, "at least 1")
        choices = {"precision": FLOAT_PRECISIONS, "schedule": SCHEDULES, "loss": LOSSES}
        choices |= {"strategy": STRATEGIES, "sigmoid_dist_impl": SIGMOID_DIST_IMPLS, "optimizer": OPTIMIZERS}
        for name, known in choices.items():
            self._require(name, getattr(self, name) in known, " or ".join(known))

    def epoch_ending(self, step: int) -> int:
        """Return the number of the epoch, from 1, that ends with a step, or 0. Ends are rounded to whole steps."""
        if not self.steps_per_epoch:
            return 0
        # the last epoch whose rounded end is at this step or earlier
        epoch = int((step + 0.5) / self.steps_per_epoch)
        return epoch if epoch and round(epoch * self.steps_per_epoch) == step else 0

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")


def changed_settings(then: Mapping[str, Any], now: TrainCfg) -> tuple[list[str], list[str]]:
    """Compare the settings of a resumed training with those of its checkpoint.

    Args:
        then: `to_dict` of the settings in the checkpoint; another version of this package may have other names.
        now: current settings.

    Returns:
        All changes, such as "lr: 0.001, now 0.0005", and those of them that change the losses.
    """
    before = {f.name: f.default for f in fields(TrainCfg)} | dict(then)
    harmless = set(LOSS_PRESERVING)
    if now.schedule == "constant" and not now.cooldown:
        harmless.add("steps")  # the learning rate does not depend on the last step
    pairs = {f.name: (before[f.name], getattr(now, f.name)) for f in fields(TrainCfg)}
    changes = {name: f"{name}: {was}, now {is_now}" for name, (was, is_now) in pairs.items() if was != is_now}
    return list(changes.values()), [text for name, text in changes.items() if name not in harmless]
