"""POST /v1/explain, compared with the encoder."""

import base64
import hashlib
import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import oneclip
from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings

TEXTS = ["a cat", "a dog"]
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"


@pytest.fixture(scope="module")
def wide(images: dict[str, bytes]) -> bytes:
    """Return a file that preprocessing crops: the cat on a canvas that is three times as wide."""
    canvas = Image.new("RGB", (768, 256), "white")
    canvas.paste(Image.open(io.BytesIO(images["cat"])).convert("RGB").resize((256, 256)), (256, 0))
    file = io.BytesIO()
    canvas.save(file, "png")
    return file.getvalue()


def sent(file: bytes, **fields: Any) -> dict[str, Any]:
    image = "data:image/png;base64," + base64.b64encode(file).decode()
    return {"image": image, "texts": TEXTS, **fields}


def opened(overlay: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(overlay.partition(",")[2])))


def test_an_answer_is_what_the_encoder_explains(
    client: TestClient, encoder: oneclip.Encoder, wide: bytes
) -> None:
    answer = client.post("/v1/explain", json=sent(wide)).json()
    maps = encoder.explain(wide, TEXTS)
    assert (answer["model"], answer["width"], answer["height"]) == ("pocket", 768, 256)
    assert (answer["method"], answer["contrast"]) == (maps.method, maps.contrast)
    assert answer["ceiling"] == pytest.approx(maps.ceiling, abs=1e-5)
    for i, found in enumerate(answer["maps"]):
        assert found["text"] == TEXTS[i]
        assert found["score"] == pytest.approx(float(maps.scores[i]), abs=1e-5)
        assert found["peak"] == pytest.approx(maps.peak(i)._asdict(), abs=1e-5)
        assert found["boxes"] == [pytest.approx(box._asdict(), abs=1e-5) for box in maps.boxes()[i]]


def test_values_cover_the_whole_image_with_null_where_it_was_cropped(
    client: TestClient, encoder: oneclip.Encoder, wide: bytes
) -> None:
    answer = client.post("/v1/explain", json=sent(wide, size=0)).json()
    values = np.array(answer["maps"][0]["values"], float)
    whole = encoder.explain(wide, TEXTS).values[0]
    assert values.shape == (21, 64)  # of 256 x 768
    middles = whole[np.ix_(((np.arange(21) + 0.5) * 256 / 21).astype(int), np.arange(64) * 12 + 6)]
    np.testing.assert_array_equal(np.isnan(values), np.isnan(middles))
    np.testing.assert_allclose(values, middles, atol=0.02)  # between two pixels


def test_overlay_has_the_requested_size(client: TestClient, wide: bytes) -> None:
    answer = client.post("/v1/explain", json=sent(wide, size=300)).json()
    assert [opened(found["overlay"]).size for found in answer["maps"]] == [(300, 100)] * 2


