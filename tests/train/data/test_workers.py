"""Worker processes that prefetch batches."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tars import members, write_tar

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError, DataError
from oneclip.image import Augment
from oneclip.train.data import BatchLoader, PairDataset, WebDataset
from tests import programs


@pytest.fixture
def samples(tmp_path: Path) -> PairDataset:
    files = members(12)
    files["0003.png"] = b"not an image"
    return WebDataset(str(write_tar(tmp_path / "a.tar", files)))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers from a process that has imported torch; `PROGRAM` below spawns them, as users do."""
    monkeypatch.setattr("oneclip.train.data.workers.get_context", lambda _method: programs.FORKS)


@pytest.mark.usefixtures("forked")
def test_processes_read_the_same_batches_as_threads(samples: PairDataset) -> None:
    source = BatchLoader(samples, 4, Augment(PreprocessCfg(size=8)), workers=2, threads=1)
    alone = BatchLoader(samples, 4, Augment(PreprocessCfg(size=8)), threads=1)
    for step in (0, 1, 2, 3, 40, 41, 7):
        theirs, ours = source.batch(step), alone.batch(step)
        assert theirs.texts == ours.texts
        assert torch.equal(theirs.images, ours.images)
    assert source.skipped == alone.skipped != {}
    source.close()


@pytest.mark.usefixtures("forked")
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_a_killed_worker_raises(samples: PairDataset) -> None:
    source = BatchLoader(samples, 4, Augment(PreprocessCfg(size=8)), workers=1, threads=1)
    source.batch(0)
    for process in source._workers._pool._processes.values():  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a worker process died"):
        [source.batch(step) for step in range(1, 10)]
    source.close()


PROGRAM = """
import os, sys, time
from oneclip.image import Augment
from oneclip.train.data import BatchLoader, SyntheticDataset

if __name__ == "__main__":
    os.setsid()
    source = BatchLoader(SyntheticDataset(100), 4, Augment(), workers=1, threads=1)
    source.batch(0)
    try:
        print(*source._workers._pool._processes, flush=True)  # Ctrl-C may come right after
        time.sleep(60)
    except KeyboardInterrupt:
        print(len(source.batch(1).images), flush=True)
        source.close()
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_workers_survive_ctrl_c_but_not_the_end_of_the_training(tmp_path: Path, kill: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    training, printed = programs.begin([script])
    with printed:
        worker = int(printed.readline())
        if kill == signal.SIGINT:
            os.killpg(training.pid, kill)  # as a terminal does
            assert printed.readline() == "4\n"
        else:
            training.kill()
        training.join(60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and is_running(worker):
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_transform_that_cannot_be_pickled_raises(samples: PairDataset) -> None:
    source = BatchLoader(samples, 4, lambda image, seed: torch.zeros(3, 8, 8), workers=1, threads=1)
    with pytest.raises(ConfigError, match="use workers=0"):
        source.batch(0)
    source.close()
