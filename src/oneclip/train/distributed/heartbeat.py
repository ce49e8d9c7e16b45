"""Heartbeats of training ranks, written as small files, from which a stalled training is detected."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from oneclip.hub.atomic import replace_file

PHASE_ORDER = ("waiting for data", "forward", "backward", "optimizer")  # other phases come before these
MAX_RANKS_SHOWN = 16  # in a message
STALL_FILE = "stalled.txt"


@dataclass(frozen=True)
class Heartbeat:
    """The state of one rank at one moment.

    Attributes:
        rank: of the process.
        count: heartbeats of this rank so far; -1 if none was read.
        phase: what the rank is doing.
        step: finished steps.
        seconds: how long it has been in this phase.
        is_overdue: whether that is longer than the limit.
        exit_reason: why the rank has left the training; "" while it is running.
        stacks_written: whether it has written the stacks of its threads.
        silent_seconds: time since its last new heartbeat was read.
    """

    rank: int
    count: int
    phase: str
    step: int
    seconds: float
    is_overdue: bool
    exit_reason: str = ""
    stacks_written: bool = False
    silent_seconds: float = 0.0

    def is_on_time(self, limit: float) -> bool:
        """Tell whether this rank is alive and not overdue."""
        return not self.is_overdue and self.is_alive(limit)

    def is_alive(self, limit: float) -> bool:
        """Tell whether the process is still running and sends heartbeats."""
        return not self.exit_reason and self.silent_seconds <= limit

    def describe(self, limit: float) -> str:
        """Describe the state on one line."""
        if self.exit_reason:
            state = f"{self.exit_reason}, after step {self.step}"
        elif self.count < 0:
            state = f"no heartbeat received in {self.silent_seconds:.0f} s"
        else:
            state = f"{self.phase}, after step {self.step}, for {self.seconds:.0f} s"
            if not self.is_alive(limit):
                state += f", no heartbeat for {self.silent_seconds:.0f} s"
        return f"rank {self.rank}: {state}"

    def progress_key(self, limit: float) -> tuple[bool, int, int]:
        """Return a sort key, furthest behind first: ranks that are gone, then by step and phase."""
        phase = PHASE_ORDER.index(self.phase) if self.phase in PHASE_ORDER else -1
        return self.is_alive(limit), self.step, phase


def stall_message(heartbeats: Sequence[Heartbeat], limit: float, out: Path | None) -> str:
    """Describe a stalled training: which ranks are furthest behind, and the state of each rank.

    Args:
        heartbeats: of all ranks.
        limit: `stall_seconds`.
        out: folder of the run, which has the stacks of the threads; None if they are not written.
    """
    heartbeats = sorted(heartbeats, key=lambda beat: (beat.progress_key(limit), beat.rank))
    first_key = heartbeats[0].progress_key(limit)
    behind = [beat for beat in heartbeats if beat.progress_key(limit) == first_key]
    lines = [f"the training has stalled: no rank made progress for {limit:g} s (stall_seconds)"]
    if len(behind) == len(heartbeats):
        lines[0] += "." if len(heartbeats) == 1 else "; all ranks are at the same place."
    else:
        ranks = ", ".join(str(beat.rank) for beat in behind[:MAX_RANKS_SHOWN])
        ranks += " …" if len(behind) > MAX_RANKS_SHOWN else ""
        lines[0] += f"; furthest behind is rank {ranks} ({behind[0].describe(limit).partition(': ')[2]})."
    lines += [f"  {beat.describe(limit)}" for beat in heartbeats[:MAX_RANKS_SHOWN]]
    if len(heartbeats) > MAX_RANKS_SHOWN:
        lines.append(f"  and {len(heartbeats) - MAX_RANKS_SHOWN} ranks that are further ahead")
    stacks = f"The stacks of all threads are in {out / 'stalled-rank-N.txt'}. " if out is not None else ""
    lines.append(f"{stacks}Remove the cause, then resume from the latest checkpoint.")
    return "\n".join(lines)


class HeartbeatDir:
    """Folder with the latest heartbeat of each rank.

    Every rank uses only its own clock: another rank is silent for as long as no new heartbeat of it was read here.

    Args:
        folder: visible to all ranks.
        rank, world_size: of the training.
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self._folder, self._rank, self._world_size = folder, rank, world_size
        now = time.monotonic()
        self._last_seen = dict.fromkeys(
            range(world_size), (-1, now)
        )  # heartbeat count, and when it was first read

    def clear(self) -> None:
        """Delete what an earlier run left for this rank."""
        now = time.monotonic()
        self._last_seen = dict.fromkeys(range(self._world_size), (-1, now))
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path(self._rank).unlink(missing_ok=True)
            if self._rank == 0:
                (self._folder / STALL_FILE).unlink(missing_ok=True)

    def write(self, heartbeat: Heartbeat) -> None:
        """Replace the heartbeat of this rank."""
        self._write_text(self._path(self._rank), json.dumps(asdict(heartbeat)))

    def read(self, own: Heartbeat) -> list[Heartbeat]:
        """Read the heartbeats of all ranks. A rank that never wrote one counts as silent."""
        return [own if rank == self._rank else self._read(rank) for rank in range(self._world_size)]

    def stall_report(self) -> str | None:
        """Return the message of the first rank that found the training stalled, if any."""
        try:
            return (self._folder / STALL_FILE).read_text(encoding="utf-8")
        except OSError:
            return None

    def report_stall(self, message: str) -> str:
        """Publish a message, unless another rank was faster, and return the published one."""
        published = self.stall_report()
        if published is None:
            self._write_text(self._folder / STALL_FILE, message)
        return published if published is not None else message

    def wait_for_stacks(self, own: Heartbeat, seconds: float, limit: float) -> None:
        """Wait until every other live rank has written its stacks, for at most `seconds`."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if all(beat.stacks_written or not beat.is_alive(limit) for beat in self.read(own)):
                return
            time.sleep(0.05)

    def leave(self, heartbeat: Heartbeat) -> None:
        """Write the last heartbeat of this rank. The last rank that ends normally deletes the folder."""
        self.write(heartbeat)
        if all(beat.exit_reason == "done" for beat in self.read(heartbeat)):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, rank: int) -> Heartbeat:
        count, since = self._last_seen[rank]
        heartbeat = Heartbeat(rank, -1, "", 0, 0.0, is_overdue=False)
        with contextlib.suppress(OSError, RecursionError, TypeError, ValueError):
            heartbeat = Heartbeat(**json.loads(self._path(rank).read_text(encoding="utf-8")))
        if heartbeat.count != count:
            since = time.monotonic()
            self._last_seen[rank] = heartbeat.count, since
        silent = time.monotonic() - since
        return replace(heartbeat, seconds=heartbeat.seconds + silent, silent_seconds=silent)

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.json"

    def _write_text(self, path: Path, text: str) -> None:
        # if the folder is not writable, the ranks are silent to each other
        with contextlib.suppress(OSError), replace_file(path, durable=False) as temporary:
            temporary.write_text(text, encoding="utf-8")
