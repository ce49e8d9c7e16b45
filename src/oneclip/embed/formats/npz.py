"""Rows to NumPy's .npz and back: arrays `names`, `sha256` and `vectors`, and what made them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from oneclip.embed.rows import FACTS, Facts, Rows, check_names, check_rows
from oneclip.errors import DataError, OneCLIPError


class Npz:
    """Reads and writes .npz."""

    suffix = ".npz"

    def check(self) -> None:
        """Nothing is needed."""

    def fault(self, name: str) -> str | None:
        """NumPy's strings end where their last null characters begin."""
        return "its name ends in a null character" if name.endswith("\0") else None

    def write(self, file: IO[bytes], rows: Rows, facts: Facts) -> None:
        """Write rows and what made them."""
        arrays: dict[str, Any] = {
            "names": np.array(rows.names, dtype=np.str_),
            "sha256": np.array(rows.digests, dtype="S64"),
            "vectors": rows.vectors,
            **facts.to_dict(),
        }
        np.savez(file, **arrays)

    def read(self, file: IO[bytes], place: object) -> tuple[Rows, Facts]:
        """Read both back."""
        with _opened(file, place) as content:
            facts = Facts.from_dict({name: str(content[name]) for name in FACTS})
            rows = Rows(*_digests(content, place), content["vectors"])
        check_rows(rows, place)
        return rows, facts

    def read_digests(self, file: IO[bytes], place: object) -> tuple[list[str], list[str]]:
        """Names and digests alone."""
        with _opened(file, place) as content:
            return _digests(content, place)


def _digests(content: Any, place: object) -> tuple[list[str], list[str]]:
    names, digests = content["names"].tolist(), [digest.decode() for digest in content["sha256"].tolist()]
    check_names(names, digests, place)
    return names, digests


def _require_stored(file: IO[bytes]) -> None:
    """Refuse an archive that would unpack to more than it has; what we write is not compressed."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes from {size:,}")
    file.seek(0)


@contextmanager
def _opened(file: IO[bytes], place: object) -> Iterator[Any]:
    """`np.load`, its many ways to fail made one."""
    try:
        _require_stored(file)
        with np.load(file, allow_pickle=False) as content:
            yield content
    except OneCLIPError:
        raise
    except (Exception, MemoryError) as error:  # what is no array makes NumPy's reader raise nearly anything
        raise DataError(f"{place} holds no vectors of `oneclip embed`, or is damaged: {error}") from error
