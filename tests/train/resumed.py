"""Trainings that resume with other numbers of processes. Run by test_resume_ranks.py: `resumed.py FOLDER`.

Writes to the folder: metrics of each run, and the report of each rank in `CASE, rank N.json`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import OneCLIPError
from oneclip.train import Trainer, TrainingReport, World, latest_checkpoint
from tests.train import forked
from tests.train.together import TEXT, VISION, Case, make_trainer, tiny_model

STRATEGIES = ("ddp", "fsdp")
PLAN = ((2, 3), (4, 6), (1, 8), (2, 10))  # (number of processes, last step); an epoch has four steps
CFG = ModelCfg(32, CLIPVisionCfg.from_dict(VISION), CLIPTextCfg.from_dict(TEXT))
SETTINGS: dict[str, Any] = {"log_every": 1, "steps_per_epoch": 4, "keep_checkpoints": 0}


def trainer(world: World, out: Path, strategy: str = "ddp", **settings: Any) -> Trainer:
    made = make_trainer(Case(), world, out, strategy=strategy, **SETTINGS | settings)
    made.description = {
        "model_cfg": CFG.to_dict(),
        "preprocess_cfg": PreprocessCfg(size=16).to_dict(),
    }
    return made


def resume_and_train(out: Path, strategy: str, until: int, world: World) -> None:
    made = trainer(world, out, strategy)
    if latest_checkpoint(out) is not None:
        made.resume(out)
    made.fit(until)


def write_report(folder: Path, case: str, work: Callable[[World], Any], world: World) -> None:
    """Write the result of a rank, or its error."""
    try:
        report = {"result": work(world)}
    except OneCLIPError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    (folder / f"{case}, rank {world.rank}.json").write_text(json.dumps(report))


def resume_other_model(checkpoint: Path, world: World) -> None:
    torch.manual_seed(0)
    made = make_trainer(Case(), world)
    Trainer(tiny_model("clip", width=48), made.source, made.cfg, world=world).resume(checkpoint)


def resume_other_parameters(checkpoint: Path, world: World) -> None:
    made = make_trainer(Case(), world)
    for parameter in made.model.visual.parameters():
        parameter.requires_grad_(False)
    Trainer(made.model, made.source, made.cfg, world=world).resume(checkpoint)


def blocked_folder(out: Path, world: World) -> None:
    """Let a file block the folder that rank 0 writes to."""
    if world.is_rank_zero:
        out.mkdir()
        (out / "step_2.part").write_text("a file")
    trainer(world, out, checkpoint_every=2).fit(4)


def full_disk(out: Path, world: World) -> dict[str, Any]:
    """Fill the disk of the last rank after a first checkpoint."""
    made = trainer(world, out, "fsdp", checkpoint_every=2, steps_per_epoch=0)
    made.fit(2)
    if not world.is_rank_zero:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        made.fit(4)
        message = ""
    except OSError as error:
        message = str(error)
    return {"message": message, "there": sorted(path.name for path in out.glob("step_*"))}


class WaitingReporter:
    """Reporter that blocks the training after step 3 until the checkpoint of step 2 is finished."""

    is_finished = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, step: int, steps: int) -> None: ...

    def update(self, report: TrainingReport) -> None:
        until = time.monotonic() + 20
        while report.step == 3 and not self.is_finished and time.monotonic() < until:
            self.is_finished = self.path.is_dir()
            time.sleep(0.01)

    def evaluated(self, step: int, results: Any) -> None: ...

    def stop(self) -> None: ...


def finished_in_background(out: Path, world: World) -> bool:
    made = trainer(world, out, checkpoint_every=2)
    made.reporter = waiting = WaitingReporter(out / "step_2")
    made.fit(4)
    return waiting.is_finished


def averages(folder: Path, world: World) -> dict[str, float]:
    """Return the largest difference between restored and written averages, of a folder and of a file."""
    differences = {}
    for strategy in STRATEGIES:
        made = trainer(world, folder / strategy, strategy)
        average = {name: p.detach() + 1 for name, p in made.model.named_parameters()}
        path = folder / f"averages of {world.size}, {strategy}" / "step_1"
        written = made.checkpointer.write(
            path, made.checkpointer.tensors() | {"ema": average}, made.metadata()
        )
        made.checkpointer.finish()
        again = {name: torch.zeros_like(tensor) for name, tensor in average.items()}
        made.checkpointer.read(written, also={"ema": again})
        differences[strategy] = max(
            float((again[name] - average[name]).abs().max().item()) for name in average
        )
    return differences


def main(folder: Path) -> None:
    forked.run(1, partial(resume_and_train, folder / "unbroken", "ddp", 10))
    for strategy in STRATEGIES:
        for size, until in PLAN:
            forked.run(size, partial(resume_and_train, folder / strategy, strategy, until))
    works: dict[str, Callable[[World], Any]] = {
        "blocked folder": partial(blocked_folder, folder / "blocked folder"),
        "full disk": partial(full_disk, folder / "full disk"),
        "finished in the background": partial(finished_in_background, folder / "background"),
        "averages": partial(averages, folder),
    }
    for name in ("step_6", "epoch_2.pt"):
        works[f"other model, {name}"] = partial(resume_other_model, folder / "fsdp" / name)
        works[f"other parameters, {name}"] = partial(resume_other_parameters, folder / "fsdp" / name)
    forked.run(2, partial(_all, folder, works))
    forked.run(1, partial(write_report, folder, "averages of one", works["averages"]))


def _all(folder: Path, works: dict[str, Callable[[World], Any]], world: World) -> None:
    # the case that limits the file size of a rank comes last
    for case in sorted(works, key=lambda case: case == "full disk"):
        write_report(folder, case, works[case], world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
