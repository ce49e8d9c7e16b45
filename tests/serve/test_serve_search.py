"""POST /v1/search, GET /v1/indexes, thumbnails and duplicates, compared with the commands and with the index."""

import base64
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import oneclip
from oneclip.search import Index
from oneclip.search.ranking import FileSelection
from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings
from oneclip.serve.thumbnails import Thumbnails

DATES = {"cat": "2023:05:01 12:30:00", "car": "2021:01:02 03:04:05", "tree": "2024:07:08 09:10:11"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, images: dict[str, bytes]) -> Path:
    """A folder with the example images, some as photographs with a date and a camera, and copies of one."""
    folder = tmp_path_factory.mktemp("library") / "photos"
    (folder / "more").mkdir(parents=True)
    for name, content in images.items():
        if name in DATES:
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0x9003] = DATES[name]
            exif[0x110] = "Box Brownie"
            Image.open(io.BytesIO(content)).convert("RGB").save(folder / f"{name}.jpg", quality=95, exif=exif)
        else:
            (folder / f"{name}.png").write_bytes(content)
    shutil.copy(folder / "fish.png", folder / "more" / "copy of fish.png")
    return folder


@pytest.fixture(scope="module")
def index(photos: Path, encoder: oneclip.Encoder) -> Iterator[Index]:
    """The index of the folder, up to date."""
    with Index(photos.with_name("photos.index"), model=encoder) as index:
        index.update(photos)
        yield index


