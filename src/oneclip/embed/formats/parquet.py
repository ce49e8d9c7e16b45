"""Rows to Parquet and back: columns `name`, `sha256` and `vector`, and in the schema's metadata what made them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import IO, Any, TypeVar

from oneclip.arrow import explained, pyarrow, sound
from oneclip.embed.rows import FACTS, Facts, Rows, check_names, check_rows
from oneclip.errors import MissingExtraError

PREFIX = "oneclip."
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
            rows = Rows(table["name"].to_pylist(), table["sha256"].to_pylist(), vectors)
            check_rows(rows, place)
            return rows, facts

        return _reading(place, rows_and_facts)

    def read_digests(self, file: IO[bytes], place: object) -> tuple[list[str], list[str]]:
        """Names and digests alone."""

        def digests(pq: Any) -> tuple[list[str], list[str]]:
            table = sound(pq.read_table(file, columns=["name", "sha256"]))
            names, digests = table["name"].to_pylist(), table["sha256"].to_pylist()
            check_names(names, digests, place)
            return names, digests

        return _reading(place, digests)


def to_table(rows: Rows, facts: Facts) -> Any:
    """Rows as an Arrow table, its vectors lists of one fixed size, with what made them in its schema's metadata."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), rows.vectors.shape[1])
    names, digests = pa.array(rows.names, pa.string()), pa.array(rows.digests, pa.string())
    metadata = {f"{PREFIX}{key}": value for key, value in facts.to_dict().items()}
    table = pa.table({"name": names, "sha256": digests, "vector": vectors})
    return table.replace_schema_metadata(metadata)


def facts_of(schema: Any) -> Facts:
    """What made the vectors of a table with this Arrow schema; a KeyError if it does not say."""
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return Facts.from_dict({name: metadata[PREFIX + name] for name in FACTS})


def _reading(place: object, read: Callable[[Any], T]) -> T:
    with explained(place, "vectors of `oneclip embed`"):
        return read(pyarrow().parquet)
