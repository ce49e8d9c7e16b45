"""Requests drawn at random are answered, or refused in the shape of all errors; never with 500.

ONECLIP_FUZZ_REQUESTS is their number for each route.
"""

import base64
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings

COUNT = int(os.environ.get("ONECLIP_FUZZ_REQUESTS", "60"))
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"
CAT = "data:image/png;base64," + base64.b64encode((EXAMPLES / "cat.png").read_bytes()).decode()
NAMES = (
    *(
        "model",
        "input",
        "messages",
        "encoding_format",
        "dimensions",
        "user",
        "truncate",
        "texts",
        "images",
        "inputs",
    ),
    *(
        "input_type",
        "embedding_types",
        "output_dimension",
        "max_tokens",
        "labels",
        "template",
        "top",
        "query",
        "like",
    ),
    *(
        "not",
        "where",
        "min_relevance",
        "sort",
        "distinct",
        "index",
        "offset",
        "clip",
        "visual",
        "textual",
        "modelName",
    ),
    *("text", "image", "image_url", "url", "content", "type", "role", "sha256", "options"),
)
WORDS = (
    *(
        "",
        " ",
        "a cat",
        "pocket",
        "float",
        "base64",
        "int8",
        "ubinary",
        "relevance",
        "date",
        "text",
        "image_url",
        "user",
    ),
    *(
        "a photo of a {}",
        "{}{}",
        "{",
        "{0.__class__}",
        "width >= 1",
        "taken_at > 2020 and",
        "'",
        "2:beach",
        "0:x",
        "-1:x",
    ),
    *(
        "\x00",
        "\u202e",
        "é" * 300,
        "🐈",
        "cat " * 200,
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/",
    ),
    *(
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:,",
        "AAAA",
        "a" * 64,
        "[1]",
        "%s%n",
        "NaN",
        "null",
    ),
    CAT,
    CAT[:-200],
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    255,
    256,
    257,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**40,
    0.5,
    -0.0,
    1e-320,
    1e308,
    1.5,
)
# bodies that are answered, so that changed ones come close to it
GOOD: dict[str, list[Any]] = {
    "/v1/embeddings": [
        {"input": ["a cat", {"image": CAT}, {"text": "a dog"}], "encoding_format": "base64", "dimensions": 8},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a cat"}]}], "model": "pocket"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": CAT}}]}]},
    ],
    "/v2/embed": [
        {
            "texts": ["a cat"],
            "embedding_types": ["float", "int8"],
            "input_type": "search_query",
            "truncate": "END",
        },
        {"images": [CAT], "embedding_types": ["ubinary"], "output_dimension": 64},
        {
            "inputs": [
                {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": CAT}}]}
            ]
        },
    ],
    "/v1/classify": [
        {"images": [CAT], "labels": ["a cat", "a dog"], "template": "a drawing of {}", "top": 1},
        {"images": [CAT, CAT], "labels": ["a cat"], "template": ["{}", "a {}"]},
    ],
    "/v1/explain": [
        {"image": CAT, "texts": ["a cat", "a dog"], "template": "a drawing of {}", "size": 64},
        {"image": {"sha256": "0" * 64}, "texts": ["a cat"], "method": "dense", "index": "images"},
    ],
    "/v1/search": [
        {"query": ["a cat", "2:animal"], "not": ["a car"], "where": "width >= 10 and format = png", "top": 3},
        {"like": [CAT], "min_relevance": 0.1, "sort": "date", "distinct": True, "offset": 0},
        {"query": "sun", "index": "images"},
    ],
    "/predict": [
        {"clip": {"visual": {"modelName": "pocket"}}},
        {"clip": {"textual": {"modelName": "pocket", "options": {"language": "de"}}}},
    ],
    "/v1/images/embed": [{"images": [CAT]}],
}


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Client of a server with an index, and the images of the examples in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONECLIP_INDEXES", str(tmp_path_factory.mktemp("indexes")))
        app = create_app(ServeSettings(index=(str(EXAMPLES),), max_queue=64))
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            state = app.state.server
            while not state.is_ready:
                time.sleep(0.02)
            yield client


