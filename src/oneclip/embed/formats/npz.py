"""Rows to NumPy's .npz and back: arrays `names`, `sha256` and `vectors`, and what made them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from oneclip.embed.items import Stamp
from oneclip.embed.rows import FACTS, Facts, Rows, stamp_columns, stamps_of
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
            **stamp_columns(rows.stamps),
            **facts.to_dict(),
        }
        np.savez(file, **arrays)

    def read(self, file: IO[bytes], place: object) -> tuple[Rows, Facts]:
        """Read both back."""
        with _opened(file, place) as content:
            names, digests, stamps = _digests(content)
            facts = Facts.from_dict({name: str(content[name]) for name in FACTS if name in content})
            vectors = content["vectors"]
        if vectors.ndim != 2 or not len(names) == len(digests) == len(vectors):
            raise DataError(f"{place} is damaged: {len(names)} names, and vectors {vectors.shape}")
        return Rows(names, digests, vectors, stamps), facts

    def read_digests(self, file: IO[bytes], place: object) -> tuple[list[str], list[str], list[Stamp | None]]:
        """All but the vectors."""
        with _opened(file, place) as content:
            return _digests(content)


def _digests(content: Any) -> tuple[list[str], list[str], list[Stamp | None]]:
    names, digests = content["names"].tolist(), [digest.decode() for digest in content["sha256"].tolist()]
    if "size" not in content:  # written before there were stamps
        return names, digests, [None] * len(names)
    return names, digests, stamps_of(content["size"].tolist(), content["mtime_ns"].tolist())


@contextmanager
def _opened(file: IO[bytes], place: object) -> Iterator[Any]:
    """`np.load`, its many ways to fail made one."""
    try:
        with np.load(file, allow_pickle=False) as content:
            yield content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, OneCLIPError):
            raise
        raise DataError(f"{place} holds no vectors of `oneclip embed`, or is damaged: {error}") from error
