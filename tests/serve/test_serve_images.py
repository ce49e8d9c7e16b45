"""Image files in requests: raw, in forms, and in strings; good ones, odd ones and bad ones."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import oneclip
from oneclip.errors import ImageError
from oneclip.serve.image_inputs import decode_image

OCTETS = "application/octet-stream"
ROUTE = "/v1/images/embed"


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(images: dict[str, bytes], name: str = "cat") -> Image.Image:
    return Image.open(io.BytesIO(images[name])).convert("RGB")


def animated(images: dict[str, bytes]) -> bytes:
    return saved(opened(images), "GIF", save_all=True, append_images=[opened(images, "car")])


def rotated(images: dict[str, bytes]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(opened(images).crop((0, 0, 256, 160)), "JPEG", exif=exif)


def sixteen_bits(images: dict[str, bytes]) -> bytes:
    wide = np.asarray(opened(images).convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(wide), "PNG")


def heic(images: dict[str, bytes]) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return saved(opened(images), "HEIF")


ODD: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "animated": animated,
    "rotated": rotated,
    "16-bit": sixteen_bits,
    "heic": heic,
    "cmyk": lambda images: saved(opened(images).convert("CMYK"), "JPEG"),
    "palette": lambda images: saved(opened(images).convert("P"), "PNG"),
    "alpha": lambda images: saved(opened(images).convert("RGBA"), "PNG"),
    "webp": lambda images: saved(opened(images), "WEBP"),
    "one pixel": lambda images: saved(Image.new("RGB", (1, 1), "red"), "PNG"),
}


def bomb(images: dict[str, bytes]) -> bytes:
    """Return a PNG of 200 bytes whose header promises 2.5 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "truncated": lambda images: images["cat"][: len(images["cat"]) // 2],
    "bomb": bomb,
    "text": lambda images: b"just some text",
    "empty": lambda images: b"",
    "html": lambda images: b"<html><body>404</body></html>",
    "header only": lambda images: images["cat"][:33],
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_image_gives_what_the_encoder_gives(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes], kind: str
) -> None:
    image = ODD[kind](images)
    answer = client.post(ROUTE, content=image, headers={"Content-Type": "image/any"})
    assert answer.status_code == 200, answer.text
    found = [answer.json()["data"][0]["embedding"]]
    np.testing.assert_allclose(found, encoder.encode_images(image), atol=1e-5)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_answered_with_400_and_fails_alone(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes], kind: str
) -> None:
    uris = [f"data:;base64,{base64.b64encode(file).decode()}" for file in (images["cat"], BAD[kind](images))]
    answer = client.post("/v1/embeddings", json={"input": [{"image": uri} for uri in uris]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "input[1]")
    assert error["code"] == ("image_too_large" if kind == "bomb" else "invalid_image")
    assert client.post("/v1/embeddings", json={"input": [{"image": uris[0]}]}).status_code == 200


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/JPEG; q=1", OCTETS])
def test_the_body_is_an_image(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes], kind: str
) -> None:
    answer = client.post(ROUTE, content=images["cat"], headers={"Content-Type": kind})
    assert answer.json().keys() == {"object", "data", "model"}
    found = [answer.json()["data"][0]["embedding"]]
    np.testing.assert_allclose(found, encoder.encode_images(images["cat"]), atol=1e-5)


def test_the_images_of_a_form_are_answered_in_their_order_with_their_names(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    names = ["cat", "car", "sun"]
    files = [("first", images["cat"]), ("others", images["car"]), ("others", images["sun"])]
    data = client.post(ROUTE, files=[(name, ("x.png", file)) for name, file in files]).json()["data"]
    assert [row["name"] for row in data] == ["first", "others[0]", "others[1]"]
    np.testing.assert_allclose(
        [row["embedding"] for row in data], encoder.encode_images([images[name] for name in names]), atol=1e-5
    )


def test_the_part_of_a_form_that_is_no_image_is_named(client: Any, images: dict[str, bytes]) -> None:
    files = [("good", images["cat"]), ("file", images["car"]), ("file", b"text")]
    answer = client.post(ROUTE, files=[(name, ("x.png", file)) for name, file in files])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file[1]")


def test_floats_of_32_bits_are_answered_if_they_are_accepted(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    files = [("a", ("x.png", images["cat"])), ("b", ("y.png", images["car"]))]
    answer = client.post(ROUTE, files=files, headers={"Accept": OCTETS})
    assert answer.headers["Content-Type"] == OCTETS
    assert answer.headers["X-Embeddings-Dtype"] == "<f4"
    shape = [int(number) for number in answer.headers["X-Embeddings-Shape"].split(",")]
    found = np.frombuffer(answer.content, "<f4").reshape(shape)
    np.testing.assert_allclose(found, encoder.encode_images([images["cat"], images["car"]]), atol=1e-5)


def test_model_and_dimensions_are_in_the_query(client: Any, images: dict[str, bytes]) -> None:
    def post(query: str) -> Any:
        return client.post(f"{ROUTE}?{query}", content=images["cat"], headers={"Content-Type": "image/png"})

    assert len(post("model=pocket&dimensions=16").json()["data"][0]["embedding"]) == 16
    assert post("dimensions=257").json()["error"]["param"] == "dimensions"
    assert post("model=other").status_code == 404


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"x", 415),
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nbroken", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--',
            400,
        ),
    ],
)
def test_a_body_without_images_is_refused(client: Any, kind: str, body: bytes, status: int) -> None:
    answer = client.post(ROUTE, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


# ------------------------------------------------------------------------------------------- images in strings

FILE = bytes(range(256)) * 3 + b"\xff\xfe"  # whose base64 needs padding, and both signs
PADDED = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "text",
    [
        PADDED,
        PADDED.rstrip("="),
        base64.urlsafe_b64encode(FILE).decode(),
        base64.urlsafe_b64encode(FILE).decode().rstrip("="),
        PADDED.replace("+", "-"),  # a mixture of both alphabets
        base64.encodebytes(FILE).decode(),
        f"  {PADDED}\r\n",
        f"data:image/png;base64,{PADDED}",
        f"DATA:Image/PNG;Base64,{PADDED}",
        f"data:;base64,{PADDED}",
        f"data:application/octet-stream;base64,{PADDED}",
        f"data:image/png;name=cat.png;base64,{PADDED}",
        f"data:image/png;base64,{quote(PADDED)}",
        f"\n data:image/png;base64,\n{base64.encodebytes(FILE).decode()}",
        f"data:image/png,{quote(FILE)}",
    ],
)
def test_an_image_in_a_string_is_read_in_every_notation(text: str) -> None:
    assert decode_image(text) == FILE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not base64!", "neither a data URI, base64 nor a URL"),
        ("QUJDé", "neither"),
        ("A", "neither"),
        ("QU=JD", "neither"),
        ("data:image/png;base64,###", "neither"),
        ("data:text/html;base64,QUJD", "expected data:image"),
        ("data:image/png;base64", "begins with data:"),
        ("file:///etc/passwd", "begins with file:"),
        ("ftp://host/cat.png", "begins with ftp:"),
        ("gopher://host/cat.png", "begins with gopher:"),
        ("javascript:alert(1)", "begins with javascript:"),
        ("C:\\cat.png", "begins with C:"),
        ("/etc/passwd.png", "neither"),
    ],
)
def test_a_string_without_an_image_is_refused(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(text)
