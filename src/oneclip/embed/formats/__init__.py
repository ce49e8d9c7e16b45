"""File formats of embeddings: one module for each, with a common interface."""

from __future__ import annotations

from typing import IO, Protocol, TypeAlias

from oneclip.embed.formats.npz import NpzFormat
from oneclip.embed.formats.parquet import ParquetFormat
from oneclip.embed.items import FileStamp
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.errors import ConfigError

Digests: TypeAlias = tuple[list[str], list[str], list[FileStamp | None]]
"""Names, digests and stamps of rows."""


class OutputFormat(Protocol):
    """Interface of a format."""

    suffix: str

    def check(self) -> None:
        """Raise MissingExtraError if its library is not installed."""

    def invalid_name_reason(self, name: str) -> str | None:
        """Return why a row cannot have this name, or None if it can."""

    def write(self, file: IO[bytes], rows: EmbeddingRows, metadata: EmbeddingMetadata) -> None:
        """Write rows and metadata."""

    def read(self, file: IO[bytes], location: object) -> tuple[EmbeddingRows, EmbeddingMetadata]:
        """Read rows and metadata. Errors name the file by `location`.

        Raises DataError for a damaged file, or one not written here.
        """

    def read_digests(self, file: IO[bytes], location: object) -> Digests:
        """Read names, digests and stamps without the embeddings. Raises as `read`."""


FORMATS: dict[str, OutputFormat] = {format.suffix: format for format in (NpzFormat(), ParquetFormat())}


def get_format(suffix: str) -> OutputFormat:
    """Return the format of files with this suffix.

    Raises:
        ConfigError: for an unknown suffix.
    """
    if suffix.lower() not in FORMATS:
        raise ConfigError(f"unknown format {suffix!r}; available: {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


__all__ = ["FORMATS", "Digests", "OutputFormat", "get_format"]
