"""Ctrl-C during a training saves a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from interrupted import trainer
from tiny_clip import Pairs, TinyCLIP
from torch import nn

from oneclip.train import TrainCfg, Trainer
from oneclip.train.interrupt import Interrupt
from tests import programs


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_training_resumed_after_ctrl_c_has_the_losses_of_an_unbroken_run(tmp_path: Path) -> None:
    script = Path(__file__).with_name("interrupted.py")
    process, printed = programs.begin([script, tmp_path / "a"])
    with printed:
        for line in printed:
            if line == "step 5\n":
                os.kill(process.pid, signal.SIGINT)
                break
        last = printed.read().splitlines()[-1].split()
    process.join()
    assert last[0] == "interrupted"
    assert process.exitcode == 0
    step = int(last[1])
    assert 5 <= step < 120
    assert last[2] == str(tmp_path / "a" / f"step_{step}.pt")

    resumed, unbroken = trainer(tmp_path / "a"), trainer(tmp_path / "b")
    resumed.resume(tmp_path / "a")
    resumed.fit(until=step + 5)
    unbroken.fit(until=step + 5)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_ends_an_evaluation_at_once_and_saves(run: Path) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    cfg = TrainCfg(steps=9, evaluate_every=4)
    outcome = Trainer(TinyCLIP(), Pairs(), cfg, out=run, evaluate=evaluate).fit()
    assert outcome.interrupted
    assert outcome.checkpoint == run / "step_4.pt"


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_second_ctrl_c_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_off_the_main_thread_training_runs_without_signals() -> None:
    outcomes = []
    thread = threading.Thread(
        target=lambda: outcomes.append(Trainer(TinyCLIP(), Pairs(), TrainCfg(steps=2)).fit())
    )
    thread.start()
    thread.join()
    assert outcomes[0].step == 2
