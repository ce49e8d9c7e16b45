"""A model, a loss and a source of batches to a trained model: one process, one device, resumed exactly.

Shapes: B batch, L tokens, D joint embedding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneclip.checkpoint import load_into
from oneclip.checkpoint.read import METADATA_KEY
from oneclip.errors import ConfigError, TrainingError
from oneclip.losses import ClipLoss
from oneclip.train.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.checkpoints import (
    latest_checkpoint,
    prune,
    random_states,
    read_checkpoint,
    restore_random_states,
    write_checkpoint,
)
from oneclip.train.config import TrainCfg
from oneclip.train.interrupt import Interrupt
from oneclip.train.meter import Meter
from oneclip.train.metrics import MetricsFile, Report
from oneclip.train.optimizer import make_optimizer
from oneclip.train.precision import computing_in
from oneclip.train.schedule import learning_rate

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Reporter(Protocol):
    """Who is told how the training goes; `oneclip.train.progress.ProgressBar` is one."""

    def start(self, step: int, steps: int) -> None: ...

    def update(self, report: Report) -> None: ...

    def evaluated(self, step: int, results: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


class Features(NamedTuple):
    """What the towers make of a batch."""

    image: Tensor  # (B, D) fp32, unit length
    text: Tensor  # (B, D) fp32, unit length
    logit_scale: Tensor  # exponentiated
    logit_bias: Tensor | None


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.fit` ended."""

    step: int
    interrupted: bool  # by Ctrl-C; the checkpoint holds all that was done
    checkpoint: Path | None
    evaluation: Mapping[str, float]  # the last one


