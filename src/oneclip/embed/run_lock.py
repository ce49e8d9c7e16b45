"""Lock that prevents two runs on this machine from writing to one output."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from oneclip.errors import OutputError
from oneclip.hub.atomic import try_file_lock

LOCK = ".lock"


class RunLock:
    """Lock on an output, acquired on creation. The folder is created for it.

    Args:
        folder: that collects the parts.
        output: its name in messages.

    Raises:
        OutputError: if another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder = folder
        self._is_ours = folder != output or not folder.exists()
        try:
            folder.mkdir(parents=folder == output, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
        lock = try_file_lock(folder / LOCK)
        if lock is None:
            raise OutputError(
                f"another `oneclip embed` is writing {output}; wait for it, or choose another output"
            )
        self._lock = lock
        if not (folder / LOCK).exists():  # the run that created it has just ended
            self._lock.release()
            raise OutputError(f"another `oneclip embed` has just written {output}; try again")

    def release(self, *, is_empty: bool) -> None:
        """Release the lock.

        Args:
            is_empty: whether nothing was written; the folder is then left as it was before.
        """
        if is_empty:
            with suppress(OSError):
                (self._folder / LOCK).unlink()
                if self._is_ours:
                    self._folder.rmdir()
        self._lock.release()
