"""A training slow enough to be interrupted. Run by test_interrupt.py: `interrupted.py FOLDER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from tiny_clip import Pairs, TinyCLIP

from oneclip.train import Batch, TrainCfg, Trainer, TrainingReport


class SlowPairs(Pairs):
    def batch(self, step: int) -> Batch:
        time.sleep(0.02)
        return super().batch(step)


class PrintingReporter:
    """Reporter that prints steps, so that the parent knows when the training is running."""

    def start(self, step: int, steps: int) -> None: ...

    def update(self, report: TrainingReport) -> None:
        print("step", report.step, flush=True)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None: ...

    def stop(self) -> None: ...


def trainer(out: Path, steps: int = 120) -> Trainer:
    torch.manual_seed(0)
    cfg = TrainCfg(steps=steps, lr=1e-2, warmup=3, log_every=1)
    return Trainer(TinyCLIP(), SlowPairs(), cfg, out=out, reporter=PrintingReporter())


if __name__ == "__main__":
    torch.set_num_threads(1)
    outcome = trainer(Path(sys.argv[1])).fit()
    print("interrupted" if outcome.interrupted else "done", outcome.step, outcome.checkpoint, flush=True)
