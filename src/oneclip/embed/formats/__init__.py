"""Rows of vectors to files and back: a file of this folder for each format, all of the same shape."""

from __future__ import annotations

from typing import IO, Protocol, TypeAlias

from oneclip.embed.formats.npz import Npz
from oneclip.embed.formats.parquet import Parquet
from oneclip.embed.items import Stamp
from oneclip.embed.rows import Facts, Rows
from oneclip.errors import ConfigError

Digests: TypeAlias = tuple[list[str], list[str], list[Stamp | None]]
"""Names, digests and stamps of rows."""


class Format(Protocol):
    """How rows are written and read."""

    suffix: str

    def check(self) -> None:
        """Raise a MissingExtraError if its library is not installed."""

    def fault(self, name: str) -> str | None:
        """Why a row cannot have this name; None if it can."""

    def write(self, file: IO[bytes], rows: Rows, facts: Facts) -> None:
        """Write rows and what made them."""

    def read(self, file: IO[bytes], place: object) -> tuple[Rows, Facts]:
        """Read both back from a file, which errors call `place`.

        Raises a DataError for one that was not written here, or is damaged.
        """

    def read_digests(self, file: IO[bytes], place: object) -> Digests:
        """All but the vectors. Raises likewise."""


FORMATS: dict[str, Format] = {format.suffix: format for format in (Npz(), Parquet())}


def format_of(suffix: str) -> Format:
    """The format that files with this suffix have.

    Raises:
        ConfigError: if there is none.
    """
    if suffix.lower() not in FORMATS:
        raise ConfigError(f"{suffix!r} is no format of vectors; there is {' and '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


__all__ = ["FORMATS", "Digests", "Format", "format_of"]
