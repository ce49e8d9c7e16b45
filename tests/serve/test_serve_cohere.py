"""Cohere's protocol: its client, all forms of an embedding, and both ends of a text that is too long."""

import base64
from typing import Any

import numpy as np
import pytest

import oneclip
from oneclip.serve.vectors import to_binary, to_int8, to_ubinary, to_uint8

cohere = pytest.importorskip("cohere")

TEXTS = ["a cat", "a red car on a road"]
TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


def data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def ask(client: Any, **body: Any) -> Any:
    answer = client.post("/v2/embed", json={"model": "pocket"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def floats(client: Any, **body: Any) -> Any:
    return np.array(ask(client, **body)["embeddings"]["float"], np.float32)


@pytest.fixture(scope="module")
def official(app: Any, client: Any) -> Any:
    """Make Cohere's client, whose HTTP library is another one than that of the tests."""
    httpx = pytest.importorskip("httpx")

    def forward(request: Any) -> Any:
        answer = client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content, headers=dict(answer.headers))

    http = httpx.Client(transport=httpx.MockTransport(forward))
    return cohere.ClientV2("none", base_url="http://localhost", httpx_client=http)


def test_the_official_client_gets_the_vectors_of_the_encoder(official: Any, encoder: oneclip.Encoder) -> None:
    answer = official.embed(
        model="pocket", texts=TEXTS, input_type="search_document", embedding_types=["float"]
    )
    np.testing.assert_allclose(answer.embeddings.float_, encoder.encode_texts(TEXTS), atol=1e-5)
    assert answer.texts == TEXTS


def test_the_official_client_gets_every_form_of_an_embedding(official: Any, encoder: oneclip.Encoder) -> None:
    answer = official.embed(
        model="pocket", texts=TEXTS, input_type="search_document", embedding_types=TYPES
    ).embeddings
    features = np.float32(answer.float_)
    np.testing.assert_array_equal(answer.int8, to_int8(features))
    np.testing.assert_array_equal(answer.uint8, to_uint8(features))
    np.testing.assert_array_equal(answer.binary, to_binary(features))
    np.testing.assert_array_equal(answer.ubinary, to_ubinary(features))
    unpacked = [np.frombuffer(base64.b64decode(row), "<f4") for row in answer.base64]
    np.testing.assert_array_equal(unpacked, features)


def test_the_official_client_sends_images(
    official: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    answer = official.embed(
        model="pocket", images=[data_uri(images["cat"])], input_type="image", embedding_types=["float"]
    )
    np.testing.assert_allclose(answer.embeddings.float_, encoder.encode_images(images["cat"]), atol=1e-5)
    (facts,) = answer.images
    assert (facts.width, facts.height, facts.format, facts.bit_depth) == (256, 256, "png", 24)
    assert answer.meta.billed_units.images == 1


def test_the_official_client_mixes_texts_and_images(
    official: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    text = {"type": "text", "text": "a cat"}
    image = {"type": "image_url", "image_url": {"url": data_uri(images["cat"])}}
    answer = official.embed(
        model="pocket",
        inputs=[{"content": [text]}, {"content": [image]}, {"content": [text, image]}],
        input_type="search_document",
        embedding_types=["float"],
    )
    a_cat, cat_image = encoder.encode_texts("a cat")[0], encoder.encode_images(images["cat"])[0]
    both = (a_cat + cat_image) / np.linalg.norm(a_cat + cat_image)
    np.testing.assert_allclose(answer.embeddings.float_, [a_cat, cat_image, both], atol=1e-5)


def test_the_official_client_raises_its_own_errors(official: Any) -> None:
    with pytest.raises(cohere.NotFoundError) as raised:
        official.embed(model="embed-v4.0", texts=["a"], input_type="search_query", embedding_types=["float"])
    assert raised.value.body["error"]["code"] == "model_not_found"


def test_floats_are_what_is_answered_without_a_wish(client: Any) -> None:
    answer = ask(client, texts=TEXTS)
    assert list(answer["embeddings"]) == ["float"]
    assert answer["response_type"] == "embeddings_by_type"


def test_billed_units_are_the_tokens_of_the_texts(client: Any, encoder: oneclip.Encoder) -> None:
    tokens = sum(len(encoder.tokenizer.encode(text)) + 2 for text in TEXTS)
    assert ask(client, texts=TEXTS)["meta"]["billed_units"] == {"input_tokens": tokens}


def test_output_dimension_keeps_the_first_numbers_and_normalizes_again(
    client: Any, encoder: oneclip.Encoder
) -> None:
    first = encoder.encode_texts(TEXTS)[:, :16]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(floats(client, texts=TEXTS, output_dimension=16), expected, atol=1e-5)


def long_text() -> tuple[str, str, str]:
    """Return a text of 120 words of one token each, and its first and last 75, which fit with start and end."""
    words = ["cat", "dog", "car", "sun", "red", "tree"] * 20
    return " ".join(words), " ".join(words[:75]), " ".join(words[-75:])


def test_the_end_of_a_text_that_is_too_long_is_cut_without_a_wish(
    client: Any, encoder: oneclip.Encoder
) -> None:
    text, first, _ = long_text()
    np.testing.assert_allclose(floats(client, texts=[text]), encoder.encode_texts(first), atol=1e-5)


def test_the_start_of_a_text_that_is_too_long_is_cut_on_request(
    client: Any, encoder: oneclip.Encoder
) -> None:
    text, _, last = long_text()
    found = floats(client, texts=["a cat", text], truncate="START")
    np.testing.assert_allclose(found, encoder.encode_texts(["a cat", last]), atol=1e-5)


def test_a_text_that_is_too_long_is_refused_on_request(client: Any) -> None:
    answer = client.post("/v2/embed", json={"texts": ["a cat", long_text()[0]], "truncate": "NONE"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        400,
        "texts[1]",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    "text", ["ein Gedicht über Füchse " * 40, "猫と犬が走る" * 40, "a\u0301🙂" * 60, "x" * 500]
)
def test_the_start_is_cut_between_two_tokens_or_the_text_is_refused(
    client: Any, encoder: oneclip.Encoder, text: str
) -> None:
    answer = client.post("/v2/embed", json={"texts": [text], "truncate": "START"})
    if answer.status_code == 200:
        assert 60 < answer.json()["meta"]["billed_units"]["input_tokens"] <= encoder.context_length
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "texts[0]")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "texts"),
        ({"texts": ["a"], "images": ["b"]}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": "a"}, "texts"),
        ({"texts": ["a", ""]}, "texts[1]"),
        ({"texts": ["a", 1]}, "texts[1]"),
        ({"images": ["data:image/png;base64,QUJD"]}, "images[0]"),
        ({"images": [None]}, "images[0]"),
        ({"inputs": ["a"]}, "inputs[0].content"),
        ({"inputs": [{"content": []}]}, "inputs[0].content"),
        ({"inputs": [{"content": [{"type": "text"}]}]}, "inputs[0].content[0]"),
        ({"texts": ["a"], "output_dimension": 257}, "output_dimension"),
        ({"texts": ["a"], "output_dimension": 0}, "output_dimension"),
        ({"texts": ["a"], "max_tokens": 10}, "max_tokens"),
    ],
)
def test_a_request_without_a_meaning_is_answered_with_400_and_the_part_that_is_wrong(
    client: Any, body: Any, param: str
) -> None:
    answer = client.post("/v2/embed", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_int8_scales_each_vector_to_its_greatest_number() -> None:
    features = np.array([[0.5, -0.25, 0.125, 0.0], [-1.0, 0.5, 0.0, 0.25]], np.float32)
    np.testing.assert_array_equal(to_int8(features), [[127, -64, 32, 0], [-127, 64, 0, 32]])


def test_uint8_is_int8_plus_128() -> None:
    features = np.array([[0.5, -0.5, 0.25, 0.0]], np.float32)
    np.testing.assert_array_equal(to_uint8(features), [[255, 1, 192, 128]])


def test_int8_keeps_the_cosines_of_real_embeddings(encoder: oneclip.Encoder) -> None:
    features = encoder.encode_texts([*TEXTS, "the sun", "a house with a tree"])
    packed = to_int8(features).astype(np.float32)
    packed /= np.linalg.norm(packed, axis=1, keepdims=True)
    np.testing.assert_allclose(packed @ packed.T, features @ features.T, atol=0.01)


def test_bits_are_the_signs_with_the_first_number_as_the_highest_bit() -> None:
    features = np.array([[0.1, -0.1, 0.1, 0.0, -1, 1, -1, 1, 1, -1]], np.float32)
    np.testing.assert_array_equal(to_ubinary(features), [[0b10100101, 0b10000000]])
    np.testing.assert_array_equal(to_binary(features), [[0b10100101 - 128, 0]])
