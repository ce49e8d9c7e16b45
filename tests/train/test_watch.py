"""A training that no longer goes on ends, and says what every rank was doing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from oneclip.train.distributed.heartbeat import Board, Post, stall_message
from oneclip.train.distributed.watchdog import STALLED, Watchdog
from tests import programs
from tests.ranks import start_ranks

SCRIPT = Path(__file__).with_name("stalling.py")


def post(rank: int, phase: str = "backward", step: int = 5, **changes: object) -> Post:
    return Post(
        **{"rank": rank, "beat": 1, "phase": phase, "step": step, "seconds": 7.0, "is_overdue": True}
        | changes
    )


def test_two_ranks_end_when_one_waits_for_data_that_never_comes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    processes = start_ranks(2, [SCRIPT, "data", tmp_path], timeout=60)
    assert [process.exitcode for process in processes] == [STALLED, STALLED]
    stalled, waiting = ((tmp_path / f"stalled-rank-{rank}.txt").read_text() for rank in (1, 0))
    for text in (stalled, waiting, capfd.readouterr().err):
        assert "furthest behind is rank 1 (waiting for data, after step 3" in text
        assert "rank 0: backward, after step 3" in text
    assert "time.sleep(60)" in stalled
    assert "all_reduce" in waiting


def test_a_rank_that_is_frozen_is_named_by_the_others(tmp_path: Path) -> None:
    processes = start_ranks(2, [SCRIPT, "frozen", tmp_path], timeout=60)
    assert processes[0].exitcode == STALLED
    text = (tmp_path / "stalled-rank-0.txt").read_text()
    assert "furthest behind is rank 1" in text
    assert "no sign of life" in text


def test_ranks_wait_for_one_that_evaluates_for_longer_than_a_step_may_take(tmp_path: Path) -> None:
    processes = start_ranks(2, [SCRIPT, "evaluates", tmp_path], timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.glob("stalled*"))


def test_a_process_alone_ends_too(tmp_path: Path) -> None:
    before = time.monotonic()
    done = programs.run([SCRIPT, "data", tmp_path], timeout=60)
    assert done.returncode == STALLED
    assert "rank 0: waiting for data, after step 3" in done.stderr
    assert "time.sleep(60)" in (tmp_path / "stalled-rank-0.txt").read_text()
    assert time.monotonic() - before < 50


def test_a_run_that_goes_on_leaves_nothing_behind(tmp_path: Path) -> None:
    told: list[str] = []
    with Watchdog(tmp_path, stall_seconds=0.3, tell=told.append) as watchdog:
        for step in range(20):
            with watchdog.doing("forward", step):
                time.sleep(0.05)
            watchdog.stepped(step + 1)
    assert (told, list(tmp_path.iterdir())) == ([], [])


def test_zero_seconds_switch_it_off(tmp_path: Path) -> None:
    with Watchdog(tmp_path, stall_seconds=0) as watchdog, watchdog.doing("forward", 0):
        assert watchdog._thread is None


def test_an_error_goes_through(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        Watchdog(tmp_path) as watchdog,
        watchdog.doing("forward", 0),
    ):
        raise ValueError("broken")


@pytest.mark.parametrize(
    ("posts", "named"),
    [
        ([post(0), post(1, "waiting for data"), post(2, "forward")], "rank 1 (waiting for data"),
        ([post(0, "waiting for data", 6), post(1, "optimizer", 5)], "rank 1 (optimizer"),
        ([post(0, "waiting for data"), post(1, "evaluation")], "rank 1 (evaluation"),
        (
            [post(0, "waiting for data"), post(1, ended="ended by OSError: full")],
            "rank 1 (ended by OSError: full",
        ),
        ([post(0, "waiting for data"), post(1, step=9, silent=99.0)], "rank 1 (backward"),
        ([post(0), post(1, "forward"), post(2, "forward")], "rank 1, 2 (forward"),
        ([post(0), post(1)], "all ranks are at the same place"),
    ],
)
def test_the_message_names_who_is_furthest_behind(posts: list[Post], named: str) -> None:
    assert named in stall_message(posts, 10.0, None).splitlines()[0]


def test_a_message_of_many_ranks_is_short() -> None:
    lines = stall_message([post(rank, step=rank) for rank in range(500)], 10.0, None).splitlines()
    assert len(lines) < 20
    assert "and 484 ranks further on" in lines[-2]


def test_the_first_rank_to_find_a_stall_speaks_for_all(tmp_path: Path) -> None:
    boards = [Board(tmp_path / "board", rank, 2) for rank in range(2)]
    for board in boards:
        board.clear()
    assert boards[1].decide("so it is") == "so it is"
    assert boards[0].decide("another view") == "so it is"
    boards[0].clear()
    assert boards[0].verdict() is None
