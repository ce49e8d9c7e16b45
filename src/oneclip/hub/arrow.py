"""Read Arrow and Parquet data from untrusted files, validated before any value is used.

pyarrow trusts the offsets in a file; a wrong offset crashes the process when a value is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oneclip.errors import DataError, MissingExtraError, OneCLIPError


def import_pyarrow(feature: str = "Reading Parquet") -> Any:
    """Import pyarrow with its stream and Parquet readers.

    Args:
        feature: what needs it, for the error message.

    Raises:
        MissingExtraError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(feature, "parquet") from error
    return pyarrow


@contextmanager
def as_data_error(location: object, what: str = "Parquet file") -> Iterator[None]:
    """Turn the exceptions of reading a damaged file into a DataError that names it. Our own errors pass."""
    try:
        yield
    except OneCLIPError:
        raise
    except (
        import_pyarrow().ArrowException,
        *(ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError),
    ) as error:
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise DataError(f"{location} is damaged or not a {what}: {why}") from error


def validated(data: Any) -> Any:
    """Return a batch or column after checking all its offsets against the available bytes.

    Raises:
        pyarrow.ArrowInvalid: if an offset is out of bounds.
    """
    data.validate(full=True)
    return data


def column_values(column: Any) -> list[Any]:
    """Return the values of a column as Python objects, after validating it.

    Raises:
        pyarrow.ArrowInvalid: if the column is damaged.
    """
    found: list[Any] = validated(column).to_pylist()
    return found
