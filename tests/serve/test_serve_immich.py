"""Immich's machine-learning protocol."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oneclip


def entries(kind: str, name: str = "pocket", **options: Any) -> str:
    return json.dumps({"clip": {kind: {"modelName": name, "options": options}}})


def predict(client: Any, entries: str, **parts: Any) -> Any:
    """Post a form as Immich does: an image is a file, named "blob" by JavaScript; all else is a field."""
    fields = {"entries": entries} | {key: value for key, value in parts.items() if isinstance(value, str)}
    files = {
        key: ("blob", value, "application/octet-stream")
        for key, value in parts.items()
        if isinstance(value, bytes)
    }
    return client.post("/predict", files={key: (None, value) for key, value in fields.items()} | files)


def vector(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return np.array(json.loads(answer.json()["clip"]), np.float32)


def error_of(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


def test_ping_is_answered_with_pong_in_plain_text(client: Any) -> None:
    answer = client.get("/ping")
    assert (answer.status_code, answer.text) == (200, "pong")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_an_image_gives_its_vector_as_a_string_and_its_size(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    answer = predict(client, entries("visual"), image=images["cat"])
    assert answer.json().keys() == {"clip", "imageHeight", "imageWidth"}
    assert (answer.json()["imageHeight"], answer.json()["imageWidth"]) == (256, 256)
    np.testing.assert_allclose([vector(answer)], encoder.encode_images(images["cat"]), atol=1e-5)


def test_a_text_gives_its_vector_as_a_string_alone(client: Any, encoder: oneclip.Encoder) -> None:
    answer = predict(client, entries("textual", language="de"), text="a cat")
    assert answer.json().keys() == {"clip"}
    np.testing.assert_allclose([vector(answer)], encoder.encode_texts("a cat"), atol=1e-5)


def test_a_text_that_is_too_long_is_cut_as_by_immich(client: Any, encoder: oneclip.Encoder) -> None:
    text = "a cat and " * 50
    expected = encoder.encode_texts(text, overflow="truncate")
    np.testing.assert_allclose([vector(predict(client, entries("textual"), text=text))], expected, atol=1e-5)


def test_a_text_is_accepted_in_a_plain_form_too(client: Any, encoder: oneclip.Encoder) -> None:
    answer = client.post("/predict", data={"entries": entries("textual"), "text": "ein Café"})
    np.testing.assert_allclose([vector(answer)], encoder.encode_texts("ein Café"), atol=1e-5)


def test_the_size_is_that_of_the_upright_image(client: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(buffer, "JPEG", exif=exif)
    answer = predict(client, entries("visual"), image=buffer.getvalue()).json()
    assert (answer["imageHeight"], answer["imageWidth"]) == (60, 40)


def test_another_model_is_refused_with_what_to_do(client: Any, images: dict[str, bytes]) -> None:
    answer = predict(client, entries("visual", "ViT-B-32__openai"), image=images["cat"])
    assert error_of(answer) == (404, "model", "model_not_found")
    assert "--alias 'ViT-B-32__openai'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("task", ["facial-recognition", "ocr"])
def test_other_tasks_of_immich_are_refused_by_name(client: Any, images: dict[str, bytes], task: str) -> None:
    asked = json.dumps({task: {"detection": {"modelName": "buffalo_l"}}})
    answer = predict(client, asked, image=images["cat"])
    assert error_of(answer) == (400, "entries", "unsupported_task")
    assert task in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "parts", "param"),
    [
        (entries("visual"), {}, "image"),
        (entries("visual"), {"text": "a cat"}, "image"),
        (entries("visual"), {"image": "a string"}, "image"),
        (entries("visual"), {"image": b""}, "image"),
        (entries("visual"), {"image": b"text"}, "image"),
        (entries("textual"), {}, "text"),
        (entries("textual"), {"text": ""}, "text"),
        (entries("textual"), {"text": b"a file"}, "text"),
        ("", {"text": "a"}, "entries"),
        ("{", {"text": "a"}, "entries"),
        ("[]", {"text": "a"}, "entries"),
        ("{}", {"text": "a"}, "entries"),
        ('{"clip": {}}', {"text": "a"}, "entries"),
        ('{"clip": []}', {"text": "a"}, "entries"),
        ('{"clip": {"other": {"modelName": "pocket"}}}', {"text": "a"}, "entries"),
        ('{"clip": {"textual": {}}}', {"text": "a"}, "entries"),
        ('{"clip": {"textual": "pocket"}}', {"text": "a"}, "entries"),
        ('{"clip": {"textual": {"modelName": 1}}}', {"text": "a"}, "entries"),
        ("[" * 100_000, {"text": "a"}, "entries"),
    ],
)
def test_a_form_without_a_meaning_is_answered_with_400_and_the_field_that_is_wrong(
    client: Any, asked: str, parts: dict[str, Any], param: str
) -> None:
    answer = predict(client, asked, **parts)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "unknown"])
def test_a_form_in_a_strange_encoding_is_answered_with_400(client: Any, charset: str) -> None:
    part = '--b\r\nContent-Disposition: form-data; name="entries"\r\n\r\n\\ud800{}\r\n--b--\r\n'
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    answer = client.post("/predict", content=part.encode(), headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
