"""Rows to NumPy's .npz and back: arrays `names`, `sha256` and `vectors`, and what made them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from oneclip.embed.items import Stamp
from oneclip.embed.rows import FACTS, Facts, Rows, check_names, check_rows, stamp_columns, stamps_of
from oneclip.errors import DataError, OneCLIPError

AT_ONCE = 1 << 24  # bytes of names as NumPy has them


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
            "sha256": np.array(rows.digests, dtype="S64"),
            "vectors": rows.vectors,
            **stamp_columns(rows.stamps),
            **facts.to_dict(),
        }
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            _write_names(archive, rows.names)
            for name, array in arrays.items():
                stored = zipfile.ZipInfo(f"{name}.npy")  # not compressed: vectors would not become smaller
                with archive.open(stored, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    def read(self, file: IO[bytes], place: object) -> tuple[Rows, Facts]:
        """Read both back."""
        with _opened(file, place) as content:
            facts = Facts.from_dict({name: str(content[name]) for name in FACTS if name in content})
            names, digests, stamps = _digests(content, place)
            rows = Rows(names, digests, content["vectors"], stamps)
        check_rows(rows, place)
        return rows, facts

    def read_digests(self, file: IO[bytes], place: object) -> tuple[list[str], list[str], list[Stamp | None]]:
        """All but the vectors."""
        with _opened(file, place) as content:
            return _digests(content, place)


def _digests(content: Any, place: object) -> tuple[list[str], list[str], list[Stamp | None]]:
    digests = [digest.decode() for digest in content["sha256"].tolist()]
    names = _read_names(content.zip, len(digests))
    check_names(names, digests, place)
    if "size" not in content:  # written before there were stamps
        return names, digests, [None] * len(names)
    return names, digests, stamps_of(content["size"].tolist(), content["mtime_ns"].tolist())


def _write_names(archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Write names as the array of strings that NumPy knows, in which all have the room of the longest.

    What that wastes is compressed, and never all of it in memory.
    """
    dtype = np.dtype(f"<U{max((len(name) for name in names), default=0) or 1}")
    with archive.open("names.npy", "w", force_zip64=True) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(names),)}
        np.lib.format.write_array_header_1_0(file, header)
        step = max(1, AT_ONCE // dtype.itemsize)
        for start in range(0, len(names), step):
            file.write(np.array(names[start : start + step], dtype).tobytes())


def _read_names(archive: zipfile.ZipFile, expected: int) -> list[str]:
    """Read them back, and never all of their array."""
    with archive.open("names.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.kind != "U" or shape != (expected,) or not 0 < dtype.itemsize <= AT_ONCE:
            raise ValueError(f"its names are an array {shape} of {dtype}, and it has {expected} digests")
        names: list[str] = []
        while len(names) < expected:
            count = min(expected - len(names), AT_ONCE // dtype.itemsize)
            names += np.frombuffer(file.read(count * dtype.itemsize), dtype, count).tolist()
    return names


def _require_stored(file: IO[bytes]) -> None:
    """Refuse an archive that would unpack to more than it has: of what we write only names are compressed."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist() if entry.filename != "names.npy")
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
