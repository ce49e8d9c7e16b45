"""Training loop: steps, reports, checkpoints and evaluations, with exact resuming.

Shapes: B batch, L tokens, D joint embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from oneclip.config.training import TrainCfg, changed_settings
from oneclip.errors import ConfigError, TrainingError
from oneclip.train.checkpointing.best import BestTracker
from oneclip.train.checkpointing.checkpoint import BEST_NAME, METADATA_FILE, latest_checkpoint
from oneclip.train.checkpointing.checkpointer import Checkpointer
from oneclip.train.data.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.distributed.watchdog import Watchdog
from oneclip.train.distributed.world import World
from oneclip.train.interrupt import Interrupt
from oneclip.train.objectives import Objective
from oneclip.train.reporting.metrics import MetricsFile, TrainingReport
from oneclip.train.reporting.step_stats import StepMeter
from oneclip.train.step import Stepper

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Reporter(Protocol):
    """Receiver of training progress, such as `oneclip.train.ProgressBar`."""

    def start(self, step: int, steps: int) -> None: ...

    def update(self, report: TrainingReport) -> None: ...

    def evaluated(self, step: int, results: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class FitResult:
    """Result of a call of `Trainer.fit`."""

    step: int
    interrupted: bool  # by Ctrl-C; the checkpoint has all steps done
    checkpoint: Path | None
    evaluation: Mapping[str, float]  # the last one
    best_step: int = 0  # step of the best evaluation, if its weights were kept


class Trainer:
    """Trainer of a dual encoder.

    The computation of a step is in `stepper`. For another loss pass an `objective`. For another forward pass pass a
    subclass of `oneclip.train.Stepper` as `make_stepper`. Parameters of `loss_fn`, such as a projection for
    distillation, are trained and saved too.

    Args:
        model: has `encode_image`, `encode_text`, `logit_scale` and optionally `logit_bias`; already on `device`.
        source: returns batch number `step`; see `BatchSource`.
        cfg: the settings.
        loss_fn: called with image features, text features, the exponentiated scale, and the bias if there is one.
        out: folder of checkpoints and `metrics.jsonl`; None writes nothing.
        prepare: preparation of a batch for the model.
        evaluate: called with the model in evaluation mode every `cfg.evaluate_every` steps and at the end; it sets its
            own precision.
        reporter: receives progress.
        identity: plain values that a resumed training must share, such as the batch size or a checksum.
        description: `model_cfg` and `preprocess_cfg` as dicts, saved in checkpoints so that they can be loaded alone.
        device: device of the model.
        world: the processes that train together. Each has a model with the same weights, and a source that returns its
            share of each batch.
        objective: computes losses from features and a batch, in place of `loss_fn`; see `oneclip.train.objectives`.
        make_stepper: `Stepper`, a subclass of it, or a function that makes one from the same arguments.

    Raises:
        ConfigError: if the model or this build of torch does not support the settings.
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
        world: World | None = None,
        objective: Objective | None = None,
        make_stepper: Callable[..., Stepper] = Stepper,
    ) -> None:
        self.model, self.source, self.cfg = model, source, cfg
        self.out = Path(out) if out is not None else None
        self.evaluate, self.reporter = evaluate, reporter
        own = {"seed": cfg.seed, "grad_accum_steps": cfg.grad_accum_steps, "ema_decay": cfg.ema_decay}
        self.identity = {**own, **(identity or {})}
        self.description = dict(description or {})
        self.world = world if world is not None else World()
        self.prepare = prepare if prepare is not None else Prepare()
        self.device = torch.device(device)
        self.stepper = make_stepper(
            model,
            cfg,
            world=self.world,
            loss_fn=loss_fn,
            objective=objective,
            prepare=self.prepare,
            device=self.device,
        )
        self.checkpointer = Checkpointer(
            model, self.stepper.loss_fn, self.stepper.optimizer, self.world, cfg.keep_checkpoints
        )
        writes = self.out is not None and self.world.is_rank_zero
        self.metrics = MetricsFile(self.out / "metrics.jsonl" if self.out and writes else None)
        self.evaluation: dict[str, float] = {}
        self.best = BestTracker(cfg, evaluate)
        self._saved_step = -1

    @property
    def step(self) -> int:
        """Return the number of optimizer steps done."""
        return self.stepper.step

    def fit(self, until: int | None = None) -> FitResult:
        """Train from the current step to step `until` (default: `cfg.steps`).

        Ctrl-C stops after the current step and writes a checkpoint. A second Ctrl-C stops at once, without one.

        Raises:
            TrainingError: if the loss is not finite; earlier checkpoints are kept.
            OutputError: if a checkpoint cannot be written.
        """
        until = min(until if until is not None else self.cfg.steps, self.cfg.steps)
        self.metrics.truncate_after(self.step)
        meter = StepMeter(self.step, until, self.world)
        self._saved: Path | None = None
        self.model.train()
        self.stepper.loss_fn.train()
        cfg = self.cfg
        with (
            Watchdog(self.out, self.world.rank, self.world.size, cfg.stall_seconds) as self.stepper.watchdog,
            self._batches(until) as batches,
            self._reporting(until),
            Interrupt() as interrupt,
        ):
            is_interrupted = self._any(interrupt.requested)
            if self.step and not is_interrupted and self._is_evaluation_due(until):
                is_interrupted = self._evaluate_now(meter, interrupt)  # a killed run may have missed it
            while self.step < until and not is_interrupted and not self.best.should_stop:
                self.stepper.optimizer_step(batches, meter)
                self.stepper.watchdog.step_done(self.step)
                is_interrupted, has_failed = self._each(interrupt.requested, self.checkpointer.has_failed)
                if has_failed:
                    self.checkpointer.finish()  # raises the error on all ranks
                if self.step % cfg.log_every == 0 or self.step == until:
                    self._report(meter)
                if is_interrupted or self._is_checkpoint_due() or self.step == until:
                    self._save_now(meter)
                if self._is_evaluation_due(until) and not is_interrupted:
                    is_interrupted = self._evaluate_now(meter, interrupt)
                    if (is_interrupted or self.best.should_stop) and self._saved_step != self.step:
                        self._save_now(meter)
            with self.stepper.watchdog.phase("checkpoint", self.step):
                self.checkpointer.finish()
        is_over, best_step = self.best.should_stop, self.best.step if self.best.name is not None else 0
        return FitResult(
            self.step, self.step < until and not is_over, self._saved, dict(self.evaluation), best_step
        )

    def take_best(self) -> None:
        """Load the weights that were best on held-out data, if `cfg.keep_best` kept any."""
        if self.cfg.keep_best and self.best.name is not None and self.out is not None:
            self.checkpointer.finish()
            self.checkpointer.read(self.out / self.best.name, self._average())
            self.evaluation = dict(self.best.evaluation)

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the weights to evaluate and export: their average, if any."""
        ema = self.stepper.ema
        return ema.applied() if ema is not None else contextlib.nullcontext()

    def save(self) -> Path | None:
        """Write a checkpoint and delete old ones. Several processes continue training during the write."""
        if self.out is None:
            return None
        epoch = self.cfg.epoch_ending(self.step)
        name = f"epoch_{epoch}" if epoch else f"step_{self.step}"
        tensors = self.checkpointer.tensors() | self._average()
        return self.checkpointer.write(self.out / name, tensors, self.metadata())

    def metadata(self) -> dict[str, Any]:
        """Return the plain values of a checkpoint, besides its tensors."""
        return {
            "step": self.step,
            "identity": dict(self.identity),
            "evaluation": dict(self.evaluation),
            "best": self.best.state_dict(),
            "train_cfg": self.cfg.to_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "description": self.description,
        }

    def resume(self, checkpoint: str | Path, *, allow_changes: bool = False) -> list[str]:
        """Load a checkpoint; `fit` then produces the losses of an uninterrupted run.

        The number of processes may differ; with dropout, random numbers then differ too.

        Args:
            checkpoint: the file or folder of a checkpoint, or the folder of a run, for its latest checkpoint.
            allow_changes: resume even if changed settings change the losses.

        Returns:
            The settings that differ, such as "lr: 0.001, now 0.0005".

        Raises:
            CheckpointError: if it is damaged, or of another model.
            ConfigError: if the folder has no checkpoint, or the training had another seed, batch size or data, or
                settings with other losses.
        """
        path = Path(checkpoint)
        if path.is_dir() and not (path / METADATA_FILE).is_file():
            latest = latest_checkpoint(path)
            if latest is None:
                raise ConfigError(f"{path} has no checkpoint to resume from; expected epoch_… or step_…")
            path = latest
        saved = self.checkpointer.metadata(path)
        self._require_same_identity(path, saved.get("identity", {}))
        changed, changing = changed_settings(saved.get("train_cfg", {}), self.cfg)
        if changing and not allow_changes:
            raise ConfigError(
                f"{path} was trained with {'; '.join(changing)}: resuming would not continue the losses of that run. "
                "Use the same settings, allow the change (allow_changes, --allow-changes), or choose another folder"
            )
        self.checkpointer.read(path, self._average())
        self.stepper.scaler.load_state_dict(saved.get("scaler", {}))
        self.stepper.step, self.evaluation = int(saved["step"]), dict(saved.get("evaluation", {}))
        self.best.load_state_dict(saved.get("best", {}))
        return changed

    def _average(self) -> dict[str, Any]:
        return {"ema": self.stepper.ema.state_dict()} if self.stepper.ema is not None else {}

    def _save_now(self, meter: StepMeter) -> None:
        self._check_finite(meter)
        with meter.paused(), self.stepper.watchdog.phase("checkpoint", self.step):
            self._saved, self._saved_step = self.save(), self.step

    def _evaluate_now(self, meter: StepMeter, interrupt: Interrupt) -> bool:
        """Evaluate, unless this step has an evaluation already. Return True if the run was interrupted."""
        known = self.world.broadcast_object(self.metrics.evaluation_at(self.step))
        # with several ranks, one that left the evaluation alone would keep the others waiting
        at_once = interrupt.immediate() if self.world.is_single else contextlib.nullcontext()
        with at_once, meter.paused(), self.stepper.watchdog.phase("evaluation", self.step):
            if known is None:
                self._evaluate()
            else:
                self.evaluation = known
            if self.best.update(self.step, self.evaluation) and self.cfg.keep_best and self.out is not None:
                tensors = self.checkpointer.tensors() | self._average()
                self.best.name = self.checkpointer.write(self.out / BEST_NAME, tensors, self.metadata()).name
        return self._any(interrupt.requested)

    def _batches(self, until: int) -> Prefetcher:
        def make(number: int) -> Batch:
            batch = self.prepare.on_host(Batch(*self.source.batch(number)))
            return batch.pinned() if self.device.type == "cuda" else batch

        cfg = self.cfg
        last = until * cfg.grad_accum_steps
        return Prefetcher(make, stop=last, depth=cfg.prefetch, workers=cfg.prefetch_workers)

    @contextlib.contextmanager
    def _reporting(self, until: int) -> Iterator[None]:
        if self.reporter is None or not self.world.is_rank_zero:
            yield
            return
        self.reporter.start(self.step, until)
        try:
            yield
        finally:
            self.reporter.stop()

    def _report(self, meter: StepMeter) -> None:
        self._check_finite(meter)
        report = meter.report(self.step, float(self.model.logit_scale.detach().exp().mean()))  # type: ignore[operator]
        self.metrics.write(report.to_dict())
        if self.reporter is not None and self.world.is_rank_zero:
            self.reporter.update(report)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.model.eval()
        try:
            devices = [self.device] if self.device.type == "cuda" else []
            whole = self.stepper.parallel.unsharded()
            with self.averaged(), whole, torch.random.fork_rng(devices), torch.no_grad():
                found = {key: float(value) for key, value in self.evaluate(self.model).items()}
            self.evaluation = self.world.broadcast_object(found)
        finally:
            self.model.train()
        self.metrics.write({"step": self.step, "evaluation": self.evaluation})
        if self.reporter is not None and self.world.is_rank_zero:
            self.reporter.evaluated(self.step, self.evaluation)

    def _is_evaluation_due(self, until: int) -> bool:
        return self.evaluate is not None and (self._is_due(self.cfg.evaluate_every) or self.step == until)

    def _is_checkpoint_due(self) -> bool:
        return self._is_due(self.cfg.checkpoint_every) or self.cfg.epoch_ending(self.step) > 0

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _any(self, flag: bool) -> bool:
        """Return True on all ranks if a flag is set on any rank, so that they stop at the same step."""
        return self._each(flag)[0]

    def _each(self, *flags: bool) -> list[bool]:
        """Return, for each flag, True on all ranks if it is set on any rank."""
        return [count > 0 for count in self.world.sum(flags)]

    def _check_finite(self, meter: StepMeter) -> None:
        # with fp16, the scaler handles infinite gradients: it skips the step
        if self._any(not meter.is_finite(with_gradients=not self.stepper.scaler.is_enabled())):
            self.checkpointer.finish()  # writes of earlier steps
            raise TrainingError(
                f"the loss or a gradient is not finite at step {self.step}; lower the "
                f"learning rate ({self.cfg.lr}), lengthen the warm-up ({self.cfg.warmup} steps) or use fp32, "
                "and resume (with --allow-changes)"
            )

    def _require_same_identity(self, path: Path, saved: Mapping[str, Any]) -> None:
        for key, ours in self.identity.items():
            if saved.get(key, ours) != ours:
                raise ConfigError(
                    f"{path} was trained with {key} = {saved[key]}, and this run has {ours}; resuming would not "
                    "continue with the same batches. Use the same settings, or choose another folder"
                )
