"""Rows to Parquet and back: columns `name`, `sha256` and `vector`, and in the schema's metadata what made them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import IO, Any, TypeVar

from oneclip.embed.items import Stamp
from oneclip.embed.rows import FACTS, Facts, Rows, check_names, check_rows, stamp_columns, stamps_of
from oneclip.errors import MissingExtraError
from oneclip.hub.arrow import explained, pyarrow, sound

PREFIX = "oneclip."
STAMP_COLUMNS = ("size", "mtime_ns")
T = TypeVar("T")


class Parquet:
    """Reads and writes .parquet."""

    suffix = ".parquet"

    def check(self) -> None:
        """Raise a MissingExtraError without pyarrow."""
        if find_spec("pyarrow") is None:
            raise MissingExtraError("Writing Parquet", "parquet")

    def fault(self, name: str) -> str | None:
        """Parquet takes Unicode alone; file systems take other names, too."""
        try:
            name.encode()
        except UnicodeEncodeError:
            return "its name is no valid Unicode, as Parquet needs it; a .npz takes it"
        return None

    def write(self, file: IO[bytes], rows: Rows, facts: Facts) -> None:
        """Write rows and what made them."""
        import pyarrow.parquet as pq

        pq.write_table(to_table(rows, facts), file)

    def read(self, file: IO[bytes], place: object) -> tuple[Rows, Facts]:
        """Read both back."""

        def rows_and_facts(pq: Any) -> tuple[Rows, Facts]:
            table = sound(pq.read_table(file))
            facts = facts_of(table.schema)
            width = table.schema.field("vector").type.list_size
            vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
            names, digests, stamps = digests_of(table)
            rows = Rows(names, digests, vectors, stamps)
            check_rows(rows, place)
            return rows, facts

        return _reading(place, rows_and_facts)

    def read_digests(self, file: IO[bytes], place: object) -> tuple[list[str], list[str], list[Stamp | None]]:
        """All but the vectors."""

        def digests(pq: Any) -> tuple[list[str], list[str], list[Stamp | None]]:
            found = digests_of(sound(pq.ParquetFile(file).read(["name", "sha256", *STAMP_COLUMNS])))
            check_names(*found[:2], place)
            return found

        return _reading(place, digests)


def to_table(rows: Rows, facts: Facts) -> Any:
    """Rows as an Arrow table, its vectors lists of one fixed size, with what made them in its schema's metadata."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), rows.vectors.shape[1])
    names, digests = pa.array(rows.names, pa.string()), pa.array(rows.digests, pa.string())
    stamps = {name: pa.array(column) for name, column in stamp_columns(rows.stamps).items()}
    metadata = {f"{PREFIX}{key}": value for key, value in facts.to_dict().items()}
    table = pa.table({"name": names, "sha256": digests, "vector": vectors, **stamps})
    return table.replace_schema_metadata(metadata)


def digests_of(table: Any) -> tuple[list[str], list[str], list[Stamp | None]]:
    """Names, digests and stamps of an Arrow table or batch; those of before there were stamps have none."""
    names, digests = table["name"].to_pylist(), table["sha256"].to_pylist()
    if STAMP_COLUMNS[0] not in table.schema.names:
        return names, digests, [None] * len(names)
    return names, digests, stamps_of(*(table[column].to_pylist() for column in STAMP_COLUMNS))


def facts_of(schema: Any) -> Facts:
    """What made the vectors of a table with this Arrow schema; a KeyError if it does not say."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return Facts.from_dict({name: metadata[PREFIX + name] for name in FACTS if PREFIX + name in metadata})


def _reading(place: object, read: Callable[[Any], T]) -> T:
    with explained(place, "vectors of `oneclip embed`"):
        return read(pyarrow().parquet)