def test_overlay_of_a_small_image_is_not_enlarged(
    client: TestClient, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    overlay = opened(client.post("/v1/explain", json=sent(images["cat"])).json()["maps"][0]["overlay"])
    expected = encoder.explain(images["cat"], TEXTS).overlay(0)
    assert overlay.size == expected.size
    assert np.abs(np.asarray(overlay, float) - np.asarray(expected, float)).mean() < 3  # it is a JPEG


def test_size_0_sends_no_overlay(client: TestClient, images: dict[str, bytes]) -> None:
    answer = client.post("/v1/explain", json=sent(images["cat"], size=0)).json()
    assert [found["overlay"] for found in answer["maps"]] == [None, None]


def test_a_form_that_accepts_png_gets_the_first_overlay(
    client: TestClient, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    files = {"image": ("cat.png", images["cat"])}
    response = client.post(
        "/v1/explain", files=files, data={"texts": json.dumps(TEXTS)}, headers={"Accept": "image/png"}
    )
    assert response.headers["content-type"] == "image/png"
    found = np.asarray(Image.open(io.BytesIO(response.content)), float)
    np.testing.assert_allclose(found, np.asarray(encoder.explain(images["cat"], TEXTS).overlay(0)), atol=1)


def test_one_text_is_contrasted_with_generic_texts(client: TestClient, images: dict[str, bytes]) -> None:
    answer = client.post("/v1/explain", json=sent(images["cat"], texts=["a cat"], size=0)).json()
    assert answer["contrast"] == "generic texts"


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"texts": []}, 422, "texts"),
        ({"texts": ["a"] * 33}, 422, "texts"),
        ({"texts": ["a", " "]}, 400, "texts[1]"),
        ({"texts": ["a", 3]}, 400, "texts[1]"),
        ({"texts": ["a", "b " * 99]}, 400, "texts"),
        ({"texts": ["a cat", "A  cat"]}, 400, "texts"),
        ({"image": "?"}, 400, "image"),
        ({"image": str(EXAMPLES / "cat.png")}, 400, "image"),
        ({"image": base64.b64encode(b"no image").decode()}, 400, "image"),
        ({"image": {"sha256": "no"}}, 400, "image.sha256"),
        ({"image": {"sha256": "0" * 64}}, 404, "index"),
        ({"template": "a photo"}, 400, "texts"),
        ({"method": "magic"}, 422, "method"),
        ({"size": 5000}, 422, "size"),
        ({"model": "ViT-B-32:openai"}, 404, "model"),
        ({"labels": TEXTS}, 422, "labels"),
    ],
    ids=str,
)
def test_an_error_names_the_part(
    client: TestClient, images: dict[str, bytes], changes: dict[str, Any], status: int, param: str
) -> None:
    response = client.post("/v1/explain", json=sent(images["cat"], **changes))
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_another_file_of_a_form_is_refused(client: TestClient, images: dict[str, bytes]) -> None:
    files = {"picture": ("cat.png", images["cat"])}
    response = client.post("/v1/explain", files=files, data={"texts": "a cat"})
    assert response.json()["error"]["message"] == "unknown file 'picture'; expected image"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """Serve an index of one image, and return its folder."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(EXAMPLES / "cat.png", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONECLIP_INDEXES", str(tmp_path_factory.mktemp("indexes")))
        app = create_app(ServeSettings(index=(str(folder),)))
        with TestClient(app, base_url="http://localhost") as client:
            while client.get("/ready").status_code != 200:
                threading.Event().wait(0.05)
            yield client, folder


def test_indexed_image_is_found_by_its_content(
    searched: tuple[TestClient, Path], images: dict[str, bytes]
) -> None:
    client, _ = searched
    indexed = sent(b"", image={"sha256": hashlib.sha256(images["cat"]).hexdigest()})
    assert (
        client.post("/v1/explain", json=indexed).json()
        == client.post("/v1/explain", json=sent(images["cat"])).json()
    )


def test_image_that_is_not_in_the_index_is_named(searched: tuple[TestClient, Path]) -> None:
    client, _ = searched
    error = client.post("/v1/explain", json=sent(b"", image={"sha256": "0" * 64})).json()["error"]
    assert (error["param"], error["code"]) == ("image", "unknown_image")


def test_file_that_changed_since_it_was_indexed_is_not_read(
    searched: tuple[TestClient, Path], images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = searched
    monkeypatch.setattr("oneclip.serve.routes.explain.read_status", lambda entry: None)
    indexed = sent(b"", image={"sha256": hashlib.sha256(images["cat"]).hexdigest()})
    assert client.post("/v1/explain", json=indexed).json()["error"]["code"] == "unknown_image"


def test_maps_that_take_too_long_are_answered_in_time(
    client: TestClient, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, freed = client.app.state.server, threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setattr(state.embedder.encoder, "explain", lambda *_, **__: freed.wait(60), raising=False)
    monkeypatch.setattr(
        state.embedder,
        "settings",
        state.embedder.settings.__class__(**{**vars(state.settings), "timeout": 0.2}),
    )
    response = client.post("/v1/explain", json=sent(images["cat"]))
    freed.set()
    assert response.status_code == 504
