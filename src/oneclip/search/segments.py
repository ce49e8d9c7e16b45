"""Immutable files of embeddings, memory-mapped: exact vectors, and int8 codes for scanning.

A vector x is stored as y = (x - mean) @ rotation, where `rotation` has the principal components of the segment as
columns, those of the greatest variance first, so that a scan may begin with few dimensions. Each dimension of y has one
scale: y = scale * (code + residual / RESIDUALS), with an int8 code and an int16 residual of at most half a step.
Together they have the accuracy of float32; float16 vectors would be 100 times as far from it, for the same memory, and
exchange neighbours in the order of the results. Segments with few rows are not rotated.

The file is a safetensors file. Shapes: N rows, D dimensions, B blocks of `BLOCK` dimensions, padded with zeros.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import DataError, ShapeError
from oneclip.hub.atomic import replace_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
MAX_ROWS = 65_536
RESIDUALS = 65_534  # between two codes
BLOCK = 128  # dimensions that a scan reads at once; a product of 64 takes 0.6 times as long, not half
ROWS_AT_ONCE = 1_024  # of float32 copies, which stay in the cache of a processor
ROTATED_FROM = 4  # rows for each dimension; fewer rows are scanned whole, and a rotation would outweigh them
SUFFIX = ".segment"
_MAX_HEADER_BYTES = 2**20
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1")}
_WAY_OUT = "run `oneclip index verify`"


class Segment:
    """One file of vectors, mapped into memory and never changed.

    Attributes:
        path, name: of the file.
        rows, dim: N and D.
        mean: (D,) float32.
        rotation: (D, D) float32, or None if the rows are not rotated.
        scales: (D,) float32, of the codes.
        variances: (D,) float32, of the rows in each rotated dimension.
        codes: (B, N, BLOCK) int8.
        residuals: (N, D) int16.
        log_normalizers: (N,) float32, or None if none are stored.
    """

    def __init__(self, path: Path, tensors: Mapping[str, NDArray[Any]], checksum: str) -> None:
        self.path, self.name = path, path.name
        self.mean, self.scales, self.variances = tensors["mean"], tensors["scales"], tensors["variances"]
        self.codes, self.residuals = tensors["codes"], tensors["residuals"]
        self.rotation, self.log_normalizers = tensors.get("rotation"), tensors.get("log_normalizers")
        self.rows, self.dim = self.residuals.shape
        self._tensors, self._checksum = tensors, checksum

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Map a segment, after checking its header and its size.

        Raises:
            DataError: if it is missing, damaged, or written in another format.
        """
        try:
            header, begin = _read_header(path)
            metadata = _metadata(path, header)
            content = np.memmap(path, mode="r")
            tensors = _tensors(header, content[begin:])
            _check_shapes(tensors)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
            if isinstance(error, DataError):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"{path} is damaged or missing ({reason}); {_WAY_OUT}") from error
        return cls(path, tensors, metadata["sha256"])

    def verify(self) -> None:
        """Read the whole file and compare its checksum.

        Raises:
            DataError: if a byte has changed since it was written.
        """
        if _checksum(self._tensors) != self._checksum:
            raise DataError(
                f"{self.path} is damaged: its content has changed since it was written; {_WAY_OUT}"
            )

    def vectors(self, rows: NDArray[np.int64] | slice | None = None) -> NDArray[np.float32]:
        """Return the vectors (M, D) float32 of some rows, or of all."""
        indices = self._indices(rows)
        found = np.empty((len(indices), self.dim), np.float32)
        for start in range(0, len(indices), ROWS_AT_ONCE):
            rotated = self._rotated(indices[start : start + ROWS_AT_ONCE]) * self.scales
            part = rotated if self.rotation is None else rotated @ self.rotation.T
            found[start : start + ROWS_AT_ONCE] = part + self.mean
        return found

    def products(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64] | slice | None = None
    ) -> NDArray[np.float32]:
        """Return the products (Q, M) float32 of queries (Q, D) with the vectors of some rows, or of all."""
        return self.rotated_products(self.rotate(queries), rows) + self.offsets(queries)[:, None]

    def rotated_products(
        self, rotated: NDArray[np.float32], rows: NDArray[np.int64] | slice | None = None
    ) -> NDArray[np.float32]:
        """Return the products (Q, M) float32 of rotated queries (Q, D) with some rows, or all, less the offsets."""
        indices = self._indices(rows)
        scaled = rotated * self.scales
        found = np.empty((len(rotated), len(indices)), np.float32)
        for start in range(0, len(indices), ROWS_AT_ONCE):
            part = self._rotated(indices[start : start + ROWS_AT_ONCE])
            found[:, start : start + ROWS_AT_ONCE] = product(scaled, part.T)
        return found

    def rotate(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotate queries (Q, D) as the stored rows are, but without centring them."""
        if self.rotation is None:
            return queries
        return product(queries, self.rotation)

    @cached_property
    def rotated_mean(self) -> NDArray[np.float32]:
        """The mean (D,), rotated as the rows are."""
        found: NDArray[np.float32] = self.rotate(self.mean[None])[0]
        return found

    def offsets(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the products (Q,) of queries with the mean, which centring has removed from the rows."""
        found: NDArray[np.float32] = queries @ self.mean
        return found

    def moments(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance, each (Q,), of the products of queries with all rows."""
        if self.rotation is None:  # its dimensions are correlated, but its rows are few
            products = self.products(queries).astype(np.float64)
            return products.mean(axis=1), products.var(axis=1)
        squares = self.rotate(queries).astype(np.float64) ** 2
        return self.offsets(queries).astype(np.float64), squares @ self.variances

    def close(self) -> None:
        """Drop the mapping. It ends when nobody holds an array of this segment any more."""
        for name in (
            "mean",
            "scales",
            "variances",
            "codes",
            "residuals",
            "rotation",
            "log_normalizers",
            "_tensors",
            "rotated_mean",
        ):
            self.__dict__.pop(name, None)

    def _indices(self, rows: NDArray[np.int64] | slice | None) -> NDArray[np.int64]:
        if rows is None or isinstance(rows, slice):
            return np.arange(self.rows)[rows or slice(None)]
        return rows

    def _rotated(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rotated, centred rows (M, D) in units of `scales`."""
        found: NDArray[np.float32] = self.residuals[rows].astype(np.float32)
        found /= RESIDUALS
        codes = np.moveaxis(self.codes[:, rows], 0, 1).reshape(len(rows), -1)
        found += codes[:, : self.dim]
        return found


def product(few: NDArray[np.float32], many: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply (Q, D) by (D, M).

    The BLAS would start all its threads, which wait for each other, and then keep the processors busy for milliseconds.
    A sum also does not depend on M this way, so equal rows get equal products.
    """
    found: NDArray[np.float32] = np.einsum("qd,dm->qm", few, many) if len(few) <= 4 else few @ many
    return found


def write_segment(
    folder: Path, vectors: NDArray[np.float32], log_normalizers: NDArray[np.float32] | None = None
) -> str:
    """Write vectors to a new file, which is complete and on disk when this returns.

    Args:
        folder: to write to; it exists.
        vectors: (N, D) float32 of unit length, 1 to `MAX_ROWS` rows.
        log_normalizers: (N,) float32, stored beside them.

    Returns:
        The name of the file, which no other file has.

    Raises:
        ShapeError: if the arrays have other shapes, or contain NaN or infinity.
        OutputError: if the file cannot be written.
    """
    from safetensors.numpy import save_file

    if vectors.ndim != 2 or not 1 <= len(vectors) <= MAX_ROWS or not vectors.shape[1]:
        raise ShapeError(f"a segment has (1 to {MAX_ROWS:,}, D) vectors, not {vectors.shape}")
    if log_normalizers is not None and log_normalizers.shape != vectors.shape[:1]:
        raise ShapeError(
            f"{len(vectors)} vectors need log_normalizers ({len(vectors)},), not {log_normalizers.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ShapeError("the vectors of a segment contain NaN or infinity")
    tensors = _encode(vectors.astype(np.float32, copy=False))
    if log_normalizers is not None:
        tensors["log_normalizers"] = log_normalizers.astype(np.float32)
    name = f"{secrets.token_hex(8)}{SUFFIX}"
    with replace_file(folder / name) as temporary:
        save_file(tensors, temporary, {"format": str(FORMAT), "sha256": _checksum(tensors)})
    return name


def _encode(vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Compute the tensors of a segment."""
    rows, dim = vectors.shape
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    tensors: dict[str, NDArray[Any]] = {"mean": mean}
    rotated = vectors - mean
    if rows >= ROTATED_FROM * dim:
        rotation = tensors["rotation"] = _principal_components(rotated)
        for start in range(0, rows, ROWS_AT_ONCE):
            part = rotated[start : start + ROWS_AT_ONCE]
            part[:] = part @ rotation
    tensors["variances"] = np.square(rotated).mean(axis=0, dtype=np.float64).astype(np.float32)
    greatest = np.abs(rotated).max(axis=0)
    scales: NDArray[np.float32] = np.where(greatest > 1e-30, greatest / 127, 1).astype(np.float32)
    tensors["scales"] = scales
    blocks = -(-dim // BLOCK)
    codes = tensors["codes"] = np.zeros((blocks, rows, BLOCK), np.int8)
    residuals = tensors["residuals"] = np.empty((rows, dim), np.int16)
    for start in range(0, rows, ROWS_AT_ONCE):
        steps = rotated[start : start + ROWS_AT_ONCE] / scales
        rounded = np.rint(steps)
        residuals[start : start + ROWS_AT_ONCE] = np.rint((steps - rounded) * RESIDUALS)
        padded = np.zeros((len(steps), blocks * BLOCK), np.int8)
        padded[:, :dim] = rounded
        codes[:, start : start + ROWS_AT_ONCE] = np.moveaxis(padded.reshape(len(steps), blocks, BLOCK), 1, 0)
    return tensors


def _principal_components(centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the eigenvectors of the covariance as columns, those of the greatest eigenvalues first.

    In one thread: several would wait for each other in each of many small steps, for seconds while images are decoded.
    """
    covariance = (centred.T @ centred).astype(np.float64)
    if sys.modules.get("torch") is None:  # as in `code_products`
        vectors = np.linalg.eigh(covariance)[1]
    else:
        import torch

        from oneclip.engine.thread_groups import get_thread_groups

        groups = get_thread_groups(1, 1)
        (found,) = groups.map(lambda matrix: torch.linalg.eigh(matrix)[1], [torch.from_numpy(covariance)])
        vectors = found.numpy()
    return np.ascontiguousarray(vectors[:, ::-1], np.float32)


def _checksum(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where its numbers begin."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a table of tensors")
    return header, 8 + length


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    """Take the metadata out of a header, after checking the version of the format."""
    metadata: dict[str, str] = header.pop("__metadata__")
    version = int(metadata["format"])
    if version > FORMAT:
        raise DataError(
            f"{path} was written by a newer version of oneclip (format {version}; this one reads {FORMAT}); "
            "update oneclip"
        )
    if version != FORMAT:
        raise ValueError(f"unknown format {version}")
    return metadata


def _tensors(header: Mapping[str, Any], content: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return views of the tensors that a header describes."""
    tensors, end = {}, 0
    for name, entry in header.items():
        dtype, shape, (first, last) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if last - first != dtype.itemsize * int(np.prod(shape)) or not 0 <= first <= last <= len(content):
            raise ValueError(f"its tensor {name[:80]} does not fit the file")
        tensors[name] = np.ndarray(shape, dtype, content, first)
        tensors[name].flags.writeable = False
        end = max(end, last)
    if end != len(content):
        raise ValueError(f"expected {end:,} bytes of numbers, found {len(content):,}")
    return tensors


def _check_shapes(tensors: Mapping[str, NDArray[Any]]) -> None:
    rows, dim = tensors["residuals"].shape
    expected = {
        "codes": (-(-dim // BLOCK), rows, BLOCK),
        "mean": (dim,),
        "scales": (dim,),
        "variances": (dim,),
        "rotation": (dim, dim),
        "log_normalizers": (rows,),
    }
    for name, shape in expected.items():
        if name not in tensors and name in ("rotation", "log_normalizers"):
            continue
        if tensors[name].shape != shape:
            raise ValueError(f"its tensor {name} has shape {tensors[name].shape}; expected {shape}")
