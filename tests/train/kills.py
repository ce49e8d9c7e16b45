"""Trainings that are killed repeatedly. Run by test_killed_trainings.py: `kills.py FOLDER KILLS PROCESSES...`.

Prints JSON: for each number of processes, a pair per kill with the finished steps and the steps of the latest
checkpoint.
"""

from __future__ import annotations

import json
import random
import sys
import time
from functools import partial
from pathlib import Path

from oneclip.checkpoint.readers.read import read
from oneclip.train import Batch, TrainCfg, World, latest_checkpoint
from oneclip.train.checkpointing.checkpoint import checkpoint_step
from tests.train import forked
from tests.train.together import Case, Share, make_trainer

EVERY, STEPS, STEP_SECONDS = 2, 200, 0.02


class SlowShare(Share):
    """Batches that take some time, so that a kill can hit any moment of a step."""

    def batch(self, step: int) -> Batch:
        time.sleep(STEP_SECONDS)
        return super().batch(step)


def train(out: Path, until: int, world: World) -> None:
    trainer = make_trainer(
        Case(), world, out, steps=STEPS, checkpoint_every=EVERY, log_every=1, keep_checkpoints=2
    )
    assert isinstance(trainer.cfg, TrainCfg)
    trainer.source = SlowShare(world)
    if out.is_dir() and latest_checkpoint(out) is not None:
        trainer.resume(out)
    trainer.fit(until)


def kill(out: Path, size: int, rng: random.Random) -> tuple[int, int]:
    """Train for some steps, then kill all processes at a random moment."""
    start = steps_done(out)
    processes, _store = forked.start(size, partial(train, out, STEPS))
    wanted, patience = start + rng.randint(2, 6), time.monotonic() + 60
    while steps_done(out) < wanted and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 2 * STEP_SECONDS))
    for process in rng.sample(processes, len(processes)):
        process.kill()
    for process in processes:
        process.join()
    latest = latest_checkpoint(out)
    if latest is not None:
        read(latest)  # raises if the checkpoint is damaged
    return steps_done(out), checkpoint_step(latest) if latest is not None else 0


def steps_done(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return max([json.loads(line)["step"] for line in lines if line.endswith("}")], default=0)


def main(folder: Path, kills: int, sizes: list[int]) -> None:
    seen = {}
    for size in sizes:
        out, rng = folder / str(size), random.Random(size)
        seen[size] = [kill(out, size, rng) for _ in range(kills)]
        forked.run(size, partial(train, out, steps_done(out) + 2))
    most = max(steps_done(folder / str(size)) for size in sizes)
    forked.run(1, partial(train, folder / "unbroken", most))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(size) for size in sys.argv[3:]])
