"""A `RunCfg` to a trained model in a folder: what `oneclip train` runs.

`run` is the seam for what builds on it, such as fine-tuning. It calls, in this order, if they are given:

- `adapt(start)`: may change `start.model` in place, or give the module to train in its stead;
- `evaluate(start)`: gives the function that evaluates during training, in place of the held-out table's;
- `teach(start)`: gives a function from a batch to the features of a teacher, whose similarities are learnt, too;
- `at_end(ending)`: may put other weights into `ending.state_dict`, by the names of the model that
  `ending.start.cfg` describes, and add sections to the report; what is there then becomes `model/`.

Of several processes (torchrun), every one calls the first three, and the first alone `at_end`; it alone writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError, MissingExtraError, TrainingError
from oneclip.train.batches import Batch
from oneclip.train.checkpoints import latest_checkpoint
from oneclip.train.collective import by_first, whole_weights
from oneclip.train.config import TrainCfg
from oneclip.train.distributed import World, join
from oneclip.train.environment import added_to
from oneclip.train.flat import to_flat
from oneclip.train.folder import RunFolder
from oneclip.train.inputs import Inputs
from oneclip.train.loop import Evaluate, Outcome, Reporter, Trainer
from oneclip.train.objectives import make_objective
from oneclip.train.preflight import preflight
from oneclip.train.repeat import repeatable
from oneclip.train.report import Section
from oneclip.train.reporters import Reporters, TensorBoard, WeightsAndBiases
from oneclip.train.settings import RunCfg
from oneclip.train.start import Start, starting_model
from oneclip.train.summary import write_summary
from oneclip.train.towers import Features


@dataclass
class Ending:
    """A training that is done, before its model is written.

    Attributes:
        start: what it started from; `start.model` was trained in place, unless `adapt` gave another module.
        model: what was trained, in evaluation mode.
        state_dict: the weights that will be written, whole and on the CPU.
        evaluation: the last one.
        folder: of the run.
        sections: of the report, beside those that every run has.
    """

    start: Start
    model: nn.Module
    state_dict: Mapping[str, Tensor]
    evaluation: Mapping[str, float]
    folder: RunFolder
    sections: list[Section] = field(default_factory=list)


Adapt = Callable[[Start], nn.Module | None]
MakeEvaluate = Callable[[Start], Evaluate]
AtEnd = Callable[[Ending], None]
MakeTeach = Callable[[Start], Callable[[Batch], Features]]


@dataclass(frozen=True)
class RunResult:
    """What a training came to."""

    outcome: Outcome
    steps: int
    model: Path | None  # a folder, for `oneclip.load`; None if it was interrupted
    skipped: Mapping[str, str] = field(default_factory=dict)  # pictures that could not be used, and why
    rows_left_out: int = 0  # rows or keys of the data that lack a picture or a caption
    is_first: bool = True  # of the processes that trained together: the one that wrote, and that prints


def run(
    cfg: RunCfg,
    reporter: Reporter | None = None,
    *,
    adapt: Adapt | None = None,
    evaluate: MakeEvaluate | None = None,
    at_end: AtEnd | None = None,
    teach: MakeTeach | None = None,
) -> RunResult:
    """Train as a configuration says; all that comes of it is in `cfg.out`.

    Args:
        cfg: the run.
        reporter: told how it goes.
        adapt, evaluate, at_end, teach: see the top of this file.

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
        inputs = Inputs(cfg)
        reporters = Reporters(_reporters(cfg, folder, reporter) if world.is_first else [])
        start = starting_model(_text(cfg.model), _text(cfg.pretrained), seed=cfg.seed, device=device)
        model = ((adapt(start) if adapt is not None else None) or start.model).to(device)
        source = inputs.loader(start, world)
        try:
            train_cfg = cfg.train_cfg(source.batches_per_epoch // max(1, cfg.train.get("accumulate", 1)) or 1)
            held_out = inputs.held_out(start, train_cfg) if evaluate is None else None
            trainer = Trainer(
                model,
                source,
                train_cfg,
                out=folder.path,
                prepare=start.prepare,
                evaluate=evaluate(start) if evaluate is not None else held_out,
                reporter=reporters,
                identity=source.identity,
                description=start.description,
                device=device,
                world=world,
                objective=make_objective(
                    train_cfg,
                    model,
                    world,
                    pad_id=start.prepare.pad_id,
                    teach=teach(start) if teach is not None else None,
                ),
            )
            if resume_from is not None:
                trainer.resume(resume_from)
            for line in preflight(trainer, start) if cfg.preflight != "off" else ():
                reporters.note(f"checked {line}")
            if cfg.preflight == "only":
                outcome = Outcome(trainer.step, False, None, {})
                return RunResult(outcome, train_cfg.steps, None, is_first=world.is_first)
            is_new = resume_from is None
            by_first(world, lambda: _write_beginning(folder, cfg, train_cfg, is_new=is_new))
            outcome = _fit(trainer, folder)
        finally:
            source.close()
        with trainer.averaged():
            weights = whole_weights(model, world)
        ending = Ending(start, model.eval(), weights, outcome.evaluation, folder)
        written = by_first(world, lambda: _write_end(ending, outcome, train_cfg, at_end, reporters))
        skipped = source.skipped | (held_out.skipped if held_out is not None else {})
    return RunResult(
        outcome,
        train_cfg.steps,
        written,
        skipped,
        inputs.samples.left_out,
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


def _write_beginning(folder: RunFolder, cfg: RunCfg, train_cfg: TrainCfg, *, is_new: bool) -> None:
    """What the run was told, and what it runs on."""
    folder.write_text(folder.config, repeatable(cfg, train_cfg))
    before = (
        folder.environment.read_text(encoding="utf-8", errors="replace")
        if folder.environment.is_file()
        else None
    )
    folder.write_text(folder.environment, added_to(None if is_new else before))


def _write_end(
    ending: Ending, outcome: Outcome, train_cfg: TrainCfg, at_end: AtEnd | None, reporters: Reporters
) -> Path | None:
    """The model, if all steps are done, and what is to be told of them."""
    written = None
    if not outcome.interrupted:
        if at_end is not None:
            at_end(ending)
        written = ending.folder.write_model(ending.start, ending.state_dict)
    for note in write_summary(ending.folder, _state(outcome, train_cfg), ending.sections):
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
    return f"All {train_cfg.steps} steps are done."


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
