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

KILLS = {1: 5, 2: 5}  # by the number of processes
Killed = tuple[Path, list[list[int]]]


@pytest.fixture(scope="module", params=KILLS, ids=["one process", "two processes"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    size: int = request.param
    if size > 1 and not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this build of torch has no gloo")
    out = tmp_path_factory.mktemp("killed") / "run"
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    script = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.train.kills",
        str(out),
        str(size),
        str(KILLS[size]),
    ]
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(script, env=environment, check=True, timeout=300, stdout=subprocess.PIPE)
    return out, json.loads(ended.stdout.splitlines()[-1])


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_no_more_is_lost_than_the_steps_since_a_checkpoint_and_the_one_being_written(killed: Killed) -> None:
    _, kills = killed
    assert kills[-1][0] > 0
    assert max(done - kept for done, kept in kills) <= 2 * EVERY


def test_the_losses_after_all_kills_are_those_of_an_unbroken_run(killed: Killed) -> None:
    out, _ = killed
    unbroken = losses(out.with_name("unbroken"))
    assert losses(out) == pytest.approx(unbroken, rel=1e-5)
