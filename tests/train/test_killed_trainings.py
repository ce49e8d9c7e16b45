"""A killed training loses only the steps since its last checkpoint, and leaves no damaged checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from tests import programs
from tests.train.kills import EVERY

KILLS, SIZES = 5, (1, 2)  # kills per training, numbers of processes
Killed = tuple[Path, dict[str, list[list[int]]]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("killed")
    done = programs.run(["-m", "tests.train.kills", folder, KILLS, *SIZES])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("size", SIZES)
def test_only_the_steps_since_the_last_checkpoints_are_lost(killed: Killed, size: int) -> None:
    kills = killed[1][str(size)]
    assert kills[-1][0] > 0
    assert max(done - kept for done, kept in kills) <= 2 * EVERY


@pytest.mark.parametrize("size", SIZES)
def test_the_losses_after_all_kills_equal_those_of_an_unbroken_run(killed: Killed, size: int) -> None:
    folder, _ = killed
    after = losses(folder / str(size))
    assert after == pytest.approx(losses(folder / "unbroken")[: len(after)], rel=1e-5)
