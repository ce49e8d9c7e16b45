"""Names and vectors to a file: NumPy's .npz or Parquet, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from oneclip.errors import MissingExtraError, OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Features

FORMATS = (".npz", ".parquet")


def check_output(path: Path) -> None:
    """Find out before the work, not after it, that its result cannot be written.

    Raises:
        OutputError: if the folder is not there or not ours to write in, or the path is itself a folder.
        MissingExtraError: if Parquet is asked for without its library.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it, such as {path / 'vectors.npz'}")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"{path} cannot be written: the folder {path.parent.absolute()} is not yours to write in"
        )
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("Writing Parquet", "parquet")


def write_vectors(path: Path, names: Sequence[str], vectors: Features, model: str, precision: str) -> None:
    """Write names and vectors side by side, with the name of the model that made them.

    Args:
        path: ends in .npz or .parquet; what stands there is replaced once all is written.
        names: N of them.
        vectors: (N, D) float32.
        model: its name.
        precision: what it computed with.

    Raises:
        OutputError: if it cannot be written, on a full disk for instance; what stood there is untouched.
    """
    from oneclip.checkpoint.write import replacing

    write = _write_parquet if path.suffix.lower() == ".parquet" else _write_npz
    with replacing(path) as temporary, temporary.open("wb") as file:
        write(file, names, vectors, {"model": model, "precision": precision})


def _write_npz(file: IO[bytes], names: Sequence[str], vectors: Features, facts: dict[str, str]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {"names": np.array(names, dtype=np.str_), "vectors": vectors, **facts}
    np.savez(file, **arrays)


def _write_parquet(file: IO[bytes], names: Sequence[str], vectors: Features, facts: dict[str, str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{error.object!r} is no valid Unicode, as Parquet needs it; write a .npz instead"
        ) from error
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = pa.table({"name": column, "vector": rows})
    pq.write_table(table.replace_schema_metadata({f"oneclip.{k}": v for k, v in facts.items()}), file)
