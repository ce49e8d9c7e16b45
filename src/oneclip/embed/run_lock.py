"""One run at a time: a lock in the folder that is written to, on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from oneclip.errors import OutputError

LOCK = ".lock"


class Alone:
    """A lock; taken when it is made. The folder is made for it.

    Args:
        folder: where vectors collect.
        output: what it is called in messages.

    Raises:
        OutputError: if another process has it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder = folder
        self._is_ours = folder != output or not folder.exists()
        self._lock = FileLock(folder / LOCK)
        try:
            folder.mkdir(parents=folder == output, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"another `oneclip embed` is writing {output} at this moment; wait for it, or name another output"
            ) from None
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
        if not (folder / LOCK).exists():  # the run that made it has just ended
            self._lock.release()
            raise OutputError(f"another `oneclip embed` has just written {output}; try again")

    def leave(self, *, is_empty: bool) -> None:
        """Let go of it.

        Args:
            is_empty: nothing was written: the folder is then left as it was found.
        """
        if is_empty:
            with suppress(OSError):
                (self._folder / LOCK).unlink()
                if self._is_ours:
                    self._folder.rmdir()
        self._lock.release()
