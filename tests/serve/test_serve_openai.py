"""OpenAI's protocol: embeddings, models and errors, with OpenAI's client and without."""

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest

import oneclip
from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings

openai = pytest.importorskip("openai")
testclient = pytest.importorskip("starlette.testclient")

TEXTS = ["a cat", "a red car on a road", "the sun"]


def data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def ask(client: Any, **body: Any) -> Any:
    """Return the embeddings (N, D) of a request."""
    answer = client.post("/v1/embeddings", json={"model": "pocket"} | body)
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]], np.float32)


def error_of(client: Any, **body: Any) -> tuple[int, str, str]:
    """Return the status, the code and the param of a request's error."""
    answer = client.post("/v1/embeddings", json={"model": "pocket"} | body)
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


def mean(*features: Any) -> Any:
    """Return the mean of unit vectors, normalized."""
    total = np.mean(features, axis=0)
    return total / np.linalg.norm(total)


@pytest.fixture(scope="module")
def official(client: Any) -> Any:
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


def test_the_official_client_gets_the_vectors_of_the_encoder(official: Any, encoder: oneclip.Encoder) -> None:
    answer = official.embeddings.create(model="pocket", input=TEXTS)  # asks for base64
    assert [row.index for row in answer.data] == [0, 1, 2]
    np.testing.assert_allclose([row.embedding for row in answer.data], encoder.encode_texts(TEXTS), atol=1e-5)


def test_the_official_client_gets_the_same_vectors_as_numbers(official: Any) -> None:
    plain = official.embeddings.create(model="pocket", input=TEXTS[0], encoding_format="float")
    packed = official.embeddings.create(model="pocket", input=TEXTS[0], encoding_format="base64")
    unpacked = np.frombuffer(base64.b64decode(packed.data[0].embedding), "<f4")
    np.testing.assert_array_equal(np.float32(plain.data[0].embedding), unpacked)


def test_the_asynchronous_official_client_gets_the_vectors_of_the_encoder(
    app: Any, client: Any, encoder: oneclip.Encoder
) -> None:
    import httpx2

    async def create() -> Any:
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
        async with openai.AsyncOpenAI(
            base_url="http://localhost/v1", api_key="none", http_client=http
        ) as official:
            return await asyncio.gather(
                official.embeddings.create(model="pocket", input=TEXTS),
                official.embeddings.create(model="pocket", input=TEXTS, encoding_format="float"),
            )

    for answer in asyncio.run(create()):
        found = [row.embedding for row in answer.data]
        np.testing.assert_allclose(found, encoder.encode_texts(TEXTS), atol=1e-5)


