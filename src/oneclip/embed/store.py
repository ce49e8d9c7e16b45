"""Vectors as they are made to the output that was asked for: a file in the end, a folder of parts, or a dataset.

A file (`vectors.npz`, `vectors.parquet`) is written once all is done and holds what the source holds. Until then its
parts collect in `vectors.npz.partial/`. A folder keeps its parts, and rows of earlier runs stay in it; so they
do in a Lance dataset, of which each part is a version.
"""

from __future__ import annotations

import glob
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from oneclip.checkpoint.write import replacing
from oneclip.embed.formats import Format, format_of
from oneclip.embed.lance_rows import LanceRows, is_dataset
from oneclip.embed.outputs import kind_of, read_or_refuse
from oneclip.embed.parts import MADE_BY, Parts
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

PART_SECONDS = 20.0  # of work that a crash may cost
PART_ROWS = 10_000
LOCK = ".lock"


class Store:
    """The vectors of earlier runs and of this one. A context: one process at a time may be in it.

    Args:
        output: a file that ends like a format, a folder, or a dataset that ends in .lance.
        facts: what makes the vectors of this run.
        overwrite: begin anew, whatever is there.
        folder_suffix: the format of parts in a folder.

    Attributes:
        kind: which of these the output is.
        errors: where the table of what has no vector belongs.

    Raises:
        OutputError: if another run writes there, or what is there was made by something else.
    """

    def __init__(
        self, output: Path, facts: Facts, *, overwrite: bool = False, folder_suffix: str = ".parquet"
    ) -> None:
        self.output, self.facts, self._overwrite = output, facts, overwrite
        self.kind = kind_of(output)
        self._format: Format = format_of(output.suffix if self.kind == "file" else folder_suffix)
        self.folder = output.with_name(output.name + ".partial") if self.kind == "file" else output
        self.errors = (
            output / "_errors.csv" if self.kind == "folder" else output.with_name(output.name + ".errors.csv")
        )
        self._lock = FileLock(self.folder / LOCK)
        self._in_hand: dict[str, tuple[str, Features]] = {}
        self._since = time.monotonic()

    def __enter__(self) -> Store:
        self._is_ours = self.kind == "file" or not self.folder.exists()
        try:
            self.folder.mkdir(parents=self.kind != "file", exist_ok=True)
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
    def damaged(self) -> list[str]:
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
        if isinstance(self._parts, LanceRows) or self.kind == "folder":
            self._parts.tidy()
            return len(self._parts)
        rows = self._gathered(names, self._parts)
        if len(rows):
            with replacing(self.output) as temporary, temporary.open("wb") as file:
                self._format.write(file, rows, self.facts)
            shutil.rmtree(self.folder, ignore_errors=True)
        return len(rows)

    def _open(self) -> None:
        if self._overwrite and self.kind != "dataset":
            self._remove_parts()
        for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            leftover.unlink()  # of a run that was killed while it wrote
        self._parts: Parts | LanceRows
        if self.kind == "dataset":
            self._parts = LanceRows(self.output, self.facts, overwrite=self._overwrite)
        else:
            self._parts = Parts(self.folder, self._format, self.facts)
        self._finished: dict[
            str, tuple[str, int]
        ] = {}  # name to digest and row, of the file of a finished run
        self._finished_vectors: Features | None = None
        if self.kind == "file" and self.output.exists() and not self._overwrite:
            rows, facts = read_or_refuse(self.output, self._format.read)
            self.facts.check_same(facts, self.output)
            self._finished_vectors = rows.vectors
            self._finished = {
                name: (digest, i)
                for i, (name, digest) in enumerate(zip(rows.names, rows.digests, strict=True))
            }

    def _gathered(self, names: list[str], parts: Parts) -> Rows:
        """The rows of these names, in their order."""
        vectors: dict[str, Features] = {}
        for name, (_, row) in self._finished.items():
            assert self._finished_vectors is not None
            vectors[name] = self._finished_vectors[row]
        digests = {name: digest for name, (digest, _) in self._finished.items()}
        for rows in parts.read():
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
        if not (self.folder / MADE_BY).exists() and not is_dataset(self.folder):
            with suppress(OSError):
                (self.folder / LOCK).unlink()
                if self._is_ours:
                    self.folder.rmdir()
        self._lock.release()
