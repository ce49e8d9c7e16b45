"""Optimizer step of a training: forward, loss, backward and update, over all processes.

Shapes: B batch of this rank, L tokens, D joint embedding.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oneclip.config.training import TrainCfg
from oneclip.train.autocast import autocast_to
from oneclip.train.data.batches import Batch, Prefetcher, Prepare
from oneclip.train.distributed.parallel import ParallelTowers, clip_gradients, repeated_blocks
from oneclip.train.distributed.watchdog import Watchdog
from oneclip.train.distributed.world import World
from oneclip.train.ema import Ema
from oneclip.train.forward import Features, TrainingForward
from oneclip.train.grad_cache import cached_backward
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.optimizer import lock_towers, make_optimizer
from oneclip.train.reporting.step_stats import StepMeter
from oneclip.train.schedule import learning_rate


class Stepper:
    """Model, objective and optimizer, and the computation of one optimizer step.

    A subclass changes what a step computes: override `losses` to add terms to the loss ("loss" is minimized, the rest
    is logged), `encode` for another use of the towers, or `training_step` for another forward pass. Pass the subclass
    to `Trainer` as `make_stepper`.

    Args:
        model: on `device`, with the same weights on every rank.
        cfg: the settings.
        world: the processes that train together.
        loss_fn, objective, prepare, device: as in `Trainer`.

    Attributes:
        step: number of optimizer steps done.
        parallel: the towers, replicated or sharded over the processes.
        ema: moving average of the weights, if `cfg.ema_decay` is set.
        watchdog: receives the phases of each step; set by `Trainer.fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: TrainCfg,
        *,
        world: World | None = None,
        loss_fn: nn.Module | None = None,
        objective: Objective | None = None,
        prepare: Prepare | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model, self.cfg = model, cfg
        self.world = world if world is not None else World()
        self.prepare = prepare if prepare is not None else Prepare()
        self.device = device if device is not None else torch.device("cpu")
        if objective is None:
            objective = make_objective(cfg, model, self.world, pad_id=self.prepare.pad_id, loss_fn=loss_fn)
        self.objective = objective
        self.loss_fn: nn.Module = loss_fn if loss_fn is not None else objective.loss_fn
        self._logit_scale_range = logit_scale_range(model, cfg.max_logit_scale)
        if cfg.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        lock_towers(model, cfg)
        self.parallel = self._parallelize()
        self.optimizer = make_optimizer([model, self.loss_fn], cfg)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=cfg.precision == "fp16")
        self.ema = Ema(model, cfg.ema_decay) if cfg.ema_decay else None
        self.watchdog = Watchdog(None, stall_seconds=0)
        self.step = 0

    def encode(self, batch: Batch) -> Features:
        """Encode a batch with both towers, under autocast if configured. Features are normalized in fp32."""
        assert isinstance(batch.texts, Tensor)
        with self.autocast():
            features: Features = self.parallel.module(batch.images, batch.texts, batch.extra.get("negatives"))
        return features

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars in fp32; "loss" is minimized."""
        losses: dict[str, Tensor] = self.objective(features, batch)
        return losses

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch, which is on the device."""
        return self.losses(self.encode(batch), batch)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of the forward pass."""
        return autocast_to(self.cfg.precision, self.device)

    def optimizer_step(self, batches: Prefetcher, meter: StepMeter) -> None:
        """Update the weights once, from `cfg.grad_accum_steps` batches."""
        torch.manual_seed(step_seed(self.cfg.seed, self.step, self.world.rank))
        lr = learning_rate(self.step, self.cfg)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        last = (self.step + 1) * self.cfg.grad_accum_steps - 1
        for number in range(self.step * self.cfg.grad_accum_steps, last + 1):
            with meter.waiting(), self.watchdog.phase("waiting for data", self.step):
                batch = batches.get(number)
            with self.parallel.no_sync(number != last):
                self.backward(batch, meter)
        with self.watchdog.phase("optimizer", self.step):
            norm = self._clip_gradients()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self._logit_scale_range is not None:
                with torch.no_grad():
                    self.model.logit_scale.clamp_(*self._logit_scale_range)  # type: ignore[operator]
            if self.ema is not None:
                self.ema.update()
        self.step += 1
        meter.add_step(norm, lr)

    def backward(self, batch: Batch, meter: StepMeter) -> None:
        """Add the gradients of one batch to those of the parameters."""
        batch = self.prepare.on_device(batch, self.device, self.cfg.channels_last)
        if self.cfg.micro_batch:
            with self.watchdog.phase("forward and backward, in micro-batches", self.step):
                losses = cached_backward(
                    self.encode,
                    self.losses,
                    batch,
                    self.cfg.micro_batch,
                    model=self.model,
                    scale_loss=self._scale_loss,
                    no_sync=self.parallel.no_sync,
                )
        else:
            with self.watchdog.phase("forward", self.step):
                losses = self.training_step(batch)
            with self.watchdog.phase("backward", self.step):
                self._scale_loss(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        meter.add(losses, pairs=len(batch.images))

    def _scale_loss(self, loss: Tensor) -> Tensor:
        """Divide the loss by the number of batches in a step, and scale it for fp16."""
        return self.scaler.scale(loss / self.cfg.grad_accum_steps)

    def _clip_gradients(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.parallel.average_unsynced(parameters)
        self.scaler.unscale_(self.optimizer)
        return clip_gradients(parameters, self.cfg.max_grad_norm)

    def _parallelize(self) -> ParallelTowers:
        """Checkpoint, compile and distribute the towers. The optimizer must be made from the result."""
        cfg = self.cfg
        if cfg.grad_checkpointing:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        towers = TrainingForward(
            self.model,
            text_length_buckets=cfg.text_length_buckets,
            pad_id=self.prepare.pad_id,
            may_cut=self.prepare.crop_texts,
        )
        if cfg.compile:
            for block in repeated_blocks(towers):  # they share one compiled program
                block.compile()
        return ParallelTowers(towers, self.world, cfg.strategy)


def logit_scale_range(model: nn.Module, largest: float) -> tuple[float, float] | None:
    """Return the range in which training keeps the logarithm of the logit scale; None if it is frozen.

    The range is 0 to log(largest) (Radford et al. 2021, section 2.5), extended to the starting value of the model.
    """
    scale: Any = model.logit_scale
    if not scale.requires_grad:
        return None
    start = scale.detach().float()
    return min(0.0, float(start.min())), max(math.log(largest), float(start.max()))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the torch seed of a step on a rank, so that dropout does not depend on earlier steps."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
