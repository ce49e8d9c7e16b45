"""A model, a loss and a source of batches to a trained model: in one process or in many, resumed exactly.

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

from oneclip.config.training import TrainCfg, differing
from oneclip.errors import ConfigError, TrainingError
from oneclip.train.checkpointing.best import Best
from oneclip.train.checkpointing.checkpoint import BEST, FACTS, latest_checkpoint
from oneclip.train.checkpointing.state import State
from oneclip.train.data.batches import Batch, BatchSource, Prefetcher, Prepare
from oneclip.train.distributed.watchdog import Watchdog
from oneclip.train.distributed.world import World
from oneclip.train.interrupt import Interrupt
from oneclip.train.objectives import Objective
from oneclip.train.reporting.metrics import MetricsFile, Report
from oneclip.train.reporting.step_stats import Meter
from oneclip.train.step import Stepper

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Reporter(Protocol):
    """Who is told how the training goes; `oneclip.train.reporting.progress_bar.ProgressBar` is one."""

    def start(self, step: int, steps: int) -> None: ...

    def update(self, report: Report) -> None: ...

    def evaluated(self, step: int, results: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.fit` ended."""

    step: int
    interrupted: bool  # by Ctrl-C; the checkpoint holds all that was done
    checkpoint: Path | None
    evaluation: Mapping[str, float]  # the last one
    best_step: int = 0  # of the best evaluation, if its weights were kept


