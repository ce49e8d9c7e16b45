"""Training run: from a `RunCfg` to a trained model in a folder.

`run` has hooks for programs that extend it, such as fine-tuning. In this order it calls:

- `begin(folder, is_new=…)`: on the first process only, when the folder is locked and before data is read;
- `adapt(start)`: may change `start.model` in place, or return another module to train;
- `evaluate(start, train_cfg, world)`: returns the function that evaluates during training, in place of that of
  `cfg.eval_data`;
- `teach(start, train_cfg)`: returns a function from a batch to the features of a teacher, for distillation;
- `objective(start, train_cfg, world)`: returns the objective, in place of that of the settings; see
  `oneclip.train.Objective`;
- `at_end(finished)`: may replace `finished.state_dict`, with the names of the model in `finished.start.cfg`, and add
  sections to the report. The result is then written to `model/`.

With several processes (torchrun), each calls all hooks except `begin`. Only the first process writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from oneclip.config.run import RunCfg
from oneclip.config.schema import to_flat
from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError, MissingExtraError, TrainingError
from oneclip.hub.file_types import UnsupportedFiles
from oneclip.train.checkpointing.checkpoint import latest_checkpoint
from oneclip.train.data.batches import Batch
from oneclip.train.data.run_data import RunData
from oneclip.train.distributed.rank_zero import full_state_dict, run_on_rank_zero
from oneclip.train.distributed.world import World, init_distributed
from oneclip.train.forward import Features
from oneclip.train.initial_model import InitialModel, load_initial_model
from oneclip.train.loop import Evaluate, FitResult, Reporter, Trainer
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.preflight import preflight
from oneclip.train.reporting.environment import append_start
from oneclip.train.reporting.html_page import Section
from oneclip.train.reporting.reporters import ReporterGroup, TensorBoard, WeightsAndBiases
from oneclip.train.reporting.summary import write_summary
from oneclip.train.repro_config import repro_config_toml
from oneclip.train.run_dir import RunDir


@dataclass
class FinishedTraining:
    """Finished training, before its model is written.

    Attributes:
        start: the initial model; `start.model` was trained in place, unless `adapt` returned another module.
        model: the trained module, in evaluation mode.
        state_dict: weights to write, unsharded, on the CPU; of several processes perhaps only the first has them.
        evaluation: the last evaluation.
        folder: folder of the run.
        world: the processes that trained.
        sections: additional sections of the report.
        metrics: of `state_dict` on held-out data, if it is not what the last evaluation measured.
    """

    start: InitialModel
    model: nn.Module
    state_dict: Mapping[str, Tensor]
    evaluation: Mapping[str, float]
    folder: RunDir
    world: World
    sections: list[Section] = field(default_factory=list)
    metrics: Mapping[str, float] | None = None


class Begin(Protocol):
    """Hook `begin`; see the top of this file."""

    def __call__(self, folder: RunDir, *, is_new: bool) -> None: ...


Adapt = Callable[[InitialModel], nn.Module | None]
MakeEvaluate = Callable[[InitialModel, TrainCfg, World], Evaluate]
AtEnd = Callable[[FinishedTraining], None]
MakeTeach = Callable[[InitialModel, TrainCfg], Callable[[Batch], Features]]
MakeObjective = Callable[[InitialModel, TrainCfg, World], Objective]


@dataclass(frozen=True)
class RunResult:
    """Result of a training run."""

    outcome: FitResult
    steps: int
    model: Path | None  # a folder, for `oneclip.load`; None if it was interrupted
    skipped: Mapping[str, str] = field(default_factory=dict)  # unusable images, with reasons
    rows_left_out: int = 0  # rows or keys of the data without an image or a caption
    not_read: UnsupportedFiles = field(
        default_factory=UnsupportedFiles
    )  # unsupported images and videos in tars
    is_rank_zero: bool = True  # True on the process that writes and prints


def run(
    cfg: RunCfg,
    reporter: Reporter | None = None,
    *,
    recorded_cfg: RunCfg | None = None,
    begin: Begin | None = None,
    adapt: Adapt | None = None,
    evaluate: MakeEvaluate | None = None,
    at_end: AtEnd | None = None,
    teach: MakeTeach | None = None,
    objective: MakeObjective | None = None,
) -> RunResult:
    """Train a model and write all results to `cfg.out`.

    Args:
        cfg: settings of the run.
        reporter: receives progress.
        recorded_cfg: settings to write to `config.toml` and reporters, if the run is part of a larger one.
        begin, adapt, evaluate, at_end, teach, objective: see the top of this file.

    Raises:
        DataError: if a table or images cannot be used.
        ConfigError: if settings conflict, or the folder contains another run.
        UnknownModelError: if the architecture or the weights do not exist.
        OutputError: if `out` cannot be written, or another run writes to it.
        TrainingError: if the loss is not finite.
        ClusterError: on other processes, if the first one failed.
    """
    world, device = init_distributed(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _locked_run_dir(cfg, world) as folder:
        resume_from = run_on_rank_zero(world, lambda: find_checkpoint(folder.path, cfg.resume))
        recorded_cfg = recorded_cfg if recorded_cfg is not None else cfg
        is_new = resume_from is None
        if begin is not None:
            run_on_rank_zero(world, partial(begin, folder, is_new=is_new))
        data = RunData(cfg)
        reporters = ReporterGroup(_reporters(recorded_cfg, folder, reporter) if world.is_rank_zero else [])
        start = _initial_model(cfg, device)
        model = ((adapt(start) if adapt is not None else None) or start.model).to(device)
        source = data.loader(start, world)
        try:
            train_cfg = cfg.train_cfg(len(data.dataset))
            hook = (evaluate or data.held_out)(start, train_cfg, world)
            if objective is None:
                objective = partial(_objective_of_settings, model, teach)
            trainer = Trainer(
                model,
                source,
                train_cfg,
                out=folder.path,
                prepare=start.prepare,
                evaluate=hook,
                reporter=reporters,
                identity={**source.identity, **recorded_cfg.identity},
                description=start.description,
                device=device,
                world=world,
                objective=objective(start, train_cfg, world),
            )
            changed = _resume_and_check(trainer, start, cfg, resume_from, reporters)
            if cfg.preflight == "only":
                outcome = FitResult(trainer.step, False, None, {})
                return RunResult(outcome, train_cfg.steps, None, is_rank_zero=world.is_rank_zero)
            run_on_rank_zero(
                world, lambda: _write_beginning(folder, recorded_cfg, train_cfg, changed, is_new=is_new)
            )
            outcome = _fit(trainer, folder)
        finally:
            source.close()
        if not outcome.interrupted:
            trainer.take_best()
            outcome = replace(outcome, evaluation=trainer.evaluation)
        with trainer.averaged():
            weights = full_state_dict(model, world)
        finished = FinishedTraining(start, model.eval(), weights, trainer.evaluation, folder, world)
        if at_end is not None and not outcome.interrupted:
            at_end(finished)
        written = run_on_rank_zero(world, lambda: _write_end(finished, outcome, train_cfg, reporters))
        skipped = {name: why for each in world.gather(source.skipped) for name, why in each.items()}
        skipped |= getattr(hook, "skipped", {})
    return RunResult(
        outcome,
        train_cfg.steps,
        written,
        skipped,
        data.dataset.left_out,
        data.dataset.not_read,
        is_rank_zero=world.is_rank_zero,
    )


def _initial_model(cfg: RunCfg, device: torch.device) -> InitialModel:
    return load_initial_model(
        None if cfg.model is None else str(cfg.model),
        None if cfg.pretrained is None else str(cfg.pretrained),
        seed=cfg.seed,
        device=device,
        image_size=cfg.image_size,
        context_length=cfg.context_length,
    )


def _objective_of_settings(
    model: nn.Module, teach: MakeTeach | None, start: InitialModel, train_cfg: TrainCfg, world: World
) -> Objective:
    """Make the objective of the settings, with a teacher if there is one."""
    teacher = teach(start, train_cfg) if teach is not None else None
    return make_objective(train_cfg, model, world, pad_id=start.prepare.pad_id, teach=teacher)


def _resume_and_check(
    trainer: Trainer, start: InitialModel, cfg: RunCfg, resume_from: Path | None, reporters: ReporterGroup
) -> list[str]:
    """Resume from a checkpoint, if there is one, and check the run; returns the settings that changed."""
    changed: list[str] = []
    if resume_from is not None:
        changed = trainer.resume(resume_from, allow_changes=cfg.allow_changes)
    if changed:
        reporters.note(f"resuming with changed settings: {'; '.join(changed)}")
    for line in preflight(trainer, start) if cfg.preflight != "off" else ():
        reporters.note(f"checked {line}")
    return changed


def _fit(trainer: Trainer, folder: RunDir) -> FitResult:
    """Train, and write the report even if the loss is not finite."""
    try:
        return trainer.fit()
    except TrainingError as error:
        if trainer.world.is_rank_zero:
            write_summary(folder, f"Stopped: {error}")
        raise


@contextmanager
def _locked_run_dir(cfg: RunCfg, world: World) -> Iterator[RunDir]:
    """Lock the folder of a run on the first process."""
    folder = RunDir(cfg.folder)
    with ExitStack() as held:
        run_on_rank_zero(world, lambda: held.enter_context(folder) and None)
        yield folder


def _write_beginning(
    folder: RunDir, cfg: RunCfg, train_cfg: TrainCfg, changed: list[str], *, is_new: bool
) -> None:
    """Write the settings and the environment."""
    folder.write_text(folder.config, repro_config_toml(cfg, train_cfg))
    before = (
        folder.environment.read_text(encoding="utf-8", errors="replace")
        if folder.environment.is_file()
        else None
    )
    folder.write_text(folder.environment, append_start(None if is_new else before, changed))


def _write_end(
    finished: FinishedTraining, outcome: FitResult, train_cfg: TrainCfg, reporters: ReporterGroup
) -> Path | None:
    """Write the model, if training finished, and the report."""
    written = None
    if not outcome.interrupted:
        written = finished.folder.write_model(finished.start, finished.state_dict)
    state = _status_line(outcome, train_cfg)
    for note in write_summary(
        finished.folder, state, finished.sections, finished.metrics or finished.evaluation
    ):
        reporters.note(note)
    return written


def _reporters(cfg: RunCfg, folder: RunDir, reporter: Reporter | None) -> list[Reporter]:
    """Make the reporters of a run. TensorBoard is optional."""
    members: list[Reporter] = [reporter] if reporter is not None else []
    if cfg.tensorboard:
        try:
            members.append(TensorBoard(folder.events))
        except MissingExtraError as error:
            ReporterGroup(members).note(f"{folder.events} was not written: {error}")
    if cfg.wandb is not None:
        members.append(WeightsAndBiases(cfg.wandb, folder.path, to_flat(cfg)))
    return members


def _status_line(outcome: FitResult, train_cfg: TrainCfg) -> str:
    if outcome.interrupted:
        return f"Interrupted after step {outcome.step} of {train_cfg.steps}; it can be resumed."
    if outcome.step < train_cfg.steps:
        done = (
            f"Stopped early after step {outcome.step} of {train_cfg.steps}: no improvement on held-out data."
        )
    else:
        done = f"All {train_cfg.steps} steps are done."
    if train_cfg.keep_best and outcome.best_step:
        done += f" The weights are those of step {outcome.best_step}, which was best on held-out data."
    return done


def find_checkpoint(out: Path, resume: str | Path | None) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises:
        ConfigError: if `out` has checkpoints and `resume` is not set.
    """
    if resume not in (None, "auto"):
        return Path(str(resume))
    latest = latest_checkpoint(out)
    if latest is not None and resume is None:
        raise ConfigError(
            f"{out} already contains a run ({latest.name}); resume it (--resume auto), or choose another folder"
        )
    return latest
