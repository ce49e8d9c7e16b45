"""Vectors as they are made to the output that was asked for: a file in the end, a folder of parts, or a dataset.

A file (`vectors.npz`, `vectors.parquet`) is written once all is done and holds what the source holds. Until then its
parts collect in `vectors.npz.partial/`. A folder keeps its parts, and rows of earlier runs stay in it; so they
do in a Lance dataset, of which each part is a version.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.checkpoint.write import replacing
from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.folders import Folder, LocalFolder, RemoteFolder
from oneclip.embed.formats import Format, format_of
from oneclip.embed.formats.lance import LanceRows, is_dataset
from oneclip.embed.items import Failure, Stamp, row_key
from oneclip.embed.outputs import kind_of, located, read_or_refuse
from oneclip.embed.parts import MADE_BY, Parts, clear
from oneclip.embed.rows import Facts, Rows
from oneclip.embed.run_lock import Alone

if TYPE_CHECKING:
    from oneclip.encoder import Features

PART_SECONDS = 20.0  # of work that a crash may cost
PART_ROWS = 10_000
NOT_NAMED = "no source of this run has them"
UNREADABLE = "their content has changed and cannot be read now"


class Store:
    """The vectors of earlier runs and of this one. A context: on this machine one process at a time may be in it.

    Args:
        output: a file that ends like a format, a folder or the address of one, or a dataset that ends in .lance.
        facts: what makes the vectors of this run.
        overwrite: begin anew, whatever is there.
        folder_suffix: the format of parts in a folder.

    Attributes:
        kind: which of these the output is.
        dropped: how many rows of earlier runs are no longer in it, by the reason.
        unlisted: how many rows a finished file has of what this run could not list.

    Raises:
        OutputError: if another run writes there, or what is there was made by something else.
    """

    def __init__(
        self, output: str | Path, facts: Facts, *, overwrite: bool = False, folder_suffix: str = ".parquet"
    ) -> None:
        self.facts, self._overwrite = facts, overwrite
        self.output = located(output)
        self.kind = kind_of(self.output)
        self._alone: Alone | None = None
        self._folder: Folder
        if isinstance(self.output, str):
            self._format: Format = format_of(folder_suffix)
            self._folder = RemoteFolder(self.output)
        else:
            self._format = format_of(self.output.suffix if self.kind == "file" else folder_suffix)
            self._path = (
                self.output.with_name(self.output.name + ".partial") if self.kind == "file" else self.output
            )
            self._folder = LocalFolder(self._path)
        self._in_hand: dict[str, tuple[str, Features, Stamp | None]] = {}
        self._called: dict[str, str] = {}  # row keys to names, where those differ
        self.dropped: dict[str, int] = {}
        self.unlisted = 0
        self._since = time.monotonic()

    def __enter__(self) -> Store:
        if isinstance(self.output, Path):
            self._alone = Alone(self._path, self.output)
        try:
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

    def error_table(self) -> ErrorTable:
        """Where what has no vector is listed."""
        if isinstance(self.output, Path) and self.kind != "folder":
            return ErrorTable(LocalFolder(self.output.parent), self.output.name + ".errors.csv")
        return ErrorTable(self._folder, "_errors.csv")

    def rows(self) -> Iterator[tuple[str, str, Stamp | None]]:
        """Names of all that has a vector, the hashes of what it was made of, and the stamps of its file."""
        for name, (digest, _) in self._finished.items():
            if self._parts.digest(name) is None:
                yield name, digest, self._stamp(name)
        for name, digest in self._parts.digests():
            yield name, digest, self._stamp(name)

    def name_of(self, name: str) -> str:
        """What the row of an item is called: as it was called first, however its path is written now."""
        key = row_key(name)
        return self._called.get(key) or (key if self._digest(key) is not None else name)

    def has(self, name: str, digest: str) -> bool:
        """Whether there is a vector of an item with this name and this content."""
        return self._digest(self.name_of(name)) == digest

    def is_unchanged(self, name: str, stamp: Stamp) -> bool:
        """Whether there is a vector of an item with this name, made of a file of this size and time."""
        return self._stamp(self.name_of(name)) == stamp

    def find(self, digest: str) -> Features | None:
        """The vector (D,) of content with this hash, whatever its row is called. May be called from many threads."""
        row = self._by_content.get(digest)
        if row is not None and self._finished_vectors is not None:
            found: Features = self._finished_vectors[row].astype(np.float32)
            return found
        return self._parts.vector(digest)

    def keep(self, name: str, digest: str, stamp: Stamp | None) -> bool:
        """Keep the row of an item if it was made of this content, with the stamp that its file has now.

        Args:
            digest: empty if the file is unchanged, so that nobody has read it.

        Returns:
            whether there is such a row.
        """
        name = self.name_of(name)
        if digest and self._digest(name) != digest:
            return False
        if digest and stamp is not None and self._stamp(name) != stamp:
            if self._parts.digest(name) is not None:
                self._parts.restamp(name, stamp)
            else:
                self._finished_stamps[name] = stamp
        return True

    def _digest(self, name: str) -> str | None:
        return self._parts.digest(name) or self._finished.get(name, (None, 0))[0]

    def _stamp(self, name: str) -> Stamp | None:
        return (self._parts.stamp if self._parts.digest(name) else self._finished_stamps.get)(name)

    def fault(self, name: str) -> str | None:
        """Why no row can have this name; None if it can."""
        return self._format.fault(name)

    def add(self, name: str, digest: str, vector: Features, stamp: Stamp | None = None) -> None:
        """Take the vector (D,) of an item; now and then what has come together is written."""
        if not self._in_hand:
            self._since = time.monotonic()
        name = self.name_of(name)
        self._note_name(name)
        self._in_hand[name] = (digest, vector, stamp)
        if len(self._in_hand) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def forget(self, name: str) -> None:
        """Drop the row of an item that has changed into something without a vector."""
        name = self.name_of(name)
        if self._digest(name) is not None:
            self.dropped[UNREADABLE] = self.dropped.get(UNREADABLE, 0) + 1
        self._finished.pop(name, None)
        if self._parts.digest(name) is not None:
            self._parts.drop(name)

    def flush(self) -> None:
        """Write what is in hand as a part.

        Raises:
            OutputError: if that is not possible; it stays in hand.
        """
        if self._in_hand:
            digests, vectors, stamps = zip(*self._in_hand.values(), strict=True)
            self._parts.write(
                Rows(
                    list(self._in_hand),
                    list(digests),
                    np.stack(vectors).astype(self.facts.dtype),
                    list(stamps),
                )
            )
            self._in_hand.clear()
            self._since = time.monotonic()

    def finish(self, names: list[str], unlisted: Sequence[Failure] = ()) -> int:
        """Make the output what it is to be.

        A file holds what the sources hold. Rows of what could not be listed are kept, after the others; the rest of
        the rows of earlier runs is dropped, and counted in `dropped`.

        Args:
            names: of all items of the source, in its order; those without a vector may be among them.
            unlisted: sources that could not be listed, or not to their end.

        Returns:
            how many rows it has.

        Raises:
            OutputError: if it cannot be written; what stood there is untouched, and the parts are kept.
        """
        self.flush()
        if isinstance(self._parts, LanceRows) or self.kind == "folder":
            self._parts.tidy()
            return len(self._parts)
        assert isinstance(self.output, Path)
        names = list(dict.fromkeys(map(self.name_of, names)))
        others = {name for name, _, _ in self.rows()}.difference(names)
        hidden = [name for name, _, _ in self.rows() if name in others and _is_hidden(name, unlisted)]
        self.unlisted = len(hidden)
        if len(others) > len(hidden):
            self.dropped[NOT_NAMED] = len(others) - len(hidden)
        rows = self._gathered([*names, *hidden], self._parts)
        if len(rows):
            with replacing(self.output) as temporary, temporary.open("wb") as file:
                self._format.write(file, rows, self.facts)
            clear(self._folder)
            shutil.rmtree(self._path, ignore_errors=True)
        else:
            self.dropped.clear()  # what stood there stays
        return len(rows)

    def _open(self) -> None:
        self._parts: Parts | LanceRows
        if self.kind == "dataset":
            self._parts = LanceRows(self._path, self.facts, overwrite=self._overwrite)
        else:
            if self._overwrite:
                clear(self._folder)
            self._parts = Parts(self._folder, self._format, self.facts)
        self._finished: dict[
            str, tuple[str, int]
        ] = {}  # name to digest and row, of the file of a finished run
        self._finished_vectors: Features | None = None
        self._finished_stamps: dict[str, Stamp] = {}
        self._by_content: dict[str, int] = {}  # digest to row of that file
        for name, _ in self._parts.digests():
            self._note_name(name)
        if isinstance(self.output, str) or self.kind != "file":
            return
        for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            leftover.unlink()  # of a run that was killed while it wrote
        if self.output.exists() and not self._overwrite:
            rows, facts = read_or_refuse(self.output, self._format.read)
            self.facts.check_same(facts, self.output)
            self._finished_vectors = rows.vectors
            self._finished = {
                name: (digest, i)
                for i, (name, digest) in enumerate(zip(rows.names, rows.digests, strict=True))
            }
            self._finished_stamps = {
                name: stamp for name, stamp in zip(rows.names, rows.stamps, strict=True) if stamp is not None
            }
            self._by_content = {digest: i for i, digest in enumerate(rows.digests)}
            for name in rows.names:
                self._note_name(name)

    def _note_name(self, name: str) -> None:
        key = row_key(name)
        if key != name:
            self._called[key] = name

    def _gathered(self, names: list[str], parts: Parts) -> Rows:
        """The rows of these names, in their order."""
        vectors: dict[str, Features] = {}
        for name, (_, row) in self._finished.items():
            assert self._finished_vectors is not None
            vectors[name] = self._finished_vectors[row]
        digests = {name: digest for name, (digest, _) in self._finished.items()}
        stamps: dict[str, Stamp | None] = {name: self._stamp(name) for name in names}
        for rows in parts.read():
            vectors.update(zip(rows.names, rows.vectors, strict=True))
            digests.update(zip(rows.names, rows.digests, strict=True))
        kept = [name for name in names if name in vectors]
        stacked = np.stack([vectors[name] for name in kept]) if kept else np.empty((0, 0), self.facts.dtype)
        return Rows(kept, [digests[name] for name in kept], stacked, [stamps[name] for name in kept])

    def _leave(self) -> None:
        """Let go of the lock; a folder that nothing was written to is left as it was found."""
        if self._alone is not None:
            self._alone.leave(is_empty=not (self._path / MADE_BY).exists() and not is_dataset(self._path))


def _is_hidden(name: str, unlisted: Sequence[Failure]) -> bool:
    key = row_key(name)
    return any(failure.hides(key) for failure in unlisted)