class Trainer(Stepper):
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
        world: the processes that train together. Each has a model of the same weights, and a source that gives its
            share of each batch.
        objective: features and a batch to losses, in place of `loss_fn`; see `oneclip.train.objectives`.

    Raises:
        ConfigError: if the settings ask for what the model or this build of torch has not.
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
    ) -> None:
        self.source = source
        self.out = Path(out) if out is not None else None
        self.evaluate, self.reporter = evaluate, reporter
        self.identity = {"seed": cfg.seed, "accumulate": cfg.accumulate, "ema": cfg.ema, **(identity or {})}
        self.description = dict(description or {})
        world = world if world is not None else World()
        prepare = prepare if prepare is not None else Prepare()
        super().__init__(model, cfg, world, loss_fn, objective, prepare, torch.device(device))
        self.kept = State(model, self.loss_fn, self.optimizer, world, cfg.keep)
        writes = self.out is not None and world.is_first
        self.metrics = MetricsFile(self.out / "metrics.jsonl" if self.out and writes else None)
        self.evaluation: dict[str, float] = {}
        self.best = Best(cfg, evaluate)
        self._saved_step = -1

    def fit(self, until: int | None = None) -> Outcome:
        """Train up to step `until` (default: `cfg.steps`), from wherever the trainer is.

        Ctrl-C ends it after the step under way, with a checkpoint; a second Ctrl-C at once, without one.

        Raises:
            TrainingError: when the loss is no longer a number; checkpoints are from before that.
            OutputError: if a checkpoint cannot be written.
        """
        until = min(until if until is not None else self.cfg.steps, self.cfg.steps)
        self.metrics.cut_after(self.step)
        meter = Meter(self.step, until, self.world)
        self._saved: Path | None = None
        self.model.train()
        self.loss_fn.train()
        cfg = self.cfg
        with (
            Watchdog(self.out, self.world.rank, self.world.size, cfg.stall_seconds) as self.watchdog,
            self._batches(until) as batches,
            self._reporting(until),
            Interrupt() as interrupt,
        ):
            is_interrupted = self._any(interrupt.requested)
            if self.step and not is_interrupted and self._is_evaluation_due(until):
                is_interrupted = self._evaluate_now(meter, interrupt)  # what a killed run did not come to
            while self.step < until and not is_interrupted and not self.best.is_over:
                self.optimizer_step(batches, meter)
                self.watchdog.stepped(self.step)
                is_interrupted, has_failed = self._each(interrupt.requested, self.kept.has_failed)
                if has_failed:
                    self.kept.finish()  # which says why, on all ranks
                if self.step % cfg.log_every == 0 or self.step == until:
                    self._report(meter)
                if is_interrupted or self._is_checkpoint_due() or self.step == until:
                    self._save_now(meter)
                if self._is_evaluation_due(until) and not is_interrupted:
                    is_interrupted = self._evaluate_now(meter, interrupt)
                    if (is_interrupted or self.best.is_over) and self._saved_step != self.step:
                        self._save_now(meter)
            with self.watchdog.doing("checkpoint", self.step):
                self.kept.finish()
        is_over, best_step = self.best.is_over, self.best.step if self.best.name is not None else 0
        return Outcome(
            self.step, self.step < until and not is_over, self._saved, dict(self.evaluation), best_step
        )

    def take_best(self) -> None:
        """Go back to the weights that were best on held-out data, if `cfg.keep_best` kept any."""
        if self.cfg.keep_best and self.best.name is not None and self.out is not None:
            self.kept.finish()
            self.kept.read(self.out / self.best.name, self._average())
            self.evaluation = dict(self.best.evaluation)

    def _save_now(self, meter: Meter) -> None:
        self._check_finite(meter)
        with meter.paused(), self.watchdog.doing("checkpoint", self.step):
            self._saved, self._saved_step = self.save(), self.step

    def _evaluate_now(self, meter: Meter, interrupt: Interrupt) -> bool:
        """Evaluate, unless that was done at this step already; whether it was interrupted."""
        known = self.world.first_says(self.metrics.evaluation_at(self.step))
        # a rank that left an evaluation by itself would leave the others waiting
        at_once = interrupt.immediate() if self.world.is_alone else contextlib.nullcontext()
        with at_once, meter.paused(), self.watchdog.doing("evaluation", self.step):
            if known is None:
                self._evaluate()
            else:
                self.evaluation = known
            if self.best.saw(self.step, self.evaluation) and self.cfg.keep_best and self.out is not None:
                tensors = self.kept.tensors() | self._average()
                self.best.name = self.kept.write(self.out / BEST, tensors, self.facts()).name
        return self._any(interrupt.requested)

    def averaged(self) -> AbstractContextManager[None]:
        """A stretch in which the model has the weights to evaluate and export: their moving average, if any."""
        return self.ema.applied() if self.ema is not None else contextlib.nullcontext()

    def save(self) -> Path | None:
        """Write a checkpoint of this moment, and delete those past `cfg.keep`; several processes go on meanwhile."""
        if self.out is None:
            return None
        epoch = self.cfg.epoch_ending(self.step)
        name = f"epoch_{epoch}" if epoch else f"step_{self.step}"
        return self.kept.write(self.out / name, self.kept.tensors() | self._average(), self.facts())

    def _average(self) -> dict[str, Any]:
        return {"ema": self.ema.state_dict()} if self.ema is not None else {}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says beside its tensors, as plain values."""
        return {
            "step": self.step,
            "identity": dict(self.identity),
            "evaluation": dict(self.evaluation),
            "best": self.best.state_dict(),
            "train_cfg": self.cfg.to_dict(),
            "scaler": self.scaler.state_dict(),
            "description": self.description,
        }

    def resume(self, checkpoint: str | Path, *, allow_changes: bool = False) -> list[str]:
        """Go back to where a checkpoint was written; `fit` then gives the losses of an unbroken run.

        The number of processes may be another; with dropout, its random numbers then are others, too.

        Args:
            checkpoint: a file or a folder of one moment, or the folder of a run, for the latest in it.
            allow_changes: go on although settings differ that change the losses.

        Returns:
            the settings that differ, as "lr: 0.001, now 0.0005".

        Raises:
            CheckpointError: if it is damaged, or of another model.
            ConfigError: if the folder has none, or it is of a training with another seed, batch size or data, or with
                settings that would give other losses.
        """
        path = Path(checkpoint)
        if path.is_dir() and not (path / FACTS).is_file():
            latest = latest_checkpoint(path)
            if latest is None:
                raise ConfigError(f"{path} has no checkpoint to resume from; expected epoch_… or step_…")
            path = latest
        facts = self.kept.facts(path)
        self._require_same_identity(path, facts.get("identity", {}))
        changed, changing = differing(facts.get("train_cfg", {}), self.cfg)
        if changing and not allow_changes:
            raise ConfigError(
                f"{path} was trained with {'; '.join(changing)}: going on would not give the losses of one run. "
                "Use the same settings, request the change (allow_changes, --allow-changes), or start in another folder"
            )
        self.kept.read(path, self._average())
        self.scaler.load_state_dict(facts.get("scaler", {}))
        self.step, self.evaluation = int(facts["step"]), dict(facts.get("evaluation", {}))
        self.best.load_state_dict(facts.get("best", {}))
        return changed

    def _batches(self, until: int) -> Prefetcher:
        def make(number: int) -> Batch:
            batch = self.prepare.on_host(Batch(*self.source.batch(number)))
            return batch.pinned() if self.device.type == "cuda" else batch

        cfg = self.cfg
        return Prefetcher(make, last=until * cfg.accumulate, ahead=cfg.prefetch, workers=cfg.prefetch_workers)

    @contextlib.contextmanager
    def _reporting(self, until: int) -> Iterator[None]:
        if self.reporter is None or not self.world.is_first:
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
        if self.reporter is not None and self.world.is_first:
            self.reporter.update(report)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.model.eval()
        try:
            devices = [self.device] if self.device.type == "cuda" else []
            with self.averaged(), self.together.whole(), torch.random.fork_rng(devices), torch.no_grad():
                found = {key: float(value) for key, value in self.evaluate(self.model).items()}
            self.evaluation = self.world.first_says(found)
        finally:
            self.model.train()
        self.metrics.write({"step": self.step, "evaluation": self.evaluation})
        if self.reporter is not None and self.world.is_first:
            self.reporter.evaluated(self.step, self.evaluation)

    def _is_evaluation_due(self, until: int) -> bool:
        return self.evaluate is not None and (self._is_due(self.cfg.evaluate_every) or self.step == until)

    def _any(self, flag: bool) -> bool:
        """Whether a flag is up on any rank: they stop at the same step, or not at all."""
        return self._each(flag)[0]

    def _each(self, *flags: bool) -> list[bool]:
        """Likewise for each of several."""
        return [count > 0 for count in self.world.sum(flags)]

    def _check_finite(self, meter: Meter) -> None:
        # a gradient that does not fit into fp16 is the scaler's affair: it leaves the step out
        if self._any(not meter.is_finite(with_gradients=not self.scaler.is_enabled())):
            self.kept.finish()  # what was begun before that
            raise TrainingError(
                f"the loss or a gradient is no longer a finite number at step {self.step}; lower the "
                f"learning rate ({self.cfg.lr}), lengthen the warm-up ({self.cfg.warmup} steps) or use fp32, "
                "and resume (with --allow-changes)"
            )

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _is_checkpoint_due(self) -> bool:
        return self._is_due(self.cfg.checkpoint_every) or self.cfg.epoch_ending(self.step) > 0

    def _require_same_identity(self, path: Path, theirs: Mapping[str, Any]) -> None:
        for key, ours in self.identity.items():
            if theirs.get(key, ours) != ours:
                raise ConfigError(
                    f"{path} is of a training with {key} = {theirs[key]}, and this one has {ours}; resuming "
                    "would not go on with the same batches. Use the same settings, or another folder"
                )
