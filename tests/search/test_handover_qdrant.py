"""Export to Qdrant: points, updates, refusals and retries, on the local mode of its client."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import write_image
from tiny import write_tiny_model

import oneclip
from oneclip.errors import MissingExtraError, OutputError
from oneclip.search import Index
from oneclip.search.handover.qdrant import export_qdrant, point_id

qdrant_client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")


@pytest.fixture
def client() -> Iterator[Any]:
    """The client's local mode: a store in memory."""
    client = qdrant_client.QdrantClient(":memory:")
    yield client
    client.close()


@pytest.fixture
def index(index: Index, photos: Path) -> Index:
    """An index of six images."""
    index.update(photos)
    return index


def payloads(client: Any) -> dict[str, dict[str, Any]]:
    """Payloads of all points by path; no path is there twice."""
    points, _ = client.scroll("oneclip", limit=100)
    found = {point.payload["path"]: point.payload for point in points}
    assert len(found) == len(points)
    return found


def test_a_point_has_the_embedding_and_the_facts_of_its_image(
    index: Index, photos: Path, client: Any
) -> None:
    result = export_qdrant(index, client)
    assert (result.rows, result.added) == (6, 6)
    path = str(photos / "3.png")
    (entry,) = (entry for entry in index.entries() if entry.path == path)
    (point,) = client.retrieve("oneclip", [point_id(path)], with_vectors=True)
    assert point.payload == {
        "path": path,
        "sha256": entry.sha256,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "width": 40,
        "height": 36,
        "format": "png",
        "perceptual_hash": entry.facts.perceptual_hash,
        "model": index.model_name,
        "embedding": index.metadata.identity,
    }
    np.testing.assert_allclose(point.vector, index.encoder.encode_images([path])[0], atol=1e-5)


def test_the_nearest_point_is_that_of_the_image(index: Index, photos: Path, client: Any) -> None:
    export_qdrant(index, client)
    vector = index.encoder.encode_images([str(photos / "4.png")])[0]
    (nearest,) = client.query_points("oneclip", query=vector.tolist(), limit=1).points
    assert nearest.payload["path"] == str(photos / "4.png")
    assert nearest.score == pytest.approx(1, abs=1e-5)


def test_a_place_can_be_filtered(index: Index, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = index.entries()
    entries[2] = replace(entries[2], facts=replace(entries[2].facts, latitude=52.52, longitude=13.4))
    monkeypatch.setattr(index, "entries", lambda: entries)
    export_qdrant(index, client)
    models = qdrant_client.models
    near = models.GeoRadius(center=models.GeoPoint(lat=52.5, lon=13.4), radius=5_000)
    condition = models.Filter(must=[models.FieldCondition(key="location", geo_radius=near)])
    points, _ = client.scroll("oneclip", scroll_filter=condition)
    assert [point.payload["path"] for point in points] == [entries[2].path]


def test_a_second_export_writes_only_what_has_changed(
    index: Index, photos: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.search.handover.qdrant.POINTS_PER_PAGE", 2)
    export_qdrant(index, client)
    models = qdrant_client.models
    point = models.PointStruct(id=point_id("others"), vector=[1.0] * 16, payload={"path": "/of/others.png"})
    client.upsert("oneclip", [point, models.PointStruct(id=7, vector=[1.0] * 16)])
    write_image(photos / "1.png", 11)
    os.utime(photos / "1.png", (1_600_000_100, 1_600_000_100))
    (photos / "2.png").unlink()
    write_image(photos / "6.png", 12)
    index.update()
    result = export_qdrant(index, client)
    assert (result.added, result.changed, result.removed, result.unchanged, result.rows) == (1, 1, 1, 4, 8)
    client.delete("oneclip", points_selector=[7])
    found = payloads(client)
    assert found.keys() == {entry.path for entry in index.entries()} | {"/of/others.png"}
    assert all(found[entry.path]["sha256"] == entry.sha256 for entry in index.entries())


@pytest.mark.parametrize("has_metadata", [True, False], ids=["metadata", "older server"])
def test_a_collection_of_another_model_is_refused(
    index: Index, client: Any, photos: Path, tmp_path: Path, has_metadata: bool
) -> None:
    export_qdrant(index, client)
    if not has_metadata:
        client.update_collection("oneclip", metadata={"oneclip": None})
    before = payloads(client)
    other = oneclip.load(write_tiny_model(tmp_path / "other.safetensors", seed=1))
    index_of_other = Index(tmp_path / "other.index", model=other)
    index_of_other.update(photos)
    with pytest.raises(OutputError, match="Nothing was changed"):
        export_qdrant(index_of_other, client)
    assert payloads(client) == before
    assert export_qdrant(index, client).unchanged == 6


def test_a_collection_of_another_width_or_distance_is_refused(index: Index, client: Any) -> None:
    models = qdrant_client.models
    vectors = models.VectorParams(size=16, distance=models.Distance.DOT)
    client.create_collection("oneclip", vectors_config=vectors)
    with pytest.raises(
        OutputError, match="has vectors of 16 numbers with dot distance; expected vectors of 16"
    ):
        export_qdrant(index, client)


def test_a_missing_package_names_the_extra(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.search.handover.qdrant.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[qdrant\]"):
        export_qdrant(index, "http://127.0.0.1:1")


# ------------------------------------------------------------------------------- requests that a server receives


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str], list[int]]]:
    """Address of a server that answers like an empty one; the requests; and statuses that it answers first."""
    requests: list[str] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            assert self.headers.get("api-key") == "secret"
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                points = (
                    len(json.loads(body)["batch"]["ids"])
                    if self.path.partition("?")[0].endswith("/points")
                    else ""
                )
                requests.append(f"{self.command} {self.path.partition('?')[0]} {points}".strip())
            results: dict[str, Any] = {
                "exists": {"exists": False},
                "scroll": {"points": []},
                "count": {"count": 6},
            }
            update = (
                {"operation_id": 1, "status": "completed"}
                if self.path.partition("?")[0].endswith("points")
                else True
            )
            result = results.get(self.path.partition("?")[0].rpartition("/")[2], update)
            content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setattr("oneclip.search.handover.qdrant.RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", requests, statuses
    http.shutdown()
    http.server_close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_points_are_sent_in_batches_with_the_key(
    index: Index, server: tuple[str, list[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.search.handover.qdrant.POINTS_PER_REQUEST", 4)
    url, requests, _ = server
    assert export_qdrant(index, url, collection="photos").added == 6
    assert requests == [
        "GET /collections/photos/exists",
        "PUT /collections/photos",
        "POST /collections/photos/points/scroll",
        "PUT /collections/photos/points 4",
        "PUT /collections/photos/points 2",
        "POST /collections/photos/points/count",
    ]


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(("given", "works"), [([503, 429], True), ([500, 502, 503], False), ([403], False)])
def test_only_busy_servers_are_asked_again(
    index: Index, server: tuple[str, list[str], list[int]], given: list[int], works: bool
) -> None:
    url, _, statuses = server
    statuses += given
    if works:
        assert export_qdrant(index, url).added == 6
    else:
        with pytest.raises(OutputError, match=f"{given[-1]}.*the same command continues"):
            export_qdrant(index, url)
    assert not statuses


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_cannot_be_reached_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.search.handover.qdrant.RETRY_SECONDS", ())
    with pytest.raises(OutputError, match=r"http://127\.0\.0\.1:1, collection oneclip, could not be written"):
        export_qdrant(index, "http://127.0.0.1:1")
