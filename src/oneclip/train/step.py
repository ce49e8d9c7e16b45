"""Batches to one update of the weights: forward, loss, backward, and an optimizer, over all processes.

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
from oneclip.train.autocast import computing_in
from oneclip.train.data.batches import Batch, Prefetcher, Prepare
from oneclip.train.distributed.parallel import Together, blocks, clip_gradients
from oneclip.train.distributed.watchdog import Watchdog
from oneclip.train.distributed.world import World
from oneclip.train.ema import Ema
from oneclip.train.forward import Features, Towers
from oneclip.train.grad_cache import cached_backward
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.optimizer import lock_towers, make_optimizer
from oneclip.train.reporting.step_stats import Meter
from oneclip.train.schedule import learning_rate


class Stepper:
    """A model, what it is trained for, and what changes its weights.

    Args:
        model: on `device`, the same weights on every rank.
        cfg: the settings.
        world: the processes that train together.
        loss_fn, objective, prepare, device: as in `Trainer`.

    Attributes:
        step: optimizer steps done.
        ema: the moving average of the weights, if `cfg.ema` asks for one.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: TrainCfg,
        world: World,
        loss_fn: nn.Module | None,
        objective: Objective | None,
        prepare: Prepare,
        device: torch.device,
    ) -> None:
        self.model, self.cfg, self.world, self.prepare, self.device = model, cfg, world, prepare, device
        if objective is None:
            objective = make_objective(cfg, model, world, pad_id=prepare.pad_id, loss_fn=loss_fn)
        self.objective = objective
        self.loss_fn: nn.Module = loss_fn if loss_fn is not None else objective.loss_fn
        self._logit_scale_range = scale_range(model, cfg.max_logit_scale)
        if cfg.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        lock_towers(model, cfg)
        self.together = self._put_together()
        self.optimizer = make_optimizer([model, self.loss_fn], cfg)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
        self.ema = Ema(model, cfg.ema) if cfg.ema else None
        self.watchdog = Watchdog(None, stall_seconds=0)
        self.step = 0

    def encode(self, batch: Batch) -> Features:
        """Both towers, under autocast if the configuration says so; features are normalised in fp32."""
        assert isinstance(batch.texts, Tensor)
        with self.autocast():
            features: Features = self.together.module(batch.images, batch.texts, batch.extra.get("negatives"))
        return features

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Named scalars in fp32; "loss" is minimised."""
        losses: dict[str, Tensor] = self.objective(features, batch)
        return losses

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward pass of one batch, which is on the device."""
        return self.losses(self.encode(batch), batch)

    def autocast(self) -> AbstractContextManager[None]:
        """The context that the forward pass runs in."""
        return computing_in(self.cfg.precision, self.device)

    def optimizer_step(self, batches: Prefetcher, meter: Meter) -> None:
        """One update of the weights, from `cfg.accumulate` batches."""
        torch.manual_seed(step_seed(self.cfg.seed, self.step, self.world.rank))
        lr = learning_rate(self.step, self.cfg)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        last = (self.step + 1) * self.cfg.accumulate - 1
        for number in range(self.step * self.cfg.accumulate, last + 1):
            with meter.waiting(), self.watchdog.doing("waiting for data", self.step):
                batch = batches.get(number)
            with self.together.local(number != last):
                self.backward(batch, meter)
        with self.watchdog.doing("optimizer", self.step):
            norm = self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self._logit_scale_range is not None:
                with torch.no_grad():
                    self.model.logit_scale.clamp_(*self._logit_scale_range)  # type: ignore[operator]
            if self.ema is not None:
                self.ema.update()
        self.step += 1
        meter.stepped(norm, lr)

    def backward(self, batch: Batch, meter: Meter) -> None:
        """Add the gradients of one batch to those that are there."""
        batch = self.prepare.on_device(batch, self.device, self.cfg.channels_last)
        if self.cfg.micro_batch:
            with self.watchdog.doing("forward and backward, in micro-batches", self.step):
                losses = cached_backward(
                    self.encode,
                    self.losses,
                    batch,
                    self.cfg.micro_batch,
                    model=self.model,
                    weigh=self._weigh,
                    no_sync=self.together.local,
                )
        else:
            with self.watchdog.doing("forward", self.step):
                losses = self.training_step(batch)
            with self.watchdog.doing("backward", self.step):
                self._weigh(losses["loss"]).backward()  # type: ignore[no-untyped-call]
        meter.add(losses, pairs=len(batch.images))

    def _weigh(self, loss: Tensor) -> Tensor:
        """The share of a batch in a step, scaled for fp16."""
        return self.scaler.scale(loss / self.cfg.accumulate)

    def _clip(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.together.average_rest(parameters)
        self.scaler.unscale_(self.optimizer)
        return clip_gradients(parameters, self.cfg.clip_norm)

    def _put_together(self) -> Together:
        """The towers as the configuration wants them computed, before an optimizer knows their parameters."""
        cfg = self.cfg
        if cfg.grad_checkpointing:
            self.model.set_grad_checkpointing(True)  # type: ignore[operator]
        towers = Towers(
            self.model,
            text_groups=cfg.text_groups,
            pad_id=self.prepare.pad_id,
            may_cut=self.prepare.crop_texts,
        )
        if cfg.compile:
            for block in blocks(towers):  # the same code for all of them, so that it is compiled once
                block.compile()
        return Together(towers, self.world, cfg.strategy)


def scale_range(model: nn.Module, largest: float) -> tuple[float, float] | None:
    """Where training keeps the logarithm of the logit scale; None if it is not trained.

    From 0 to that of `largest` (Radford et al. 2021, section 2.5), and as far out as a model starts that was
    published with another.
    """
    scale: Any = model.logit_scale
    if not scale.requires_grad:
        return None
    start = scale.detach().float()
    return min(0.0, float(start.min())), max(math.log(largest), float(start.max()))


def step_seed(seed: int, step: int, rank: int) -> int:
    """What a rank seeds torch with at a step, so that dropout depends on nothing that came before."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1