def draw(random: random.Random, depth: int = 0) -> Any:
    """Return a value as JSON can have it."""
    kind = random.randrange(9 if depth < 3 else 7)
    if kind < 3:
        return random.choice(WORDS)
    if kind < 5:
        return random.choice(NUMBERS)
    if kind < 7:
        return random.choice((None, True, False, [], {}))
    if kind == 7:
        return [draw(random, depth + 1) for _ in range(random.choice((1, 2, 3, 70)) if depth else 2)]
    return {random.choice(NAMES + WORDS[:-2]): draw(random, depth + 1) for _ in range(random.randrange(1, 4))}


def change(value: Any, random: random.Random) -> Any:
    """Return a good value with some of it replaced, left out, or added."""
    if random.random() < 0.08:
        return draw(random, 1)
    if isinstance(value, dict):
        changed = {key: change(each, random) for key, each in value.items() if random.random() > 0.05}
        return changed | ({random.choice(NAMES): draw(random, 1)} if random.random() < 0.1 else {})
    if isinstance(value, list):
        return [
            change(each, random) for each in value for _ in range(random.choice((0, 1, 1, 1, 1, 1, 1, 2)))
        ]
    return value


def spoil(body: bytes, random: random.Random) -> bytes:
    """Return JSON with a byte changed, a part cut, or something that is nearly JSON put in."""
    at = random.randrange(len(body) + 1)
    inserted = random.choice(
        (b"NaN", b"\\ud800", b"\xff", b"[" * 500, b"1e999", b"9" * 5000, b'"', b"\x00", b",", b"{")
    )
    return random.choice((body[:at], body[:at] + inserted + body[at:], body[:at] + inserted + body[at + 1 :]))


def bodies(path: str) -> Iterator[bytes]:
    """Draw the bodies for a route, the same ones in each run."""
    drawn = random.Random(path)
    for number in range(COUNT):
        good = drawn.choice(GOOD[path])
        value = draw(drawn) if number % 4 == 0 else change(good, drawn)
        body = json.dumps(value).encode()
        yield spoil(body, drawn) if number % 5 == 4 else body


@pytest.mark.parametrize("path", GOOD)
def test_a_drawn_request_is_answered_or_refused_in_the_shape_of_errors(
    searching: TestClient, path: str
) -> None:
    statuses = set()
    for body in bodies(path):
        if path == "/predict":
            image = (EXAMPLES / "cat.png").read_bytes()
            form = {"data": {"entries": body.decode("latin-1"), "text": "a cat"}, "files": {"image": image}}
            answer = searching.post(path, **form)  # type: ignore[arg-type]
        else:
            answer = searching.post(path, content=body, headers={"Content-Type": "application/json"})
        shown = f"{answer.status_code} for {body[:2000]!r}: {answer.text[:2000]}"
        statuses.add(answer.status_code)
        if answer.status_code == 200:
            orjson.loads(answer.content)  # not NaN, which Python's parser would accept
            continue
        assert 400 <= answer.status_code < 500, shown
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, shown
        assert error["message"], shown
        assert error["type"] in ("invalid_request_error", "rate_limit_error"), shown
        assert len(answer.text) < 5000, shown
    assert statuses == {415} if path == "/v1/images/embed" else {200, 400, 422} & statuses >= {200, 400}


@pytest.mark.parametrize("path", GOOD)
def test_drawn_bytes_as_an_image_or_a_form_are_refused_in_the_shape_of_errors(
    searching: TestClient, path: str
) -> None:
    drawn = np.random.default_rng(0)
    image = (EXAMPLES / "cat.png").read_bytes()
    for number in range(COUNT // 10):
        body = bytearray(image if number % 2 else drawn.bytes(200))
        body[int(drawn.integers(len(body)))] ^= 255
        kind = (
            "image/png",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "application/octet-stream",
        )[number % 4]
        answer = searching.post(path, content=bytes(body), headers={"Content-Type": kind})
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        assert answer.status_code == 200 or set(answer.json()["error"]) == {
            "message",
            "type",
            "param",
            "code",
        }
