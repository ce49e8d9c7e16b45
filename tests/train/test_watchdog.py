"""A stalled training ends and reports what every rank was doing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from oneclip.train.distributed.heartbeat import Heartbeat, HeartbeatDir, stall_message
from oneclip.train.distributed.watchdog import STALL_EXIT_CODE, Watchdog
from tests import programs
from tests.ranks import start_ranks

SCRIPT = Path(__file__).with_name("stalling.py")


def heartbeat(rank: int, phase: str = "backward", step: int = 5, **changes: object) -> Heartbeat:
    return Heartbeat(
        **{"rank": rank, "count": 1, "phase": phase, "step": step, "seconds": 7.0, "is_overdue": True}
        | changes
    )


def test_two_ranks_end_when_one_waits_for_data_that_never_comes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    processes = start_ranks(2, [SCRIPT, "data", tmp_path], timeout=60)
    assert [process.exitcode for process in processes] == [STALL_EXIT_CODE, STALL_EXIT_CODE]
    stalled, waiting = ((tmp_path / f"stalled-rank-{rank}.txt").read_text() for rank in (1, 0))
    for text in (stalled, waiting, capfd.readouterr().err):
        assert "furthest behind is rank 1 (waiting for data, after step 3" in text
        assert "rank 0: backward, after step 3" in text
    assert "time.sleep(60)" in stalled
    assert "all_reduce" in waiting


def test_a_frozen_rank_is_named_by_the_others(tmp_path: Path) -> None:
    processes = start_ranks(2, [SCRIPT, "frozen", tmp_path], timeout=60)
    assert processes[0].exitcode == STALL_EXIT_CODE
    text = (tmp_path / "stalled-rank-0.txt").read_text()
    assert "furthest behind is rank 1" in text
    assert "no heartbeat for" in text


def test_ranks_wait_for_one_that_evaluates_for_longer_than_a_step_may_take(tmp_path: Path) -> None:
    processes = start_ranks(2, [SCRIPT, "evaluates", tmp_path], timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.glob("stalled*"))


def test_a_rank_that_went_on_while_it_read_the_heartbeats_has_not_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchdog = Watchdog(tmp_path, rank=0, world_size=2, stall_seconds=60)
    watchdog._has_started, watchdog._last_progress = True, time.monotonic() - 61

    def read(directory: HeartbeatDir, own: Heartbeat) -> list[Heartbeat]:
        watchdog.step_done(6)
        return [own, heartbeat(1, "between steps", 6, is_overdue=False, exit_reason="done")]

    monkeypatch.setattr(HeartbeatDir, "read", read)
    assert watchdog._heartbeat(1).is_overdue
    assert watchdog._check(1) is None


def test_a_single_process_ends_too(tmp_path: Path) -> None:
    before = time.monotonic()
    done = programs.run([SCRIPT, "data", tmp_path], timeout=60)
    assert done.returncode == STALL_EXIT_CODE
    assert "rank 0: waiting for data, after step 3" in done.stderr
    assert "time.sleep(60)" in (tmp_path / "stalled-rank-0.txt").read_text()
    assert time.monotonic() - before < 50


def test_a_training_that_makes_progress_leaves_no_files(tmp_path: Path) -> None:
    messages: list[str] = []
    with Watchdog(tmp_path, stall_seconds=0.3, on_stall=messages.append) as watchdog:
        for step in range(20):
            with watchdog.phase("forward", step):
                time.sleep(0.05)
            watchdog.step_done(step + 1)
    assert (messages, list(tmp_path.iterdir())) == ([], [])


def test_zero_seconds_disable_the_watchdog(tmp_path: Path) -> None:
    with Watchdog(tmp_path, stall_seconds=0) as watchdog, watchdog.phase("forward", 0):
        assert watchdog._thread is None


def test_an_error_of_the_training_passes_through(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        Watchdog(tmp_path) as watchdog,
        watchdog.phase("forward", 0),
    ):
        raise ValueError("broken")


@pytest.mark.parametrize(
    ("heartbeats", "named"),
    [
        (
            [heartbeat(0), heartbeat(1, "waiting for data"), heartbeat(2, "forward")],
            "rank 1 (waiting for data",
        ),
        ([heartbeat(0, "waiting for data", 6), heartbeat(1, "optimizer", 5)], "rank 1 (optimizer"),
        ([heartbeat(0, "waiting for data"), heartbeat(1, "evaluation")], "rank 1 (evaluation"),
        (
            [heartbeat(0, "waiting for data"), heartbeat(1, exit_reason="ended by OSError: full")],
            "rank 1 (ended by OSError: full",
        ),
        ([heartbeat(0, "waiting for data"), heartbeat(1, step=9, silent_seconds=99.0)], "rank 1 (backward"),
        ([heartbeat(0), heartbeat(1, "forward"), heartbeat(2, "forward")], "rank 1, 2 (forward"),
        ([heartbeat(0), heartbeat(1)], "all ranks are at the same place"),
    ],
)
def test_the_message_names_who_is_furthest_behind(heartbeats: list[Heartbeat], named: str) -> None:
    assert named in stall_message(heartbeats, 10.0, None).splitlines()[0]


def test_a_message_of_many_ranks_is_short() -> None:
    lines = stall_message([heartbeat(rank, step=rank) for rank in range(500)], 10.0, None).splitlines()
    assert len(lines) < 20
    assert "and 484 ranks that are further ahead" in lines[-2]


def test_all_ranks_report_the_message_of_the_first_one(tmp_path: Path) -> None:
    dirs = [HeartbeatDir(tmp_path / "heartbeats", rank, 2) for rank in range(2)]
    for one in dirs:
        one.clear()
    assert dirs[1].report_stall("rank 0 is slow") == "rank 0 is slow"
    assert dirs[0].report_stall("rank 1 is slow") == "rank 0 is slow"
    dirs[0].clear()
    assert dirs[0].stall_report() is None
