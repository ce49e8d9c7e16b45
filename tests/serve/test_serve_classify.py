"""POST /v1/classify, compared with the command and with the encoder."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import oneclip

LABELS = ["a cat", "a dog", "a car"]
CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.png"


def encode(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compare labels with their numbers, which may differ by rounding: a server encodes in other batches."""
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == {
            key: pytest.approx(value, abs=2e-6) if key != "label" else value for key, value in other.items()
        }


@pytest.mark.parametrize("template", [None, "an icon of {}"])
def test_an_answer_is_what_the_command_prints(
    client: TestClient, images: dict[str, bytes], template: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    from oneclip.cli.app import run

    arguments = ["classify", str(CAT), "--json", *(f"--label={label}" for label in LABELS)]
    run(arguments if template is None else [*arguments, "--template", template])
    expected = json.loads(capsys.readouterr().out)
    body = {"images": [encode(images["cat"])], "labels": LABELS, "template": template}
    answer = client.post("/v1/classify", json=body).json()
    assert answer.keys() == expected.keys()
    assert_same(answer["images"][0].pop("labels"), expected["images"][0].pop("labels"))
    assert answer == {**expected, "images": [{"path": "images[0]"}]}


def test_several_images_labels_and_templates_are_those_of_the_encoder(
    client: TestClient, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    templates = ["a drawing of {}", "{} on white"]
    some = [images["cat"], images["car"]]
    body = {"images": list(map(encode, some)), "labels": LABELS, "template": templates, "top": 2}
    answer = client.post("/v1/classify", json=body).json()
    for found, expected in zip(answer["images"], encoder.classify(some, LABELS, templates, 2), strict=True):
        ranking = [(one["label"], one["probability"]) for one in found["labels"]]
        assert ranking == [(label, pytest.approx(value, abs=2e-6)) for label, value in expected]


@pytest.mark.parametrize("labels", [LABELS, json.dumps(LABELS)], ids=["repeated", "JSON"])
def test_a_form_is_what_its_files_are_in_json(
    client: TestClient, images: dict[str, bytes], labels: list[str] | str
) -> None:
    body = {"images": [encode(images["cat"]), encode(images["sun"])], "labels": LABELS, "top": 1}
    expected = client.post("/v1/classify", json=body).json()
    files = [("images", (f"{name}.png", images[name])) for name in ("cat", "sun")]
    answer = client.post("/v1/classify", files=files, data={"labels": labels, "top": "1"}).json()
    assert [image["path"] for image in answer["images"]] == ["cat.png", "sun.png"]
    for found, other in zip(answer["images"], expected["images"], strict=True):
        assert_same(found["labels"], other["labels"])


def test_labels_are_encoded_once(
    client: TestClient, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"images": [encode(images["cat"])], "labels": [*LABELS, "a sound"]}
    first = client.post("/v1/classify", json=body).json()
    monkeypatch.setattr(client.app.state.server.embedder, "embed_texts", None)  # type: ignore[attr-defined]
    assert client.post("/v1/classify", json=body).json() == first


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"labels": ["a cat"]}, 400, "labels"),
        ({"labels": []}, 400, "labels"),
        ({"labels": ["a", "b", "a"]}, 400, "labels[2]"),
        ({"labels": ["a", " "]}, 400, "labels[1]"),
        ({"labels": ["a", None]}, 400, "labels[1]"),
        ({"labels": ["a", "b", "c " * 99]}, 400, "labels[2]"),
        ({"labels": ["a cat", "A  cat"]}, 400, "labels"),
        ({"labels": "a"}, 422, "labels"),
        ({"images": []}, 422, "images"),
        ({"images": ["?"]}, 400, "images[0]"),
        ({"images": [encode(b"no image")]}, 400, "images[0]"),
        ({"images": [str(CAT)]}, 400, "images[0]"),
        ({"template": "a photo"}, 400, "template"),
        ({"template": ["{}", "a photo"]}, 400, "template[1]"),
        ({"top": 0}, 422, "top"),
        ({"model": "ViT-B-32:openai"}, 404, "model"),
    ],
    ids=str,
)
def test_an_error_names_the_part(
    client: TestClient, images: dict[str, bytes], changes: dict[str, Any], status: int, param: str
) -> None:
    body = {"images": [encode(images["cat"])], "labels": LABELS, **changes}
    response = client.post("/v1/classify", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_bad_file_of_a_form_is_named(client: TestClient, images: dict[str, bytes]) -> None:
    files = [("images", ("cat.png", images["cat"])), ("images", ("bad.png", b"no image"))]
    response = client.post("/v1/classify", files=files, data={"labels": LABELS})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "images[1]")
