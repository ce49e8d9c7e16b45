"""Store of embeddings with three kinds of output: a file, a folder of parts, or a Lance dataset.

A file (`vectors.npz`, `vectors.parquet`) is written at the end and contains the items of the sources. Until then its
parts are kept in `vectors.npz.partial/`. A folder keeps its parts and the rows of earlier runs; so does a Lance
dataset, in which each part is a version.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.folders import LocalOutputFolder, OutputFolder, RemoteOutputFolder
from oneclip.embed.formats import OutputFormat, get_format
from oneclip.embed.formats.lance import LanceDataset, is_lance_dataset
from oneclip.embed.items import Failure, FileStamp, row_key
from oneclip.embed.outputs import output_kind, parse_output, read_or_refuse
from oneclip.embed.parts import METADATA_FILE, PartFiles, remove_parts
from oneclip.embed.prefetch import UnreadableItem
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.embed.run_lock import RunLock
from oneclip.hub.atomic import replace_file

if TYPE_CHECKING:
    from oneclip.encoder import Features

PART_SECONDS = 20.0  # of work that a crash may lose
PART_ROWS = 10_000
NOT_IN_SOURCES = "not in the sources of this run"
NO_LONGER_READABLE = "their content has changed and can no longer be read"


class EmbeddingStore:
    """Embeddings of earlier runs and of the current one. A context manager that one process at a time may enter.

    Args:
        output: a file with the suffix of a format, a local or remote folder, or a dataset that ends in .lance.
        metadata: what makes the embeddings of this run.
        overwrite: replace an existing output.
        folder_suffix: format of the parts in a folder.

    Attributes:
        kind: of the output.
        dropped: number of rows of earlier runs that were removed, by reason.
        unlisted: number of rows in a finished file that this run could not list.

    Raises:
        OutputError: if another run writes to it, or it was made by another model.
    """

    def __init__(
        self,
        output: str | Path,
        metadata: EmbeddingMetadata,
        *,
        overwrite: bool = False,
        folder_suffix: str = ".parquet",
    ) -> None:
        self.metadata, self._overwrite = metadata, overwrite
        self.output = parse_output(output)
        self.kind = output_kind(self.output)
        self._lock: RunLock | None = None
        self._folder: OutputFolder
        if isinstance(self.output, str):
            self._format: OutputFormat = get_format(folder_suffix)
            self._folder = RemoteOutputFolder(self.output)
        else:
            self._format = get_format(self.output.suffix if self.kind == "file" else folder_suffix)
            self._path = (
                self.output.with_name(self.output.name + ".partial") if self.kind == "file" else self.output
            )
            self._folder = LocalOutputFolder(self._path)
        self._pending: dict[str, tuple[str, Features, FileStamp | None]] = {}
        self._name_by_key: dict[str, str] = {}  # only where key and name differ
        self.dropped: dict[str, int] = {}
        self.unlisted = 0
        self._since = time.monotonic()

    def __enter__(self) -> EmbeddingStore:
        if isinstance(self.output, Path):
            self._lock = RunLock(self._path, self.output)
        try:
            self._open()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._release()

    @property
    def safe(self) -> int:
        """Number of embeddings on disk."""
        return max(len(self._parts), len(self._finished))

    @property
    def damaged(self) -> list[str]:
        """New names of parts that could not be read."""
        return self._parts.damaged

    def error_table(self) -> ErrorTable:
        """Return the table of failures that belongs to the output."""
        if isinstance(self.output, Path) and self.kind != "folder":
            return ErrorTable(LocalOutputFolder(self.output.parent), self.output.name + ".errors.csv")
        return ErrorTable(self._folder, "_errors.csv")

    def rows(self) -> Iterator[tuple[str, str, FileStamp | None]]:
        """Yield name, content hash and file stamp of every row."""
        for name, (digest, _) in self._finished.items():
            if self._parts.digest(name) is None:
                yield name, digest, self._stamp(name)
        for name, digest in self._parts.digests():
            yield name, digest, self._stamp(name)

    def name_of(self, name: str) -> str:
        """Return the stored name of an item: the first that was used, whatever form its path has now."""
        key = row_key(name)
        return self._name_by_key.get(key) or (key if self._digest(key) is not None else name)

    def has(self, name: str, digest: str) -> bool:
        """Return whether there is an embedding of an item with this name and content."""
        return self._digest(self.name_of(name)) == digest

    def is_unchanged(self, name: str, stamp: FileStamp) -> bool:
        """Return whether there is an embedding of an item with this name, made of a file of this size and time."""
        return self._stamp(self.name_of(name)) == stamp

    def find(self, digest: str) -> Features | None:
        """Return the embedding (D,) of content with this hash under any name. Thread-safe."""
        row = self._by_content.get(digest)
        if row is not None and self._finished_vectors is not None:
            found: Features = self._finished_vectors[row].astype(np.float32)
            return found
        return self._parts.vector(digest)

    def keep(self, name: str, digest: str, stamp: FileStamp | None) -> bool:
        """Keep the row of an item if it has this content, and update its stamp.

        Args:
            digest: of the content; empty if the file is unchanged and was not read.

        Returns:
            Whether there is such a row.
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

    def _stamp(self, name: str) -> FileStamp | None:
        return (self._parts.stamp if self._parts.digest(name) else self._finished_stamps.get)(name)

    def invalid_name_reason(self, name: str) -> str | None:
        """Return why the format cannot store this name, or None if it can."""
        return self._format.invalid_name_reason(name)

    def add(self, name: str, digest: str, vector: Features, stamp: FileStamp | None = None) -> None:
        """Add the embedding (D,) of an item; full parts are written now and then."""
        if not self._pending:
            self._since = time.monotonic()
        name = self.name_of(name)
        self._note_name(name)
        self._pending[name] = (digest, vector, stamp)
        if len(self._pending) >= PART_ROWS or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def record_failure(self, entry: UnreadableItem) -> None:
        """Drop the row of an item whose content can no longer be encoded; one that could not be read keeps its row."""
        if entry.digest is not None:
            self.forget(entry.item.name)

    def forget(self, name: str) -> None:
        """Drop the row of an item that can no longer be encoded."""
        name = self.name_of(name)
        if self._digest(name) is not None:
            self.dropped[NO_LONGER_READABLE] = self.dropped.get(NO_LONGER_READABLE, 0) + 1
        self._finished.pop(name, None)
        if self._parts.digest(name) is not None:
            self._parts.drop(name)

    def flush(self) -> None:
        """Write pending rows as a part.

        Raises:
            OutputError: if the part cannot be written; the rows stay pending.
        """
        if self._pending:
            digests, vectors, stamps = zip(*self._pending.values(), strict=True)
            self._parts.write(
                EmbeddingRows(
                    list(self._pending),
                    list(digests),
                    np.stack(vectors).astype(self.metadata.dtype),
                    list(stamps),
                )
            )
            self._pending.clear()
            self._since = time.monotonic()

    def finish(self, names: list[str], unlisted: Sequence[Failure] = ()) -> int:
        """Complete the output.

        A file contains the items of the sources, followed by rows that could not be listed now. Other rows of earlier
        runs are dropped and counted in `dropped`.

        Args:
            names: of all items in the order of the sources; those without an embedding may be included.
            unlisted: sources that could not be listed completely.

        Returns:
            The number of rows.

        Raises:
            OutputError: if it cannot be written; an existing output is untouched, and the parts are kept.
        """
        self.flush()
        if isinstance(self._parts, LanceDataset) or self.kind == "folder":
            self._parts.compact()
            return len(self._parts)
        assert isinstance(self.output, Path)
        names = list(dict.fromkeys(map(self.name_of, names)))
        others = {name for name, _, _ in self.rows()}.difference(names)
        hidden = [name for name, _, _ in self.rows() if name in others and _may_be_hidden(name, unlisted)]
        self.unlisted = len(hidden)
        if len(others) > len(hidden):
            self.dropped[NOT_IN_SOURCES] = len(others) - len(hidden)
        rows = self._gather([*names, *hidden], self._parts)
        if len(rows):
            with replace_file(self.output) as temporary, temporary.open("wb") as file:
                self._format.write(file, rows, self.metadata)
            remove_parts(self._folder)
            shutil.rmtree(self._path, ignore_errors=True)
        else:
            self.dropped.clear()  # an existing file is kept
        return len(rows)

    def _open(self) -> None:
        self._parts: PartFiles | LanceDataset
        if self.kind == "dataset":
            self._parts = LanceDataset(self._path, self.metadata, overwrite=self._overwrite)
        else:
            if self._overwrite:
                remove_parts(self._folder)
            self._parts = PartFiles(self._folder, self._format, self.metadata)
        self._finished: dict[
            str, tuple[str, int]
        ] = {}  # name to digest and row index in the file of a finished run
        self._finished_vectors: Features | None = None
        self._finished_stamps: dict[str, FileStamp] = {}
        self._by_content: dict[str, int] = {}  # digest to row index in that file
        for name, _ in self._parts.digests():
            self._note_name(name)
        if isinstance(self.output, str) or self.kind != "file":
            return
        for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.tmp"):
            leftover.unlink()  # of a run that was killed while writing
        if self.output.exists() and not self._overwrite:
            rows, metadata = read_or_refuse(self.output, self._format.read)
            self.metadata.require_same(metadata, self.output)
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
            self._name_by_key[key] = name

    def _gather(self, names: list[str], parts: PartFiles) -> EmbeddingRows:
        """Return the rows with these names, in their order."""
        vectors: dict[str, Features] = {}
        for name, (_, row) in self._finished.items():
            assert self._finished_vectors is not None
            vectors[name] = self._finished_vectors[row]
        digests = {name: digest for name, (digest, _) in self._finished.items()}
        stamps: dict[str, FileStamp | None] = {name: self._stamp(name) for name in names}
        for rows in parts.read():
            vectors.update(zip(rows.names, rows.vectors, strict=True))
            digests.update(zip(rows.names, rows.digests, strict=True))
        kept = [name for name in names if name in vectors]
        stacked = (
            np.stack([vectors[name] for name in kept]) if kept else np.empty((0, 0), self.metadata.dtype)
        )
        return EmbeddingRows(kept, [digests[name] for name in kept], stacked, [stamps[name] for name in kept])

    def _release(self) -> None:
        """Release the lock; a folder without new content is left as it was before."""
        if self._lock is not None:
            self._lock.release(
                is_empty=not (self._path / METADATA_FILE).exists() and not is_lance_dataset(self._path)
            )


def _may_be_hidden(name: str, unlisted: Sequence[Failure]) -> bool:
    key = row_key(name)
    return any(failure.hides(key) for failure in unlisted)