class Trainer:
    """Trains a dual encoder.

    A recipe that wants more than a contrastive loss overrides `losses` (its result's "loss" is minimised, the
    rest is logged), or `training_step` for another forward pass. Parameters of `loss_fn`, such as a
    projection for distillation, are trained and saved along.

    Args:
        model: has `encode_image`, `encode_text`, `logit_scale`, perhaps `logit_bias`; on `device` already.
        source: makes batch number `step`; see `BatchSource`.
        cfg: the settings.
        loss_fn: called with image features, text features, the exponentiated scale, the bias if there is one.
        out: folder of checkpoints and `metrics.jsonl`; without it, nothing is written.
        prepare: what happens to a batch on its way to the model.
        evaluate: called with the model in evaluation mode every `cfg.evaluate_every` steps and at the
            end; its precision is its own affair.
        reporter: told how it goes.
        identity: plain values that a resumed training must share, such as the batch size or a checksum.
        description: `model_cfg` and `preprocess_cfg` as dicts, which make a checkpoint one that says what it is.
        device: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        cfg: TrainCfg,
        *,
        loss_fn: nn.Module | None = None,
        out: str | Path | None = None,
        prepare: Prepare | None = None,
        evaluate: Evaluate | None = None,
        reporter: Reporter | None = None,
        identity: Mapping[str, str | int | float] | None = None,
        description: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model, self.source, self.cfg = model, source, cfg
        self.loss_fn = loss_fn if loss_fn is not None else ClipLoss()
        self.out = Path(out) if out is not None else None
        self.prepare = prepare if prepare is not None else Prepare()
        self.evaluate, self.reporter = evaluate, reporter
        self.identity = {"seed": cfg.seed, "accumulate": cfg.accumulate, **(identity or {})}
        self.description = dict(description or {})
        self.device = torch.device(device)
        if cfg.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer([model, self.loss_fn], cfg)
        self.step = 0  # optimizer steps done
        self.metrics = MetricsFile(self.out / "metrics.jsonl" if self.out else None)
        self.evaluation: dict[str, float] = {}

    # ---------------------------------------------------------------- one step

    def encode(self, batch: Batch) -> Features:
        """Both towers, under autocast if the configuration says so; features are normalised in fp32."""
        with self.autocast():
            image = self.model.encode_image(batch.images)  # type: ignore[operator]
            text = self.model.encode_text(batch.texts)  # type: ignore[operator]
        scale = self.model.logit_scale.float().exp()  # type: ignore[operator]
        bias = getattr(self.model, "logit_bias", None)
        return Features(F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1), scale, bias)

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Named scalars in fp32; "loss" is minimised."""
        bias = {} if features.logit_bias is None else {"logit_bias": features.logit_bias.float()}
        return {"loss": self.loss_fn(features.image, features.text, features.logit_scale, **bias)}

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward pass of one batch, which is on the device."""
        return self.losses(self.encode(batch), batch)

    def autocast(self) -> AbstractContextManager[None]:
        """The context that the forward pass runs in."""
        return computing_in(self.cfg.precision, self.device)

    def optimizer_step(self, batches: Prefetcher, meter: Meter) -> None:
        """One update of the weights, from `cfg.accumulate` batches."""
        lr = learning_rate(self.step, self.cfg)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(self.step * self.cfg.accumulate, (self.step + 1) * self.cfg.accumulate):
            with meter.waiting():
                batch = batches.get(number)
            losses = self.training_step(self.prepare.on_device(batch, self.device, self.cfg.channels_last))
            (losses["loss"] / self.cfg.accumulate).backward()  # type: ignore[no-untyped-call]
            meter.add(losses, pairs=len(batch.images))
        norm = self._clip()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(self.cfg.max_logit_scale))  # type: ignore[operator]
        self.step += 1
        meter.stepped(norm, lr)

    def _clip(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = self.cfg.clip_norm if self.cfg.clip_norm is not None else math.inf
        return nn.utils.clip_grad_norm_(parameters, limit)

    # ---------------------------------------------------------------- the whole

    def fit(self, until: int | None = None) -> Outcome:
        """Train up to step `until` (default: `cfg.steps`), from wherever the trainer is.

        Ctrl-C ends it after the step under way, with a checkpoint; a second Ctrl-C at once, without one.

        Raises:
            TrainingError: when the loss is no longer a number; checkpoints are from before that.
            OutputError: if a checkpoint cannot be written.
        """
        until = min(until if until is not None else self.cfg.steps, self.cfg.steps)
        if self.step == 0:
            torch.manual_seed(self.cfg.seed)
        self.metrics.cut_after(self.step)
        meter = Meter(self.step, until)
        checkpoint: Path | None = None
        self.model.train()
        self.loss_fn.train()
        with self._batches(until) as batches, self._reporting(until), Interrupt() as interrupt:
            while self.step < until and not interrupt.requested:
                self.optimizer_step(batches, meter)
                if self.step % self.cfg.log_every == 0 or self.step == until:
                    self._report(meter)
                is_evaluation_due = self._is_due(self.cfg.evaluate_every) or self.step == until
                if is_evaluation_due and not interrupt.requested:
                    with interrupt.immediate(), meter.paused():
                        self._evaluate()
                if interrupt.requested or self._is_checkpoint_due() or self.step == until:
                    self._check_finite(meter)
                    with meter.paused():
                        checkpoint = self.save()
        return Outcome(self.step, self.step < until, checkpoint, dict(self.evaluation))

    def save(self) -> Path | None:
        """Write a checkpoint of this moment, and delete those past `cfg.keep`."""
        if self.out is None:
            return None
        epoch, rest = divmod(self.step, self.cfg.steps_per_epoch or self.cfg.steps + 1)
        path = self.out / (f"epoch_{epoch}.pt" if rest == 0 and epoch else f"step_{self.step}.pt")
        write_checkpoint(path, self.state())
        prune(self.out, self.cfg.keep)
        return path

    def state(self) -> dict[str, Any]:
        """All that a training needs to go on as if it had never stopped."""
        return {
            "state_dict": self.model.state_dict(),
            "loss_state_dict": self.loss_fn.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "random": random_states(),
            "identity": dict(self.identity),
            "evaluation": dict(self.evaluation),
            "train_cfg": self.cfg.to_dict(),
            METADATA_KEY: self.description,
        }

    def resume(self, checkpoint: str | Path) -> None:
        """Go back to where a checkpoint was written; `fit` then gives the losses of an unbroken run.

        Args:
            checkpoint: a file, or the folder of a run, for the latest in it.

        Raises:
            CheckpointError: if it is damaged, or of another model.
            ConfigError: if the folder has none, or it is of a training with another seed, batch size or data.
        """
        path = Path(checkpoint)
        if path.is_dir():
            latest = latest_checkpoint(path)
            if latest is None:
                raise ConfigError(
                    f"{path} has no checkpoint to resume from; expected epoch_*.pt or step_*.pt"
                )
            path = latest
        state = read_checkpoint(path)
        self._require_same_identity(path, state.get("identity", {}))
        load_into(self.model, state["state_dict"], source=str(path))
        load_into(self.loss_fn, state["loss_state_dict"], source=f"the loss in {path}")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConfigError(
                f"{path} was written while other parameters were trainable ({error})"
            ) from error
        self.step, self.evaluation = int(state["step"]), dict(state["evaluation"])
        restore_random_states(state["random"])

    # ---------------------------------------------------------------- its parts

    def _batches(self, until: int) -> Prefetcher:
        def make(number: int) -> Batch:
            batch = self.prepare.on_host(Batch(*self.source.batch(number)))
            return batch.pinned() if self.device.type == "cuda" else batch

        cfg = self.cfg
        return Prefetcher(make, last=until * cfg.accumulate, ahead=cfg.prefetch, workers=cfg.prefetch_workers)

    @contextlib.contextmanager
    def _reporting(self, until: int) -> Iterator[None]:
        if self.reporter is None:
            yield
            return
        self.reporter.start(self.step, until)
        try:
            yield
        finally:
            self.reporter.stop()

    def _report(self, meter: Meter) -> None:
        self._check_finite(meter)
        report = meter.report(self.step, float(self.model.logit_scale.detach().exp().mean()))  # type: ignore[operator]
        self.metrics.write(report.to_dict())
        if self.reporter is not None:
            self.reporter.update(report)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.model.eval()
        try:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices), torch.no_grad():
                self.evaluation = {key: float(value) for key, value in self.evaluate(self.model).items()}
        finally:
            self.model.train()
        self.metrics.write({"step": self.step, "evaluation": self.evaluation})
        if self.reporter is not None:
            self.reporter.evaluated(self.step, self.evaluation)

    def _check_finite(self, meter: Meter) -> None:
        if not meter.is_finite():
            raise TrainingError(
                f"the loss or a gradient is no longer a finite number at step {self.step}; lower the "
                f"learning rate ({self.cfg.lr}), lengthen the warm-up ({self.cfg.warmup} steps) or use fp32, "
                "and resume"
            )

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _is_checkpoint_due(self) -> bool:
        return self._is_due(self.cfg.checkpoint_every) or self._is_due(self.cfg.steps_per_epoch)

    def _require_same_identity(self, path: Path, theirs: Mapping[str, Any]) -> None:
        for key, ours in self.identity.items():
            if theirs.get(key, ours) != ours:
                raise ConfigError(
                    f"{path} is of a training with {key} = {theirs[key]}, and this one has {ours}; resuming "
                    "would not go on with the same batches. Use the same settings, or another folder"
                )
