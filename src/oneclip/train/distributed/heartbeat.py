"""What ranks tell each other of where they are, through small files in a folder, and what follows if none goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ORDER = ("waiting for data", "forward", "backward", "optimizer")  # within a step; anything else is before it
SHOWN = 16  # ranks in a message
VERDICT = "stalled.txt"


@dataclass(frozen=True)
class Post:
    """Where a rank is.

    Attributes:
        rank: whose it is.
        beat: counts the posts of a rank.
        phase: what it does.
        step: steps done before that.
        seconds: for how long.
        is_overdue: whether it does so for longer than it may.
        ended: why it has left the training, if it has.
        has_written: whether it has written down where its threads stand.
        silent: seconds since a new post was seen of it.
    """

    rank: int
    beat: int
    phase: str
    step: int
    seconds: float
    is_overdue: bool
    ended: str = ""
    has_written: bool = False
    silent: float = 0.0

    def is_going_on(self, limit: float) -> bool:
        """Whether there is hope for this rank: it is there, and in time."""
        return not self.is_overdue and self.is_here(limit)

    def is_here(self, limit: float) -> bool:
        """Whether its process still watches."""
        return not self.ended and self.silent <= limit

    def told(self, limit: float) -> str:
        """What it did, on one line."""
        where = f"{self.phase}, after step {self.step}, for {self.seconds:.0f} s"
        if self.ended:
            where = f"{self.ended}, after step {self.step}"
        elif self.beat < 0:
            where = f"never heard of in {self.silent:.0f} s"
        elif not self.is_here(limit):
            where += f", no sign of life for {self.silent:.0f} s"
        return f"rank {self.rank}: {where}"

    def place(self, limit: float) -> tuple[bool, int, int]:
        """What ranks are ordered by, furthest behind first: those that are gone, then by step and phase."""
        return self.is_here(limit), self.step, ORDER.index(self.phase) if self.phase in ORDER else -1


def stall_message(posts: Sequence[Post], limit: float, out: Path | None) -> str:
    """What is said of a run that has stalled: who is furthest behind, and where all of them are."""
    posts = sorted(posts, key=lambda post: (post.place(limit), post.rank))
    last = [post for post in posts if post.place(limit) == posts[0].place(limit)]
    lines = [f"the training has stalled: no rank goes on, and stall_seconds is {limit:g}"]
    if len(last) == len(posts):
        lines[0] += "." if len(posts) == 1 else "; all ranks are at the same place."
    else:
        ranks = ", ".join(str(post.rank) for post in last[:SHOWN]) + (" …" if len(last) > SHOWN else "")
        lines[0] += f"; furthest behind is rank {ranks} ({last[0].told(limit).partition(': ')[2]})."
    lines += [f"  {post.told(limit)}" for post in posts[:SHOWN]]
    if len(posts) > SHOWN:
        lines.append(f"  and {len(posts) - SHOWN} ranks further on")
    where = f"Where each stood is in {out / 'stalled-rank-N.txt'}. " if out is not None else ""
    lines.append(f"{where}Resume from the latest checkpoint once the cause is gone.")
    return "\n".join(lines)


class Board:
    """The folder with a post of each rank.

    Every rank reads its own clock only: another is silent for as long as no new post of it was seen here.

    Args:
        folder: which all ranks see.
        rank, world_size: of the training.
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self._folder, self._rank, self._world_size = folder, rank, world_size
        now = time.monotonic()
        self._seen = dict.fromkeys(range(world_size), (-1, now))  # beat, and when it was first seen

    def clear(self) -> None:
        """Take away what an earlier run left of this rank."""
        now = time.monotonic()
        self._seen = dict.fromkeys(range(self._world_size), (-1, now))
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._place(self._rank).unlink(missing_ok=True)
            if self._rank == 0:
                (self._folder / VERDICT).unlink(missing_ok=True)

    def write(self, post: Post) -> None:
        """Put up a post in place of the last one."""
        self._put(self._place(self._rank), json.dumps(asdict(post)))

    def read(self, own: Post) -> list[Post]:
        """The posts of all ranks; of one that never wrote any, that it is silent."""
        return [own if rank == self._rank else self._read(rank) for rank in range(self._world_size)]

    def verdict(self) -> str | None:
        """What a rank said that found the run stalled."""
        try:
            return (self._folder / VERDICT).read_text(encoding="utf-8")
        except OSError:
            return None

    def decide(self, message: str) -> str:
        """Say it to the others, unless one of them was first; all say the same then."""
        said = self.verdict()
        if said is None:
            self._put(self._folder / VERDICT, message)
        return said if said is not None else message

    def wait_for_others(self, own: Post, seconds: float, limit: float) -> None:
        """Wait until every other rank that still watches has written, at most so many seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if all(post.has_written or not post.is_here(limit) for post in self.read(own)):
                return
            time.sleep(0.05)

    def leave(self, post: Post) -> None:
        """Say why this rank ends; the last one of those that are done takes the folder away."""
        self.write(post)
        if all(other.ended == "done" for other in self.read(post)):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, rank: int) -> Post:
        beat, since = self._seen[rank]
        post = Post(rank, -1, "", 0, 0.0, is_overdue=False)
        with contextlib.suppress(OSError, RecursionError, TypeError, ValueError):
            post = Post(**json.loads(self._place(rank).read_text(encoding="utf-8")))
        if post.beat != beat:
            since = time.monotonic()
            self._seen[rank] = post.beat, since
        silent = time.monotonic() - since
        return replace(post, seconds=post.seconds + silent, silent=silent)

    def _place(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.json"

    def _put(self, path: Path, text: str) -> None:
        temporary = path.with_name(f".{path.name}.{self._rank}")
        with contextlib.suppress(OSError):  # a folder that cannot be written makes ranks silent to each other
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
