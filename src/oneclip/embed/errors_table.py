"""What has no vector to a CSV file with its reasons, a line at a time as they come."""

from __future__ import annotations

import csv
from contextlib import suppress
from pathlib import Path
from typing import IO

from oneclip.embed.items import Failure
from oneclip.errors import OutputError


class ErrorTable:
    """A table with the columns `name` and `reason`, of this run alone. A context.

    There is no such file where nothing failed.

    Args:
        path: of the file.

    Attributes:
        first: some of the failures, for messages.
        count: of all.
    """

    def __init__(self, path: Path, *, remember: int = 20) -> None:
        self.path = path
        self.first: list[Failure] = []
        self.count = 0
        self._remember = remember
        self._file: IO[str] | None = None

    def __enter__(self) -> ErrorTable:
        with suppress(FileNotFoundError):
            self.path.unlink()  # of an earlier run
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def add(self, failure: Failure) -> None:
        """Write one line.

        Raises:
            OutputError: if that is not possible, as on a full disk.
        """
        self.count += 1
        if self.count <= self._remember:
            self.first.append(failure)
        try:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
                csv.writer(self._file).writerow(("name", "reason"))
            csv.writer(self._file).writerow((failure.name, failure.reason))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path} could not be written: {error.strerror}") from error
