"""A training that is killed at any moment loses the steps since its last checkpoint, and leaves none half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.ranks import ROOT
from tests.train.kills import EVERY

KILLS, SIZES = 5, (1, 2)  # of trainings of so many processes
Killed = tuple[Path, dict[str, list[list[int]]]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("killed")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = [sys.executable, "-W", "ignore", "-m", "tests.train.kills", folder, KILLS, *SIZES]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [str(word) for word in script], env=environment, check=True, timeout=300, stdout=subprocess.PIPE
    )
    return folder, json.loads(ended.stdout.splitlines()[-1])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("size", SIZES)
def test_no_more_is_lost_than_the_steps_since_a_checkpoint_and_the_one_being_written(
    killed: Killed, size: int
) -> None:
    kills = killed[1][str(size)]
    assert kills[-1][0] > 0
    assert max(done - kept for done, kept in kills) <= 2 * EVERY


@pytest.mark.parametrize("size", SIZES)
def test_the_losses_after_all_kills_are_those_of_an_unbroken_run(killed: Killed, size: int) -> None:
    folder, _ = killed
    after = losses(folder / str(size))
    assert after == pytest.approx(losses(folder / "unbroken")[: len(after)], rel=1e-5)
