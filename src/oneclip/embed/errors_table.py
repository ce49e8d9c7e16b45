"""What has no vector to a CSV file with its reasons, a line at a time as they come."""

from __future__ import annotations

import csv
from contextlib import nullcontext, suppress
from typing import IO

from oneclip.embed.folders import Folder
from oneclip.embed.items import Failure
from oneclip.errors import OutputError


class ErrorTable:
    """A table with the columns `name` and `reason`, of this run alone. A context.

    There is no such file where nothing failed.

    Args:
        folder: where it lies.
        name: of the file.

    Attributes:
        place: of the file, for messages.
        first: some of the failures, for messages.
        count: of all.
    """

    def __init__(self, folder: Folder, name: str, *, remember: int = 20) -> None:
        self._folder, self._name, self.place = folder, name, folder.place(name)
        self.first: list[Failure] = []
        self.count = 0
        self._remember = remember
        self._file: IO[str] | None = None

    def __enter__(self) -> ErrorTable:
        self._folder.remove(self._name)  # of an earlier run
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError) if kind is not None else nullcontext():
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
                self._file = self._folder.lines(self._name)
                csv.writer(self._file).writerow(("name", "reason"))
            csv.writer(self._file).writerow((failure.name, failure.reason))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.place} could not be written: {error.strerror}") from error