@pytest.fixture(scope="module")
def client(index: Index) -> Iterator[TestClient]:
    """A client of a server with the index."""
    app = create_app(ServeSettings(index=(str(index.path),)))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def search(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/search", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def names(answer: dict[str, Any]) -> list[str]:
    return [Path(hit["path"]).stem for hit in answer["results"]]


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare answers; a server encodes queries in other batches, so numbers may differ by rounding."""
    assert {key: found[key] for key in expected if key != "results"} == {
        key: value for key, value in expected.items() if key != "results"
    }
    assert len(found["results"]) == len(expected["results"])
    for hit, other in zip(found["results"], expected["results"], strict=True):
        assert hit.keys() == other.keys()
        for key, value in other.items():
            assert hit[key] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), key


# ----------------------------------------------------------------------------------------------------- searching


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ({"query": "a cat"}, {}),
        ({"query": ["2:a cat", "a car"], "top": 3}, {}),
        ({"query": "a cat", "not": ["a dog", "3:a tree"]}, {"exclude": ["a dog", "3:a tree"]}),
        ({"query": "a cat", "where": "camera ~ brownie"}, {"where": "camera ~ brownie"}),
        ({"query": "a cat", "sort": "date", "top": 6}, {"sort": "date"}),
        ({"query": "a cat", "min_relevance": 0.01, "top": 5}, {"min_relevance": 0.01}),
        ({"query": "a fish", "distinct": True, "top": 4}, {"distinct": True}),
    ],
    ids=["words", "weights", "not", "where", "date", "relevance", "distinct"],
)
def test_an_answer_is_that_of_the_index(
    client: TestClient, index: Index, body: dict[str, Any], arguments: dict[str, Any]
) -> None:
    words = body["query"] if isinstance(body["query"], list) else [body["query"]]
    expected = index.search(*words, top_k=body.get("top", 20), **arguments)
    assert_same(search(client, **body), expected.to_dict())


def test_an_answer_is_what_the_command_prints(
    client: TestClient, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    from oneclip.cli.app import run

    run(["search", "a cat", "--not", "a dog", "--index", str(index.path), "--no-update", "--json"])
    assert_same(search(client, query="a cat", **{"not": "a dog"}), json.loads(capsys.readouterr().out))


def test_an_image_that_is_sent_is_what_its_path_is_for_the_index(
    client: TestClient, index: Index, photos: Path
) -> None:
    path = photos / "house.png"
    found = search(client, query="a tree", like=[data_uri(path.read_bytes())])
    assert_same(found, index.search("a tree", like=str(path)).to_dict())


def test_an_indexed_image_is_found_by_its_digest_without_being_read(
    client: TestClient, index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photos / "house.png"
    expected = index.search(like=str(path))
    monkeypatch.setattr("oneclip.image.decode.open_image", None)
    found = search(client, like={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    assert_same(found, expected.to_dict())


def test_a_text_is_never_a_path(client: TestClient, index: Index, photos: Path) -> None:
    path = str(photos / "house.png")
    found = search(client, query=path)
    vector = index.encoder.encode_texts(path)[0]
    image = index.encoder.encode_images(found["results"][0]["path"])[0]
    assert found["results"][0]["score"] == pytest.approx(float(vector @ image), abs=1e-4)


def test_pages_are_parts_of_one_ranking_and_encode_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(client, query="a boat", top=9, offset=0)
    embedder = client.app.state.server.embedder  # type: ignore[attr-defined]
    monkeypatch.setattr(embedder, "embed_texts", None)
    pages = [search(client, query="a boat", top=4, offset=offset) for offset in (0, 4, 8, 12)]
    assert [hit for page in pages for hit in page["results"]] == whole["results"]
    assert [page["total"] for page in pages] == [9] * 4


def test_pages_are_of_all_results_with_enough_relevance(client: TestClient) -> None:
    whole = search(client, query="a cat", top=9, offset=0)["results"]
    limit = sorted(hit["relevance"] for hit in whole)[5]
    page = search(client, query="a cat", top=2, offset=2, min_relevance=limit)
    passing = [hit for hit in whole if hit["relevance"] >= limit]
    assert page["results"] == passing[2:4]
    assert (page["total"], page["hidden"]) == (len(passing), 9 - len(passing))


def test_without_a_query_the_newest_images_come_first(client: TestClient) -> None:
    answer = search(client, query="", top=4, offset=0)
    assert names(answer)[:3] == ["tree", "cat", "car"]
    assert (answer["total"], answer["results"][0]["score"], answer["results"][0]["relevance"]) == (
        9,
        None,
        None,
    )


def test_the_histogram_of_the_first_page_counts_all_images(client: TestClient) -> None:
    answer = search(client, query="a cat", top=1, offset=0)
    assert sum(answer["histogram"]["counts"]) == 9
    assert len(answer["histogram"]["edges"]) == len(answer["histogram"]["counts"]) + 1
    assert "histogram" not in search(client, query="a cat", top=1, offset=1)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"query": 3}, 400, "query"),
        ({"query": ["a", " "]}, 400, "query[1]"),
        ({"query": ["a", "0:b"]}, 400, "query[1]"),
        ({"query": "a cat " * 60}, 400, "query"),
        ({"query": "a", "not": ["b", "c " * 99]}, 400, "not[1]"),
        ({"not": "a"}, 400, "not"),
        ({"query": ["a"] * 65}, 400, "query"),
        ({"like": "examples/images/cat.png"}, 400, "like"),
        ({"like": [data_uri(b"no image")]}, 400, "like[0]"),
        ({"like": {"sha256": "0" * 64}}, 400, "like"),
        ({"like": {"sha256": "../../etc/passwd"}}, 400, "like.sha256"),
        ({"query": "a", "where": "widht > 3"}, 400, "where"),
        ({"min_relevance": 0.5}, 400, "min_relevance"),
        ({"query": "a", "min_relevance": 2}, 422, "min_relevance"),
        ({"query": "a", "top": 0}, 422, "top"),
        ({"query": "a", "sort": "size"}, 422, "sort"),
        ({"query": "a", "folder": "/"}, 422, "folder"),
        ({"query": "a", "index": "other"}, 404, "index"),
    ],
    ids=str,
)
def test_an_error_names_the_part(client: TestClient, body: dict[str, Any], status: int, param: str) -> None:
    response = client.post("/v1/search", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ({"query": "2:"}, "query is empty; give words that describe an image"),
        ({"query": "a cat " * 60}, "; shorten it"),
    ],
    ids=str,
)
def test_an_error_advises_nothing_that_a_search_cannot_do(
    client: TestClient, body: dict[str, Any], end: str
) -> None:
    message = client.post("/v1/search", json=body).json()["error"]["message"]
    assert message.endswith(end)


def test_an_image_that_ends_early_is_to_be_sent_whole(client: TestClient, images: dict[str, bytes]) -> None:
    cut = data_uri(images["cat"][: len(images["cat"]) // 2])
    message = client.post("/v1/search", json={"like": cut}).json()["error"]["message"]
    assert message.endswith("; send the complete file")


def test_a_text_that_is_too_long_may_be_cut_where_the_request_has_a_field_for_it(client: TestClient) -> None:
    message = client.post("/v1/embeddings", json={"input": "a cat " * 60}).json()["error"]["message"]
    assert message.endswith('; shorten it, or allow truncation with the field "truncate"')


# ------------------------------------------------------------------------------------------- indexes and thumbnails


def test_an_index_says_what_is_in_it(client: TestClient, index: Index, photos: Path) -> None:
    (found,) = client.get("/v1/indexes").json()["indexes"]
    facets = {name: found["facets"].pop(name) for name in ("folders", "cameras")}
    assert (found["name"], found["model"], found["images"], found["is_ready"]) == (
        "photos",
        "pocket",
        9,
        True,
    )
    assert found["roots"] == [{"path": str(photos), "is_reachable": True}]
    assert found["updated_at"] == index.status().updated_at
    assert found["facets"]["taken_at"] == {"first": "2021-01-02T03:04:05", "last": "2024-07-08T09:10:11"}
    assert facets["folders"] == [{"value": "", "count": 8}, {"value": "more", "count": 1}]
    assert facets["cameras"] == [{"value": None, "count": 6}, {"value": "Box Brownie", "count": 3}]


def test_a_thumbnail_is_found_by_content_and_kept_by_the_browser(client: TestClient, photos: Path) -> None:
    digest = hashlib.sha256((photos / "cat.jpg").read_bytes()).hexdigest()
    address = f"/v1/indexes/photos/thumbs/{digest}"
    response = client.get(address)
    assert (response.headers["content-type"], response.headers["etag"]) == ("image/jpeg", f'"{digest}"')
    assert "immutable" in response.headers["cache-control"]
    thumbnail = np.asarray(Image.open(io.BytesIO(response.content)), np.float32)
    original = np.asarray(Image.open(photos / "cat.jpg"), np.float32)
    assert thumbnail.shape == original.shape  # the original has 256 pixels, too
    assert np.abs(thumbnail - original).mean() < 5
    assert client.get(f"{address}?size=1600").status_code == 200
    again = client.get(address, headers={"If-None-Match": f'W/"{digest}"'})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("photos/thumbs/" + "0" * 64, 404),
        ("photos/thumbs/cat.jpg", 404),
        ("photos/thumbs/..%2F..%2Fcat.jpg", 404),
        ("other/thumbs/" + "0" * 64, 404),
        ("photos/thumbs/" + "0" * 64 + "?size=9999", 422),
        ("other/duplicates", 404),
        ("photos/duplicates?near=0", 422),
    ],
)
def test_there_is_nothing_at_other_addresses(client: TestClient, address: str, status: int) -> None:
    response = client.get(f"/v1/indexes/{address}")
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_file_that_changed_has_no_thumbnail_under_its_old_digest(
    encoder: oneclip.Encoder, tmp_path: Path, images: dict[str, bytes]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(images["sun"])
    digest = hashlib.sha256(images["sun"]).hexdigest()
    with Index(tmp_path / "photos.index", model=encoder) as index:
        index.update(tmp_path / "photos")
        (tmp_path / "photos" / "a.png").write_bytes(images["tree"])
        found = Thumbnails().find(index.catalogue, FileSelection(index.catalogue), digest, 256)
    assert found is None


def test_duplicates_are_those_of_the_index(client: TestClient, index: Index) -> None:
    answer = client.get("/v1/indexes/photos/duplicates").json()
    assert answer["groups"] == [group.to_dict() for group in index.duplicates()]
    assert [Path(file["path"]).name for file in answer["groups"][0]["files"]] == [
        "fish.png",
        "copy of fish.png",
    ]


def test_duplicates_wait_for_a_folder_that_was_unplugged(
    client: TestClient, index: Index, photos: Path
) -> None:
    address = "/v1/indexes/photos/duplicates?near=0.99"  # not asked for before
    photos.rename(photos.with_name("unplugged"))
    try:
        answer = client.get(address)
    finally:
        photos.with_name("unplugged").rename(photos)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert f"the folder {photos} cannot be read" in answer.json()["error"]["message"]
    assert client.get(address).json()["groups"] == [group.to_dict() for group in index.duplicates(0.99)] != []
