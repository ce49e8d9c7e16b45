"""CSV file of the items that could not be embedded, with reasons."""

from __future__ import annotations

import csv
from contextlib import nullcontext, suppress
from typing import IO

from oneclip.embed.folders import OutputFolder
from oneclip.embed.items import Failure
from oneclip.errors import OutputError


class ErrorTable:
    """CSV file with the columns `name` and `reason` for the current run. A context manager.

    The file is written row by row and does not exist if nothing failed.

    Args:
        folder: that contains the file.
        name: of the file.
        remember: how many failures to keep in `first`.

    Attributes:
        location: of the file, for messages.
        first: the first failures, for messages.
        count: number of failures.
    """

    def __init__(self, folder: OutputFolder, name: str, *, remember: int = 20) -> None:
        self._folder, self._name, self.location = folder, name, folder.location(name)
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
        """Append a row.

        Raises:
            OutputError: if the file cannot be written, for example because the disk is full.
        """
        self.count += 1
        if self.count <= self._remember:
            self.first.append(failure)
        try:
            if self._file is None:
                self._file = self._folder.open_text(self._name)
                csv.writer(self._file).writerow(("name", "reason"))
            csv.writer(self._file).writerow((failure.name, failure.reason))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.location} could not be written: {error.strerror}") from error
