"""Export an index to a table of PostgreSQL with the extension pgvector.

    export_pgvector(index, "postgresql://localhost/photos", table="photos")

The table has one row for each image: path, SHA-256, facts, and `embedding`. Its comment says which model made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import BrokenExtraError, ConfigError, MissingExtraError, OneCLIPError, OutputError
from oneclip.progress import Progress, report_progress
from oneclip.search.handover.rows import ExportBatch, ExportResult, IndexExport

if TYPE_CHECKING:
    from oneclip.search.index import Index

METADATA_KEY = "oneclip"  # in the comment of the table
ROWS_PER_TRANSACTION = 1_000
VECTOR_INDEXED = 2_000  # numbers of the longest `vector` that has an HNSW index
HALFVEC_INDEXED = 4_000  # numbers of the longest `halfvec` that has one; pgvector 0.7
COLUMNS = {
    "path": "text PRIMARY KEY",
    "sha256": "text NOT NULL",
    "size": "bigint",
    "mtime_ns": "bigint",
    "width": "integer",
    "height": "integer",
    "format": "text",
    "taken_at": "timestamp",  # local time where the image was taken
    "camera": "text",
    "latitude": "double precision",
    "longitude": "double precision",
    "perceptual_hash": "bigint",
}
EMBEDDING = "embedding"


def export_pgvector(
    index: Index, dsn: str, *, table: str = "images", progress: Progress = False
) -> ExportResult:
    """Write the images of an index to a table, or bring the table up to date.

    Args:
        index: to export.
        dsn: of the database, as libpq takes it: "postgresql://user@host/database". Passwords may come from PGPASSWORD
            or ~/.pgpass.
        table: name, or schema and name with a dot between them; created if it does not exist.
        progress: see `oneclip.progress`; counts images.

    Raises:
        ConfigError: for an invalid name of a table.
        DataError: if the index has no images.
        OutputError: if the database fails, or something else made the table; finished transactions are kept.
        MissingExtraError: if psycopg or pgvector is not installed.
    """
    parts = table.split(".")
    if not 1 <= len(parts) <= 2 or not all(parts):
        raise ConfigError(f"{table!r} is not the name of a table; expected TABLE or SCHEMA.TABLE")
    psycopg = _import_psycopg()
    export = IndexExport(index)
    with _errors(f"table {table}"), psycopg.connect(dsn, autocommit=True) as connection:
        location = f"{connection.info.host or 'localhost'}/{connection.info.dbname}, table {table}"
        with _errors(location):
            return _Target(export, connection, parts, location).write(progress)


class _Target:
    """Table that receives the rows of an index."""

    def __init__(self, export: IndexExport, connection: Any, parts: list[str], location: str) -> None:
        from psycopg import sql

        self._export, self._connection, self._location = export, connection, location
        self._table, self._name = sql.Identifier(*parts), parts[-1]
        self._metadata = replace(export.metadata, stored="fp32")
        self._type = "halfvec" if VECTOR_INDEXED < export.dim <= HALFVEC_INDEXED else "vector"

    def write(self, progress: Progress) -> ExportResult:
        from pgvector.psycopg import register_vector

        export = self._export
        self._create_extension()
        register_vector(self._connection)
        if self._query("SELECT to_regclass({})", self._literal(self._table.as_string(self._connection)))[0][
            0
        ]:
            self._check_table()
        else:
            self._create_table()
        changes = export.compare(self._existing_rows())
        result = ExportResult(self._location, skipped=export.skipped)
        result.unchanged = len(export.entries) - len(changes.added) - len(changes.changed)
        with report_progress(progress, len(export.entries), "images") as count:
            count(result.unchanged)
            for batch in export.batches([*changes.changed, *changes.added], ROWS_PER_TRANSACTION):
                self._upsert(batch)
                count(len(batch.entries))
        result.changed, result.added = len(changes.changed), len(changes.added)
        for start in range(0, len(changes.removed), ROWS_PER_TRANSACTION):
            paths = changes.removed[start : start + ROWS_PER_TRANSACTION]
            self._execute("DELETE FROM {} WHERE path = ANY(%s)", self._table, values=(paths,))
            result.removed += len(paths)
        result.vector_index = self._create_index()
        result.rows = int(self._query("SELECT count(*) FROM {}", self._table)[0][0])
        return result

    # -------------------------------------------------------------------------------------------------- the table

    def _create_extension(self) -> None:
        import psycopg

        try:
            self._execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise OutputError(
                f"{self._location}: the extension pgvector is missing ({_reason(error)}); install it on the server, "
                "and let an administrator run CREATE EXTENSION vector"
            ) from error

    def _create_table(self) -> None:
        from psycopg import sql

        columns = [sql.SQL("{} " + kind).format(sql.Identifier(name)) for name, kind in COLUMNS.items()]
        columns.append(
            sql.SQL("{} " + self._type + "({})").format(
                sql.Identifier(EMBEDDING), self._literal(self._export.dim)
            )
        )
        comment = json.dumps({METADATA_KEY: self._metadata.to_dict()})
        with self._connection.transaction():
            self._execute("CREATE TABLE {} ({})", self._table, sql.SQL(", ").join(columns))
            self._execute("COMMENT ON TABLE {} IS {}", self._table, self._literal(comment))

    def _check_table(self) -> None:
        """Check that an existing table was made by the same model.

        Raises:
            OutputError: if it was not.
        """
        name = self._literal(self._table.as_string(self._connection))
        comment = self._query("SELECT obj_description(to_regclass({}), 'pg_class')", name)[0][0]
        try:
            found = EmbeddingMetadata.from_dict(json.loads(comment or "")[METADATA_KEY])
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._location} was not made by `oneclip index export`. Nothing was changed; choose another table"
            ) from error
        self._metadata.require_same(found, self._location)
        types = self._query(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass({}) AND attname = {}",
            name,
            self._literal(EMBEDDING),
        )
        expected = f"{self._type}({self._export.dim})"
        if [kind.rpartition(".")[2] for (kind,) in types] != [expected]:
            raise OutputError(
                f"{self._location} has an embedding of type {types[0][0] if types else 'none'}; expected {expected}. "
                "Nothing was changed; choose another table"
            )

    def _create_index(self) -> str | None:
        """Index the embeddings; None if they are too long for that."""
        from psycopg import sql

        if self._export.dim > HALFVEC_INDEXED:
            return None
        name = sql.Identifier(f"{self._name[:40]}_{EMBEDDING}_hnsw")
        self._execute(
            "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw ({} {})",
            name,
            self._table,
            sql.Identifier(EMBEDDING),
            sql.SQL(f"{self._type}_cosine_ops"),
        )
        return "HNSW"

    # ------------------------------------------------------------------------------------------------------- rows

    def _existing_rows(self) -> Iterator[tuple[str, str, int | None, int | None]]:
        """Yield path, digest and stamp of each row, without holding all of them."""
        query = self._sql("SELECT path, sha256, size, mtime_ns FROM {}", self._table)
        with self._connection.transaction(), self._connection.cursor("oneclip_rows") as cursor:
            cursor.itersize = 10_000
            yield from cursor.execute(query)

    def _upsert(self, batch: ExportBatch) -> None:
        """Write rows in one transaction: copied to a temporary table first, which is faster than single statements."""
        from psycopg import sql

        names = [*COLUMNS, EMBEDDING]
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        updates = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names if name != "path"
        )
        staging = sql.Identifier("oneclip_staging")
        with self._connection.transaction(), self._connection.cursor() as cursor:
            self._execute("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP", staging, self._table)
            with cursor.copy(self._sql("COPY {} ({}) FROM STDIN", staging, columns)) as copy:
                for values in self._rows(batch):
                    copy.write_row(values)
            self._execute(
                "INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT (path) DO UPDATE SET {}",
                self._table,
                columns,
                columns,
                staging,
                updates,
            )

    def _rows(self, batch: ExportBatch) -> Iterator[list[Any]]:
        from pgvector import HalfVector, Vector

        convert = HalfVector if self._type == "halfvec" else Vector
        for entry, vector in zip(batch.entries, batch.vectors, strict=True):
            known = {**self._export.facts(entry), "path": entry.path, "sha256": entry.sha256}
            known |= {"size": entry.size, "mtime_ns": entry.mtime_ns}
            yield [*(known[name] for name in COLUMNS), convert(vector)]

    # -------------------------------------------------------------------------------------------------------- SQL

    def _sql(self, statement: str, *parts: Any) -> Any:
        from psycopg import sql

        return sql.SQL(statement).format(*parts)

    def _literal(self, value: Any) -> Any:
        from psycopg import sql

        return sql.Literal(value)

    def _execute(self, statement: str, *parts: Any, values: Any = None) -> Any:
        return self._connection.execute(self._sql(statement, *parts), values)

    def _query(self, statement: str, *parts: Any) -> list[Any]:
        found: list[Any] = self._execute(statement, *parts).fetchall()
        return found


def _import_psycopg() -> Any:
    for package in ("psycopg", "pgvector"):
        if find_spec(package) is None:
            raise MissingExtraError("Exporting to PostgreSQL", "pgvector")
    try:
        import psycopg
    except ImportError as error:  # without libpq
        raise BrokenExtraError("Exporting to PostgreSQL", "psycopg", str(error)) from error
    return psycopg


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _errors(location: str) -> Iterator[None]:
    """Turn the exceptions of psycopg into OutputError."""
    import psycopg

    try:
        yield
    except OneCLIPError:
        raise
    except psycopg.Error as error:
        raise OutputError(
            f"{location} could not be written: {_reason(error)[:500]}. "
            "What was written is kept; the same command continues"
        ) from error
