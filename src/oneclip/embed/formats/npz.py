"""Read and write embeddings as .npz: arrays `names`, `sha256` and `vectors`, and the metadata."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from oneclip.embed.items import FileStamp
from oneclip.embed.rows import (
    METADATA_FIELDS,
    EmbeddingMetadata,
    EmbeddingRows,
    check_names,
    check_rows,
    stamp_columns,
    stamps_from_columns,
)
from oneclip.errors import DataError, OneCLIPError

NAME_BLOCK_BYTES = 1 << 24  # bytes of a block of names in NumPy's fixed-width encoding


class NpzFormat:
    """Reader and writer of .npz."""

    suffix = ".npz"

    def check(self) -> None:
        """Do nothing: NumPy is always installed."""

    def invalid_name_reason(self, name: str) -> str | None:
        """Reject names that NumPy's strings would shorten."""
        return "its name ends in a null character" if name.endswith("\0") else None

    def write(self, file: IO[bytes], rows: EmbeddingRows, metadata: EmbeddingMetadata) -> None:
        """Write rows and metadata."""
        arrays: dict[str, Any] = {
            "sha256": np.array(rows.digests, dtype="S64"),
            "vectors": rows.vectors,
            **stamp_columns(rows.stamps),
            **metadata.to_dict(),
        }
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            _write_names(archive, rows.names)
            for name, array in arrays.items():
                stored = zipfile.ZipInfo(f"{name}.npy")  # not compressed: embeddings would not become smaller
                with archive.open(stored, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    def read(self, file: IO[bytes], location: object) -> tuple[EmbeddingRows, EmbeddingMetadata]:
        """Read rows and metadata."""
        with _opened(file, location) as content:
            metadata = EmbeddingMetadata.from_dict(
                {name: str(_checked(content[name])) for name in METADATA_FIELDS if name in content}
            )
            names, digests, stamps = _digests(content, location)
            rows = EmbeddingRows(names, digests, content["vectors"], stamps)
        check_rows(rows, location)
        return rows, metadata

    def read_digests(
        self, file: IO[bytes], location: object
    ) -> tuple[list[str], list[str], list[FileStamp | None]]:
        """Read names, digests and stamps without the embeddings."""
        with _opened(file, location) as content:
            return _digests(content, location)


def _digests(content: Any, location: object) -> tuple[list[str], list[str], list[FileStamp | None]]:
    digests = [digest.decode() for digest in content["sha256"].tolist()]
    names = _read_names(content.zip, len(digests))
    check_names(names, digests, location)
    if "size" not in content:  # a file without stamps
        return names, digests, [None] * len(names)
    return names, digests, stamps_from_columns(content["size"].tolist(), content["mtime_ns"].tolist())


def _write_names(archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Write names as a NumPy array of strings, which pads each to the longest.

    The array is compressed and written in pieces, so the padding takes little space and memory.
    """
    dtype = np.dtype(f"<U{max((len(name) for name in names), default=0) or 1}")
    with archive.open("names.npy", "w", force_zip64=True) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(names),)}
        np.lib.format.write_array_header_1_0(file, header)
        step = max(1, NAME_BLOCK_BYTES // dtype.itemsize)
        for start in range(0, len(names), step):
            file.write(np.array(names[start : start + step], dtype).tobytes())


def _read_names(archive: zipfile.ZipFile, expected: int) -> list[str]:
    """Read names in pieces, without the whole array in memory."""
    with archive.open("names.npy") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
        if dtype.kind != "U" or shape != (expected,) or not 0 < dtype.itemsize <= NAME_BLOCK_BYTES:
            raise ValueError(f"its names are an array {shape} of {dtype}; expected {expected} strings")
        names: list[str] = []
        while len(names) < expected:
            count = min(expected - len(names), NAME_BLOCK_BYTES // dtype.itemsize)
            names += _checked(np.frombuffer(file.read(count * dtype.itemsize), dtype, count)).tolist()
    return names


def _checked(strings: Any) -> Any:
    """Return an array of strings, unless NumPy would make invalid strings of it."""
    content = strings.tobytes()
    if strings.dtype.kind == "U" and content:
        largest = np.frombuffer(content, np.dtype("u4").newbyteorder(strings.dtype.byteorder)).max()
        if largest > sys.maxunicode:
            raise ValueError(f"it contains the character number {largest}; the largest is {sys.maxunicode}")
    return strings


def _require_stored(file: IO[bytes]) -> None:
    """Reject an archive that expands beyond its size: the writer compresses only the names."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist() if entry.filename != "names.npy")
    if unpacked > size:
        raise ValueError(f"its {size:,} bytes would expand to {unpacked:,}")
    file.seek(0)


@contextmanager
def _opened(file: IO[bytes], location: object) -> Iterator[Any]:
    """Open a file with `np.load`, and turn its many exceptions into DataError."""
    try:
        _require_stored(file)
        with np.load(file, allow_pickle=False) as content:
            yield content
    except OneCLIPError:
        raise
    except (Exception, MemoryError) as error:  # NumPy raises many types for an invalid array
        raise DataError(f"{location} is damaged or was not written by `oneclip embed`: {error}") from error
