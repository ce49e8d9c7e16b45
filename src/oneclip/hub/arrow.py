"""Arrow and Parquet data of files that came from anywhere: looked over before a value of it is read.

pyarrow trusts the offsets that a file holds; a damaged one ends the process where a value is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oneclip.errors import DataError, MissingExtraError, OneCLIPError


def pyarrow(feature: str = "Reading Parquet") -> Any:
    """The package, with its readers of streams and of Parquet.

    Raises:
        MissingExtraError: without it; `feature` is what was wanted.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(feature, "parquet") from error
    return pyarrow


@contextmanager
def explained(place: object, what: str = "Parquet file") -> Iterator[None]:
    """Turn whatever reading a damaged file raises into a DataError that names it. Our own errors pass."""
    try:
        yield
    except OneCLIPError:
        raise
    except (
        pyarrow().ArrowException,
        *(ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, TypeError, ValueError),
    ) as error:
        why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise DataError(f"{place} is damaged or no {what}: {why}") from error


def sound(data: Any) -> Any:
    """A batch or a column, every offset of it compared with the bytes that there are.

    Raises:
        pyarrow.ArrowInvalid: if they do not fit.
    """
    data.validate(full=True)
    return data


def values(column: Any) -> list[Any]:
    """The values of a column as Python's; of one that is damaged, nothing is read.

    Raises:
        pyarrow.ArrowInvalid: if it is damaged.
    """
    found: list[Any] = sound(column).to_pylist()
    return found
