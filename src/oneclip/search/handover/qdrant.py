"""Export an index to a collection of Qdrant.

    export_qdrant(index, "http://localhost:6333", collection="photos")

The id of a point is a UUID made of the path of its image, so that an export that is repeated replaces points. Each
point has the path, the SHA-256 and the facts of its image, with `location` for Qdrant's geographic filters.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import BrokenExtraError, MissingExtraError, OneCLIPError, OutputError
from oneclip.hub.http import RETRY_SECONDS
from oneclip.progress import Progress, report_progress
from oneclip.search.handover.rows import ExportBatch, ExportResult, IndexExport

if TYPE_CHECKING:
    from oneclip.search.index import Index
    from oneclip.search.results import Entry

API_KEY_VARIABLE = "QDRANT_API_KEY"
METADATA_KEY = "oneclip"  # in the metadata of a collection
POINTS_PER_REQUEST = 500  # about 5 MB of JSON at 512 numbers each; a server accepts 32 MB
POINTS_PER_PAGE = 5_000
TIMEOUT = 60  # seconds
_NAMESPACE = uuid.UUID("3d4f8a52-6f0e-5a3c-9a55-0c3d1e0b7f21")
_T = TypeVar("_T")


def export_qdrant(
    index: Index,
    url: str | Any,
    *,
    collection: str = "oneclip",
    api_key: str | None = None,
    progress: Progress = False,
) -> ExportResult:
    """Write the images of an index to a collection, or bring the collection up to date.

    Args:
        index: to export.
        url: of the server, such as "http://localhost:6333"; or a `QdrantClient`.
        collection: its name; created if it does not exist, with cosine distance.
        api_key: of the server; by default QDRANT_API_KEY.
        progress: see `oneclip.progress`; counts images.

    Raises:
        DataError: if the index has no images.
        OutputError: if the server fails, or something else made the collection; what was written is kept.
        MissingExtraError: if the client is not installed.
    """
    _check_installed()
    export = IndexExport(index)
    client: Any = url
    name = "Qdrant"
    if isinstance(url, str):
        from qdrant_client import QdrantClient

        with _errors(url, collection):
            key = api_key or os.environ.get(API_KEY_VARIABLE) or None
            client, name = QdrantClient(url=url, api_key=key, timeout=TIMEOUT, check_compatibility=False), url
    try:
        with _errors(name, collection):
            return _Target(export, client, collection, f"{name}, collection {collection}").write(progress)
    finally:
        if isinstance(url, str):
            client.close()


def point_id(path: str) -> str:
    """Return the id of the point of an image."""
    return str(uuid.uuid5(_NAMESPACE, path))


class _Target:
    """Collection that receives the rows of an index."""

    def __init__(self, export: IndexExport, client: Any, collection: str, location: str) -> None:
        self._export, self._client, self._collection, self._location = export, client, collection, location
        self._metadata = replace(export.metadata, stored="fp32")

    def write(self, progress: Progress) -> ExportResult:
        export, collection = self._export, self._collection
        if _retried(lambda: self._client.collection_exists(collection)):
            self._check_collection()
        else:
            self._create_collection()
        changes = export.compare(self._existing_rows())
        result = ExportResult(self._location, skipped=export.skipped, vector_index="HNSW")
        result.unchanged = len(export.entries) - len(changes.added) - len(changes.changed)
        with report_progress(progress, len(export.entries), "images") as count:
            count(result.unchanged)
            for batch in export.batches([*changes.changed, *changes.added], POINTS_PER_REQUEST):
                self._upsert(batch)
                count(len(batch.entries))
        result.changed, result.added = len(changes.changed), len(changes.added)
        for start in range(0, len(changes.removed), POINTS_PER_REQUEST):
            ids = [point_id(path) for path in changes.removed[start : start + POINTS_PER_REQUEST]]
            _retried(lambda ids=ids: self._client.delete(collection, points_selector=ids))  # type: ignore[misc]
            result.removed += len(ids)
        result.rows = _retried(lambda: self._client.count(collection)).count
        return result

    def _create_collection(self) -> None:
        from qdrant_client import models

        vectors = models.VectorParams(size=self._export.dim, distance=models.Distance.COSINE)
        metadata = {METADATA_KEY: self._metadata.to_dict()}
        _retried(
            lambda: self._client.create_collection(
                self._collection, vectors_config=vectors, metadata=metadata
            )
        )

    def _check_collection(self) -> None:
        """Check that an existing collection was made by the same model.

        Raises:
            OutputError: if it was not.
        """
        config = _retried(lambda: self._client.get_collection(self._collection)).config
        vectors = config.params.vectors
        found = f"vectors {vectors}"
        if hasattr(vectors, "size"):
            found = f"vectors of {vectors.size} numbers with {str(vectors.distance.value).lower()} distance"
        expected = f"vectors of {self._export.dim} numbers with cosine distance"
        values = (getattr(config, "metadata", None) or {}).get(METADATA_KEY)
        if values is not None:
            self._metadata.require_same(EmbeddingMetadata.from_dict(values), self._location)
        elif self._first_identity() not in (None, self._metadata.identity):
            raise OutputError(
                f"{self._location} was not made by `oneclip index export` with {self._metadata.model}. "
                "Nothing was changed; choose another collection"
            )
        if found != expected:
            raise OutputError(
                f"{self._location} has {found}; expected {expected}. Nothing was changed; choose another collection"
            )

    def _first_identity(self) -> str | None:
        """Return what made the embedding of any point; "" if it does not say so, None without points.

        Servers before 1.16 have no metadata of collections.
        """
        points, _ = _retried(
            lambda: self._client.scroll(self._collection, limit=1, with_payload=["embedding"])
        )
        return str((points[0].payload or {}).get("embedding", "")) if points else None

    def _existing_rows(self) -> Iterator[tuple[str, str, int | None, int | None]]:
        """Yield path, digest and stamp of each point."""
        offset: Any = None
        while True:
            points, offset = _retried(
                lambda offset=offset: self._client.scroll(  # type: ignore[misc]
                    self._collection,
                    limit=POINTS_PER_PAGE,
                    offset=offset,
                    with_payload=["path", "sha256", "size", "mtime_ns"],
                    with_vectors=False,
                )
            )
            for point in points:
                payload = point.payload or {}
                if "path" in payload:  # points of others stay
                    yield (
                        payload["path"],
                        payload.get("sha256", ""),
                        payload.get("size"),
                        payload.get("mtime_ns"),
                    )
            if offset is None:
                return

    def _upsert(self, batch: ExportBatch) -> None:
        from qdrant_client import models

        points = models.Batch(
            ids=[point_id(entry.path) for entry in batch.entries],
            vectors=batch.vectors.tolist(),
            payloads=[self._payload(entry) for entry in batch.entries],
        )
        _retried(lambda: self._client.upsert(self._collection, points=points))

    def _payload(self, entry: Entry) -> dict[str, Any]:
        """Return what a point has beside its vector, without what is unknown."""
        facts = {**self._export.facts(entry), "path": entry.path}
        if entry.facts.latitude is not None:
            facts["location"] = {"lat": entry.facts.latitude, "lon": entry.facts.longitude}
        stamp = {"sha256": entry.sha256, "size": entry.size, "mtime_ns": entry.mtime_ns}
        made_by = {"model": self._metadata.model, "embedding": self._metadata.identity}
        return {key: value for key, value in {**facts, **stamp, **made_by}.items() if value is not None}


def _retried(call: Callable[[], _T]) -> _T:
    """Call a server, again after a while if it is busy or cannot be reached."""
    for pause in RETRY_SECONDS:
        try:
            return call()
        except Exception as error:
            if not _is_transient(error):
                raise
        time.sleep(pause)
    return call()


def _is_transient(error: Exception) -> bool:
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return error.status_code is not None and (error.status_code == 429 or error.status_code >= 500)
    return isinstance(error, (ResponseHandlingException, ConnectionError, TimeoutError))


def _check_installed() -> None:
    if find_spec("qdrant_client") is None:
        raise MissingExtraError("Exporting to Qdrant", "qdrant")
    try:
        import qdrant_client  # noqa: F401
    except ImportError as error:
        raise BrokenExtraError("Exporting to Qdrant", "qdrant-client", str(error)) from error


@contextmanager
def _errors(location: str, collection: str) -> Iterator[None]:
    """Turn the exceptions of the client into OutputError."""
    try:
        yield
    except OneCLIPError:
        raise
    except Exception as error:  # of the client, of its HTTP library, and of pydantic
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(
            f"{location}, collection {collection}, could not be written: {reason[:500]}. "
            "What was written is kept; the same command continues"
        ) from error
