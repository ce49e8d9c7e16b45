"""Vectors as they are made to the output that was asked for: one file in the end, or a folder of parts.

A file (`vectors.npz`, `vectors.parquet`) is written once all is done and holds what the source holds. Until then its
parts collect in `vectors.npz.partial/`. A folder keeps its parts, and rows of earlier runs stay in it.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from oneclip.checkpoint.write import replacing
from oneclip.embed.formats import FORMATS, Format, format_of
from oneclip.embed.parts import MADE_BY, Parts, check_folder
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

T = TypeVar("T")

PART_SECONDS = 20.0  # of work that a crash may cost
PART_ROWS = 10_000
LOCK = ".lock"


class Store:
    """The vectors of earlier runs and of this one. A context: one process at a time may be in it.

    Args:
        output: a file that ends like a format, or a folder.
        facts: what makes the vectors of this run.
        overwrite: begin anew, whatever is there.
        folder_suffix: the format of parts in a folder.

    Attributes:
        is_folder: which of the two the output is.
        errors: where the table of what has no vector belongs.

    Raises:
        OutputError: if another run writes there, or what is there was made by something else.
    """

    def __init__(
        self, output: Path, facts: Facts, *, overwrite: bool = False, folder_suffix: str = ".parquet"
    ) -> None:
        self.output, self.facts, self._overwrite = output, facts, overwrite
        self.is_folder = is_folder(output)
        self._format: Format = format_of(folder_suffix if self.is_folder else output.suffix)
        self.folder = output if self.is_folder else output.with_name(output.name + ".partial")
        self.errors = (
            output / "_errors.csv" if self.is_folder else output.with_name(output.name + ".errors.csv")
        )
        self._lock = FileLock(self.folder / LOCK)
        self._in_hand: dict[str, tuple[str, Features]] = {}
        self._since = time.monotonic()

    def __enter__(self) -> Store:
        self._is_ours = not self.is_folder or not self.folder.exists()
        try:
            self.folder.mkdir(parents=self.is_folder, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"another `oneclip embed` is writing {self.output} at this moment; wait for it, "
                "or name another output"
            ) from None
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}") from error
        try:
            if not (self.folder / LOCK).exists():  # the run that made it has just ended
                raise OutputError(f"another `oneclip embed` has just written {self.output}; try again")
            self._open()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    @property
    def safe(self) -> int:
        """How many vectors are on disk."""
        return max(len(self._parts), len(self._finished))

    @property
    def damaged(self) -> list[Path]:
        """Parts that could not be read, where they were put aside."""
        return self._parts.damaged

    def has(self, name: str, digest: str) -> bool:
        """Whether there is a vector of an item with this name and this content."""
        return (self._parts.digest(name) or self._finished.get(name, ("", 0))[0]) == digest

    def fault(self, name: str) -> str | None:
        """Why no row can have this name; None if it can."""
        return self._format.fault(name)

    def add(self, name: str, digest: str, vector: Features) -> None:
        """Take the vector (D,) of an item; now and then what has come together is written."""
        if not self._in_hand:
            self._since = time.monotonic()
        self._in_hand[name] = (digest, vector)
        if len(self._in_hand) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def forget(self, name: str) -> None:
        """Drop the row of an item that has changed into something without a vector."""
        self._finished.pop(name, None)
        if self._parts.digest(name) is not None:
            self._parts.drop(name)

    def flush(self) -> None:
        """Write what is in hand as a part.

        Raises:
            OutputError: if that is not possible; it stays in hand.
        """
        if self._in_hand:
            digests, vectors = zip(*self._in_hand.values(), strict=True)
            self._parts.write(Rows(list(self._in_hand), list(digests), np.stack(vectors)))
            self._in_hand.clear()
            self._since = time.monotonic()

    def finish(self, names: list[str]) -> int:
        """Make the output what it is to be.

        Args:
            names: of all items of the source, in its order; those without a vector may be among them.

        Returns:
            how many rows it has.

        Raises:
            OutputError: if it cannot be written; what stood there is untouched, and the parts are kept.
        """
        self.flush()
        if self.is_folder:
            self._parts.tidy()
            return len(self._parts)
        rows = self._gathered(names)
        if len(rows):
            with replacing(self.output) as temporary, temporary.open("wb") as file:
                self._format.write(file, rows, self.facts)
            shutil.rmtree(self.folder, ignore_errors=True)
        return len(rows)

    def _open(self) -> None:
        if self._overwrite:
            self._remove_parts()
        for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            leftover.unlink()  # of a run that was killed while it wrote
        self._parts = Parts(self.folder, self._format, self.facts)
        self._finished: dict[
            str, tuple[str, int]
        ] = {}  # name to digest and row, of the file of a finished run
        self._finished_vectors: Features | None = None
        if not self.is_folder and self.output.exists() and not self._overwrite:
            rows, facts = _read_or_refuse(self.output, self._format.read)
            self.facts.check_same(facts, self.output)
            self._finished_vectors = rows.vectors
            self._finished = {
                name: (digest, i)
                for i, (name, digest) in enumerate(zip(rows.names, rows.digests, strict=True))
            }

    def _gathered(self, names: list[str]) -> Rows:
        """The rows of these names, in their order."""
        vectors: dict[str, Features] = {}
        for name, (_, row) in self._finished.items():
            assert self._finished_vectors is not None
            vectors[name] = self._finished_vectors[row]
        digests = {name: digest for name, (digest, _) in self._finished.items()}
        for rows in self._parts.read():
            vectors.update(zip(rows.names, rows.vectors, strict=True))
            digests.update(zip(rows.names, rows.digests, strict=True))
        kept = [name for name in names if name in vectors]
        stacked = np.stack([vectors[name] for name in kept]) if kept else np.empty((0, 0), np.float32)
        return Rows(kept, [digests[name] for name in kept], stacked)

    def _remove_parts(self) -> None:
        for path in self.folder.glob("*part-*"):
            path.unlink()
        with suppress(FileNotFoundError):
            (self.folder / MADE_BY).unlink()

    def _leave(self) -> None:
        """Let go of the lock; a folder that nothing was written to is left as it was found."""
        if not (self.folder / MADE_BY).exists():
            with suppress(OSError):
                (self.folder / LOCK).unlink()
                if self._is_ours:
                    self.folder.rmdir()
        self._lock.release()


def _read_or_refuse(output: Path, read: Callable[[Path], T]) -> T:
    """What is in a file of vectors; what is none stays as it is."""
    try:
        return read(output)
    except DataError as error:
        raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error


def is_folder(output: Path) -> bool:
    """Whether an output is a folder of parts: one that is there, or a name without the suffix of a format.

    Raises:
        ConfigError: for a name with any other suffix.
    """
    if output.suffix.lower() in FORMATS:
        return False
    if output.suffix and not output.is_dir():
        known = " or ".join(FORMATS)
        raise ConfigError(f"{output} must end in {known}, which say how it is written, or be a folder")
    return True


def check_output(output: Path, folder_suffix: str, *, overwrite: bool = False) -> None:
    """Find out before the work, not after it, that its result cannot be written.

    Raises:
        ConfigError: for a suffix that is no format.
        OutputError: if the folder is not there or not ours to write in, a file is a folder, or a file is there that
            holds no vectors and is not to be overwritten.
        MissingExtraError: if the library of the format is not installed.
    """
    if is_folder(output):
        format_of(folder_suffix).check()
        if output.exists() and not output.is_dir():
            raise OutputError(f"{output} is a file, not a folder of vectors; name another output")
        check_folder(output)
    else:
        format_of(output.suffix).check()
        if output.is_dir():
            raise OutputError(f"{output} is a folder; name a file in it, such as {output / 'vectors.npz'}")
        if output.exists() and not overwrite:
            _read_or_refuse(output, format_of(output.suffix).read_digests)
    parent = output if output.is_dir() else output.parent
    if not parent.is_dir():
        raise OutputError(f"{output} cannot be written: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"{output} cannot be written: the folder {parent.absolute()} is not yours to write in"
        )
