"""A `RunCfg` to a trained model in a folder: what `oneclip train` runs.

`run` is the seam for what builds on it, such as fine-tuning. It calls, in this order, if they are given:

- `begin(folder, is_new=…)`: on the first process alone, once the folder is this run's and before data is read;
- `adapt(start)`: may change `start.model` in place, or give the module to train in its stead;
- `evaluate(start, train_cfg, world)`: gives the function that evaluates during training, in place of that of
  `cfg.eval_data`;
- `teach(start, train_cfg)`: gives a function from a batch to the features of a teacher, whose similarities are learnt,
  too;
- `objective(start, train_cfg, world)`: gives what a batch and its features are trained for, in place of what the
  settings name; see `oneclip.train.Objective`;
- `at_end(ending)`: may put other weights into `ending.state_dict`, by the names of the model that
  `ending.start.cfg` describes, and add sections to the report; what is there then becomes `model/`.

Of several processes (torchrun), every one calls all but `begin`; the first alone writes.
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
from oneclip.hub.file_types import NotRead
from oneclip.train.checkpointing.checkpoint import latest_checkpoint
from oneclip.train.data.batches import Batch
from oneclip.train.data.run_data import Inputs
from oneclip.train.distributed.rank_zero import by_first, whole_weights
from oneclip.train.distributed.world import World, join
from oneclip.train.forward import Features
from oneclip.train.initial_model import Start, starting_model
from oneclip.train.loop import Evaluate, Outcome, Reporter, Trainer
from oneclip.train.objectives import Objective, make_objective
from oneclip.train.preflight import preflight
from oneclip.train.reporting.environment import added_to
from oneclip.train.reporting.html_page import Section
from oneclip.train.reporting.reporters import Reporters, TensorBoard, WeightsAndBiases
from oneclip.train.reporting.summary import write_summary
from oneclip.train.repro_config import repeatable
from oneclip.train.run_dir import RunFolder


@dataclass
class Ending:
    """A training that is done, before its model is written.

    Attributes:
        start: what it started from; `start.model` was trained in place, unless `adapt` gave another module.
        model: what was trained, in evaluation mode.
        state_dict: the weights that will be written, whole and on the CPU; perhaps only on the first process.
        evaluation: the last one.
        folder: of the run.
        world: the processes that trained.
        sections: of the report, beside those that every run has.
        figures: of `state_dict` on held-out data, where it is no longer what the last evaluation saw.
    """

    start: Start
    model: nn.Module
    state_dict: Mapping[str, Tensor]
    evaluation: Mapping[str, float]
    folder: RunFolder
    world: World
    sections: list[Section] = field(default_factory=list)
    figures: Mapping[str, float] | None = None


class Begin(Protocol):
    """See the top of this file."""

    def __call__(self, folder: RunFolder, *, is_new: bool) -> None: ...


Adapt = Callable[[Start], nn.Module | None]
MakeEvaluate = Callable[[Start, TrainCfg, World], Evaluate]
AtEnd = Callable[[Ending], None]
MakeTeach = Callable[[Start, TrainCfg], Callable[[Batch], Features]]
MakeObjective = Callable[[Start, TrainCfg, World], Objective]


@dataclass(frozen=True)
class RunResult:
    """What a training came to."""

    outcome: Outcome
    steps: int
    model: Path | None  # a folder, for `oneclip.load`; None if it was interrupted
    skipped: Mapping[str, str] = field(default_factory=dict)  # pictures that could not be used, and why
    rows_left_out: int = 0  # rows or keys of the data that lack a picture or a caption
    not_read: NotRead = field(default_factory=NotRead)  # images and videos in tars that are not read here
    is_first: bool = True  # of the processes that trained together: the one that wrote, and that prints


def run(
    cfg: RunCfg,
    reporter: Reporter | None = None,
    *,
    told: RunCfg | None = None,
    begin: Begin | None = None,
    adapt: Adapt | None = None,
    evaluate: MakeEvaluate | None = None,
    at_end: AtEnd | None = None,
    teach: MakeTeach | None = None,
    objective: MakeObjective | None = None,
) -> RunResult:
    """Train as a configuration says; all that comes of it is in `cfg.out`.

    Args:
        cfg: the run.
        reporter: told how it goes.
        told: the settings that repeat the run, if it is part of something larger.
        begin, adapt, evaluate, at_end, teach, objective: see the top of this file.

    Raises:
        DataError: for a table or pictures that cannot be used.
        ConfigError: for settings that do not go together, or a folder that holds another run.
        UnknownModelError: for an architecture or weights that do not exist.
        OutputError: if `out` cannot be written, or another run writes to it.
        TrainingError: if the loss is no longer a number.
        ClusterError: on other processes than the first, for what went wrong there.
    """
    world, device = join(cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _folder_of(cfg, world) as folder:
        resume_from = by_first(world, lambda: find_checkpoint(folder.path, cfg.resume))
        told = told if told is not None else cfg
        is_new = resume_from is None
        if begin is not None:
            by_first(world, partial(begin, folder, is_new=is_new))
        inputs = Inputs(cfg)
        reporters = Reporters(_reporters(told, folder, reporter) if world.is_first else [])
        start = starting_model(
            _text(cfg.model),
            _text(cfg.pretrained),
            seed=cfg.seed,
            device=device,
            image_size=cfg.image_size,
            context_length=cfg.context_length,
        )
        model = ((adapt(start) if adapt is not None else None) or start.model).to(device)
        source = inputs.loader(start, world)
        try:
            train_cfg = cfg.train_cfg(len(inputs.samples))
            make_hook = evaluate if evaluate is not None else inputs.held_out
            hook = make_hook(start, train_cfg, world)
            trainer = Trainer(
                model,
                source,
                train_cfg,
                out=folder.path,
                prepare=start.prepare,
                evaluate=hook,
                reporter=reporters,
                identity={**source.identity, **told.identity},
                description=start.description,
                device=device,
                world=world,
                objective=(
                    objective(start, train_cfg, world)
                    if objective is not None
                    else make_objective(
                        train_cfg,
                        model,
                        world,
                        pad_id=start.prepare.pad_id,
                        teach=teach(start, train_cfg) if teach is not None else None,
                    )
                ),
            )
            changed: list[str] = []
            if resume_from is not None:
                changed = trainer.resume(resume_from, allow_changes=cfg.allow_changes)
                if changed:
                    reporters.note(f"going on with other settings: {'; '.join(changed)}")
            for line in preflight(trainer, start) if cfg.preflight != "off" else ():
                reporters.note(f"checked {line}")
            if cfg.preflight == "only":
                outcome = Outcome(trainer.step, False, None, {})
                return RunResult(outcome, train_cfg.steps, None, is_first=world.is_first)
            by_first(world, lambda: _write_beginning(folder, told, train_cfg, changed, is_new=is_new))
            outcome = _fit(trainer, folder)
        finally:
            source.close()
        if not outcome.interrupted:
            trainer.take_best()
            outcome = replace(outcome, evaluation=trainer.evaluation)
        with trainer.averaged():
            weights = whole_weights(model, world)
        ending = Ending(start, model.eval(), weights, trainer.evaluation, folder, world)
        if at_end is not None and not outcome.interrupted:
            at_end(ending)
        written = by_first(world, lambda: _write_end(ending, outcome, train_cfg, reporters))
        skipped = {name: why for each in world.gather(source.skipped) for name, why in each.items()}
        skipped |= getattr(hook, "skipped", {})
    return RunResult(
        outcome,
        train_cfg.steps,
        written,
        skipped,
        inputs.samples.left_out,
        inputs.samples.not_read,
        is_first=world.is_first,
    )


def _fit(trainer: Trainer, folder: RunFolder) -> Outcome:
    """Train; what was measured before a loss that is no number is drawn all the same."""
    try:
        return trainer.fit()
    except TrainingError as error:
        if trainer.world.is_first:
            write_summary(folder, f"Stopped: {error}")
        raise


@contextmanager
def _folder_of(cfg: RunCfg, world: World) -> Iterator[RunFolder]:
    """The folder of a run, which the first of its processes holds for all."""
    folder = RunFolder(cfg.folder)
    with ExitStack() as held:
        by_first(world, lambda: held.enter_context(folder) and None)
        yield folder


def _write_beginning(
    folder: RunFolder, cfg: RunCfg, train_cfg: TrainCfg, changed: list[str], *, is_new: bool
) -> None:
    """What the run was told, and what it runs on."""
    folder.write_text(folder.config, repeatable(cfg, train_cfg))
    before = (
        folder.environment.read_text(encoding="utf-8", errors="replace")
        if folder.environment.is_file()
        else None
    )
    folder.write_text(folder.environment, added_to(None if is_new else before, changed))


def _write_end(ending: Ending, outcome: Outcome, train_cfg: TrainCfg, reporters: Reporters) -> Path | None:
    """The model, if all steps are done, and what is to be told of them."""
    written = None
    if not outcome.interrupted:
        written = ending.folder.write_model(ending.start, ending.state_dict)
    state = _state(outcome, train_cfg)
    for note in write_summary(ending.folder, state, ending.sections, ending.figures or ending.evaluation):
        reporters.note(note)
    return written


def _reporters(cfg: RunCfg, folder: RunFolder, reporter: Reporter | None) -> list[Reporter]:
    """Whom a run reports to. What was not asked for by name may be missing."""
    members: list[Reporter] = [reporter] if reporter is not None else []
    if cfg.tensorboard:
        try:
            members.append(TensorBoard(folder.events))
        except MissingExtraError as error:
            Reporters(members).note(f"{folder.events} is not written. {error}")
    if cfg.wandb is not None:
        members.append(WeightsAndBiases(cfg.wandb, folder.path, to_flat(cfg)))
    return members


def _state(outcome: Outcome, train_cfg: TrainCfg) -> str:
    if outcome.interrupted:
        return f"Interrupted after step {outcome.step} of {train_cfg.steps}; it can be gone on with."
    if outcome.step < train_cfg.steps:
        done = f"Stopped early after step {outcome.step} of {train_cfg.steps}: held-out data no longer got better."
    else:
        done = f"All {train_cfg.steps} steps are done."
    if train_cfg.keep_best and outcome.best_step:
        done += f" The weights are those of step {outcome.best_step}, the best on held-out data."
    return done


def find_checkpoint(out: Path, resume: str | Path | None) -> Path | None:
    """The checkpoint to go on from, if any.

    Raises:
        ConfigError: if `out` has checkpoints and nothing says that they may be gone on from.
    """
    if resume not in (None, "auto"):
        return Path(str(resume))
    latest = latest_checkpoint(out)
    if latest is not None and resume is None:
        raise ConfigError(
            f"{out} holds a run already ({latest.name}); go on with it by resume=auto (--resume auto), "
            "or choose another folder"
        )
    return latest


def _text(value: str | Path | None) -> str | None:
    return None if value is None else str(value)
