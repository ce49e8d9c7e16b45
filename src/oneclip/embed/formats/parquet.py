"""Read and write embeddings as Parquet: columns `name`, `sha256` and `vector`, and metadata in the schema."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import IO, Any, TypeVar

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
from oneclip.errors import MissingExtraError
from oneclip.hub.arrow import as_data_error, import_pyarrow, validated

METADATA_PREFIX = "oneclip."
STAMP_COLUMNS = ("size", "mtime_ns")
T = TypeVar("T")


class ParquetFormat:
    """Reader and writer of .parquet."""

    suffix = ".parquet"

    def check(self) -> None:
        """Raise MissingExtraError without pyarrow."""
        if find_spec("pyarrow") is None:
            raise MissingExtraError("Writing Parquet", "parquet")

    def invalid_name_reason(self, name: str) -> str | None:
        """Reject names that are not valid Unicode, which file systems allow."""
        try:
            name.encode()
        except UnicodeEncodeError:
            return "its name is not valid Unicode, which Parquet requires; write a .npz instead"
        return None

    def write(self, file: IO[bytes], rows: EmbeddingRows, metadata: EmbeddingMetadata) -> None:
        """Write rows and metadata."""
        import pyarrow.parquet as pq

        pq.write_table(rows_to_table(rows, metadata), file)

    def read(self, file: IO[bytes], location: object) -> tuple[EmbeddingRows, EmbeddingMetadata]:
        """Read rows and metadata."""

        def rows_and_metadata(pq: Any) -> tuple[EmbeddingRows, EmbeddingMetadata]:
            table = validated(pq.read_table(file))
            metadata = metadata_of_schema(table.schema)
            width = table.schema.field("vector").type.list_size
            vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
            names, digests, stamps = digest_columns(table)
            rows = EmbeddingRows(names, digests, vectors, stamps)
            check_rows(rows, location)
            return rows, metadata

        return _reading(location, rows_and_metadata)

    def read_digests(
        self, file: IO[bytes], location: object
    ) -> tuple[list[str], list[str], list[FileStamp | None]]:
        """Read names, digests and stamps without the embeddings."""

        def digests(pq: Any) -> tuple[list[str], list[str], list[FileStamp | None]]:
            found = digest_columns(validated(pq.ParquetFile(file).read(["name", "sha256", *STAMP_COLUMNS])))
            check_names(*found[:2], location)
            return found

        return _reading(location, digests)


def rows_to_table(rows: EmbeddingRows, metadata: EmbeddingMetadata) -> Any:
    """Convert rows to an Arrow table with fixed-size lists of numbers, and the metadata in its schema."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), rows.vectors.shape[1])
    names, digests = pa.array(rows.names, pa.string()), pa.array(rows.digests, pa.string())
    stamps = {name: pa.array(column) for name, column in stamp_columns(rows.stamps).items()}
    entries = {f"{METADATA_PREFIX}{key}": value for key, value in metadata.to_dict().items()}
    table = pa.table({"name": names, "sha256": digests, "vector": vectors, **stamps})
    return table.replace_schema_metadata(entries)


def digest_columns(table: Any) -> tuple[list[str], list[str], list[FileStamp | None]]:
    """Return names, digests and stamps of an Arrow table or batch; None for each missing stamp."""
    names, digests = table["name"].to_pylist(), table["sha256"].to_pylist()
    if STAMP_COLUMNS[0] not in table.schema.names:
        return names, digests, [None] * len(names)
    return names, digests, stamps_from_columns(*(table[column].to_pylist() for column in STAMP_COLUMNS))


def metadata_of_schema(schema: Any) -> EmbeddingMetadata:
    """Return the metadata in an Arrow schema. Raises KeyError if there is none."""
    entries = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return EmbeddingMetadata.from_dict(
        {
            name: entries[METADATA_PREFIX + name]
            for name in METADATA_FIELDS
            if METADATA_PREFIX + name in entries
        }
    )


def _reading(location: object, read: Callable[[Any], T]) -> T:
    with as_data_error(location, "file of `oneclip embed`"):
        return read(import_pyarrow().parquet)