def test_the_official_client_sends_images_like_texts(
    official: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    answer = official.embeddings.create(model="pocket", input=[{"image": data_uri(images["cat"])}])
    np.testing.assert_allclose([answer.data[0].embedding], encoder.encode_images(images["cat"]), atol=1e-5)


def test_the_official_client_raises_its_own_errors(official: Any) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        official.embeddings.create(model="pocket", input=["a", ""])
    assert (raised.value.param, raised.value.code) == ("input[1]", "invalid_value")
    with pytest.raises(openai.NotFoundError) as unknown:
        official.embeddings.create(model="text-embedding-3-small", input="a")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")


def test_the_official_client_lists_and_retrieves_the_model(official: Any, encoder: oneclip.Encoder) -> None:
    (listed,) = official.models.list().data
    assert listed == official.models.retrieve("pocket")
    assert (listed.id, listed.owned_by) == ("pocket", "oneclip")
    assert listed.embed_dim == encoder.embed_dim
    assert listed.context_length == encoder.context_length
    assert listed.image_size == list(encoder.image_size)
    assert (listed.precision, listed.depends_on_batch) == ("fp32", False)


def test_another_model_cannot_be_retrieved(client: Any) -> None:
    answer = client.get("/v1/models/owner/other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_the_answer_has_the_keys_of_openais_answer(client: Any) -> None:
    answer = client.post("/v1/embeddings", json={"model": "pocket", "input": ["a", "b"], "user": "u"}).json()
    assert answer.keys() == {"object", "data", "model", "usage"}
    assert (answer["object"], answer["model"]) == ("list", "pocket")
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert answer["data"][0].keys() == {"object", "index", "embedding"}


def test_usage_counts_the_tokens_of_the_texts(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    body = {"input": [*TEXTS, {"image": data_uri(images["cat"])}, {"text": TEXTS[0]}]}
    usage = client.post("/v1/embeddings", json=body).json()["usage"]
    tokens = sum(len(encoder.tokenizer.encode(text)) + 2 for text in [*TEXTS, TEXTS[0]])
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_items_of_all_kinds_are_answered_in_their_order(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    cat, car = data_uri(images["cat"]), data_uri(images["car"])
    found = ask(
        client,
        input=[
            {"image": cat},
            "a cat",
            {"type": "image_url", "image_url": {"url": car}},
            {"text": "the sun"},
            {"image_url": cat},
        ],
    )
    a_cat, sun = encoder.encode_texts(["a cat", "the sun"])
    cat_image, car_image = encoder.encode_images([images["cat"], images["car"]])
    np.testing.assert_allclose(found, [cat_image, a_cat, car_image, sun, cat_image], atol=1e-5)


def test_text_and_image_in_one_item_give_the_mean_of_their_unit_vectors(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    found = ask(client, input=["a dog", {"text": "a cat", "image": data_uri(images["cat"])}])
    a_dog, a_cat = encoder.encode_texts(["a dog", "a cat"])
    cat_image = encoder.encode_images(images["cat"])[0]
    np.testing.assert_allclose(found, [a_dog, mean(a_cat, cat_image)], atol=1e-5)


def test_messages_give_one_embedding_for_the_conversation(
    client: Any, encoder: oneclip.Encoder, images: dict[str, bytes]
) -> None:
    found = ask(
        client,
        messages=[
            {"role": "system", "content": "an animal"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a cat"},
                    {"type": "image_url", "image_url": {"url": data_uri(images["cat"])}},
                ],
            },
        ],
    )
    texts = encoder.encode_texts(["an animal", "a cat"])
    np.testing.assert_allclose(found, [mean(*texts, *encoder.encode_images(images["cat"]))], atol=1e-5)


def test_dimensions_keeps_the_first_numbers_and_normalizes_again(
    client: Any, encoder: oneclip.Encoder
) -> None:
    first = encoder.encode_texts(TEXTS)[:, :16]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(ask(client, input=TEXTS, dimensions=16), expected, atol=1e-5)


def test_a_text_that_is_too_long_is_cut_on_request_only(client: Any, encoder: oneclip.Encoder) -> None:
    text = "a cat and " * 50
    assert error_of(client, input=["a", text]) == (400, "context_length_exceeded", "input[1]")
    expected = encoder.encode_texts(text, overflow="truncate")
    np.testing.assert_allclose(ask(client, input=[text], truncate=True), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": True}, "input"),
        ({"input": 1.5}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": [1, 2, 3]}, "input[0]"),
        ({"input": [[1, 2], [3]]}, "input[0]"),
        ({"input": ["a", {}]}, "input[1]"),
        ({"input": [{"text": 1}]}, "input[0]"),
        ({"input": [{"text": "a", "image": ""}]}, "input[0]"),
        ({"input": [{"image": 1}]}, "input[0]"),
        ({"input": [{"image_url": {"url": None}}]}, "input[0]"),
        ({"input": [{"image_url": {}}]}, "input[0]"),
        ({"input": "x" * 100_001}, "input"),
        ({"input": ["data:image/png;base64,AAAA"]}, "input[0]"),
        ({"input": "a", "messages": []}, "input"),
        ({"input": "a", "dimensions": 257}, "dimensions"),
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": ["a"]}, "messages[0].content"),
        ({"messages": [{"content": []}]}, "messages[0].content"),
        ({"messages": [{"content": "a"}, {"content": ["a"]}]}, "messages[1].content[0]"),
        ({"messages": [{"content": [{"type": "text", "text": ""}]}]}, "messages[0].content[0]"),
        ({"input": ["a"] * 1025}, "input[1024]"),
    ],
)
def test_a_request_without_a_meaning_is_answered_with_400_and_the_part_that_is_wrong(
    client: Any, body: Any, param: str
) -> None:
    status, _, found = error_of(client, **body)
    assert (status, found) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"model": 1}, "model"),
    ],
)
def test_a_value_of_the_wrong_type_is_answered_with_422(client: Any, body: Any, param: str) -> None:
    assert error_of(client, input="a", **body) == (422, "invalid_value", param)


def test_token_ids_are_refused_because_they_are_of_another_tokenizer(client: Any) -> None:
    answer = client.post("/v1/embeddings", json={"input": [[15339, 1917]]})
    assert "another tokenizer" in answer.json()["error"]["message"]


def test_half_a_surrogate_pair_is_refused(client: Any) -> None:
    body = json.dumps({"input": ["a", "\ud83d"]}).encode()
    answer = client.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.fixture(scope="module")
def aliased() -> Any:
    app = create_app(ServeSettings(aliases=("photos", "ViT-B-32::openai")))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("name", [None, "pocket", "photos", "ViT-B/32", "ViT-B-32__openai"])
def test_the_model_is_accepted_by_its_name_its_aliases_and_their_spellings(
    aliased: Any, name: str | None
) -> None:
    answer = aliased.post("/v1/embeddings", json={"input": "a"} | ({"model": name} if name else {}))
    assert (answer.status_code, answer.json().get("model")) == (200, "pocket")


def test_a_model_that_is_not_served_is_answered_with_what_is(client: Any) -> None:
    answer = client.post("/v1/embeddings", json={"model": "ViT-L-14:openai", "input": "a"})
    assert answer.status_code == 404
    assert "this server has pocket" in answer.json()["error"]["message"]
    assert "--alias 'ViT-L-14:openai'" in answer.json()["error"]["message"]
