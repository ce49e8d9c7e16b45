"""Rows to NumPy's .npz and back: arrays `names`, `sha256` and `vectors`, and what made them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from oneclip.embed.rows import FACTS, Facts, Rows
from oneclip.errors import DataError


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

    def read(self, path: Path) -> tuple[Rows, Facts]:
        """Read both back."""
        names, digests = self.read_digests(path)
        with _opened(path) as content:
            facts = Facts.from_dict({name: str(content[name]) for name in FACTS})
            vectors = content["vectors"]
        if vectors.ndim != 2 or not len(names) == len(digests) == len(vectors):
            raise DataError(f"{path} is damaged: {len(names)} names, and vectors {vectors.shape}")
        return Rows(names, digests, vectors), facts

    def read_digests(self, path: Path) -> tuple[list[str], list[str]]:
        """Names and digests alone."""
        with _opened(path) as content:
            return content["names"].tolist(), [digest.decode() for digest in content["sha256"].tolist()]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """`np.load`, its many ways to fail made one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            yield content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} holds no vectors of `oneclip embed`, or is damaged: {error}") from error
