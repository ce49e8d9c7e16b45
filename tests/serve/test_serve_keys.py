"""API keys: their file, which requests need one, and that none is logged."""

import hmac
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient

from oneclip.errors import ConfigError
from oneclip.serve.access_log import JsonFormatter
from oneclip.serve.api_keys import ApiKeys
from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings

FIRST, SECOND = "first-key-4711", "second:key/0815=="
BEARER = {"Authorization": f"Bearer {SECOND}"}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text(f"# of the web shop\n{FIRST}\n\n  {SECOND}  \n", encoding="utf-8")
    return path


@pytest.fixture
def guarded(key_file: Path) -> TestClient:
    """Client of an application with keys, whose model is not loaded."""
    settings = ServeSettings(api_key_file=str(key_file), host="0.0.0.0", cors=("https://app.example.com",))
    return TestClient(
        create_app(settings), base_url="http://photos.example.com", raise_server_exceptions=False
    )


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({"Authorization": f"Bearer {FIRST}"}, True),
        ({"Authorization": f"bearer  {SECOND} "}, True),
        ({"X-API-Key": FIRST}, True),
        ({"Authorization": "Basic abc", "X-API-Key": FIRST}, True),
        ({"Authorization": f"Bearer {FIRST}x"}, False),
        ({"Authorization": f"Basic {FIRST}"}, False),
        ({"Authorization": FIRST}, False),
        ({"Authorization": "Bearer "}, False),
        ({"Authorization": "Bearer # of the web shop"}, False),
        ({"X-API-Key": ""}, False),
        ({}, False),
    ],
)
def test_a_known_key_in_either_header_is_accepted(
    key_file: Path, headers: dict[str, str], known: bool
) -> None:
    assert ApiKeys(str(key_file)).accept(Headers(headers)) is known


def test_a_key_is_compared_with_all_known_ones_in_constant_time(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    def compare(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return one == other

    keys = ApiKeys(str(key_file))
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert keys.accept(Headers({"X-API-Key": FIRST}))
    assert not keys.accept(Headers({"X-API-Key": "x" * 1000}))
    assert lengths == [(32, 32)] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no key"),
        (b"# nothing\n\n", "has no key"),
        (b"good\nwith space\n", "line 2"),
        ("schlüssel\n".encode(), "line 1"),
        (b"\xff\xfe\x00", "it is not a text file"),
        (None, "No such file"),
    ],
)
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        ApiKeys(str(path))
    assert str(path) in str(caught.value)
    assert "space" not in str(caught.value).replace("has a space", "")  # not the key itself


def test_a_file_that_is_read_again_replaces_the_keys(key_file: Path) -> None:
    keys = ApiKeys(str(key_file))
    key_file.write_text("third\n", encoding="utf-8")
    keys.reload()
    assert keys.accept(Headers({"X-API-Key": "third"}))
    assert not keys.accept(Headers({"X-API-Key": FIRST}))


def test_a_broken_file_leaves_the_keys_as_they_were(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys(str(key_file))
    key_file.write_text("", encoding="utf-8")
    keys.reload()
    assert keys.accept(Headers({"X-API-Key": FIRST}))
    assert "the keys stay as they were" in caplog.text


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/v1/indexes", "/nowhere", "/page", "/healthy"])
def test_data_needs_a_key(guarded: TestClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["type"] == "authentication_error"
    assert guarded.get(path, headers=BEARER).status_code != 401


@pytest.mark.parametrize(
    "path", ["/", "/page/app.js", "/health", "/ready", "/ping", "/docs", "/openapi.json"]
)
def test_what_says_nothing_about_the_images_needs_none(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code != 401


def test_the_question_of_a_browser_whether_a_page_may_call_needs_none(guarded: TestClient) -> None:
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    answer = guarded.options("/v1/embeddings", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, asked["Origin"])
    assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_an_allowed_origin_can_read_errors(guarded: TestClient) -> None:
    answer = guarded.post("/v1/embeddings", json={}, headers={"Origin": "https://app.example.com"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
        401,
        "https://app.example.com",
    )


def test_with_keys_every_name_of_the_server_is_answered(guarded: TestClient) -> None:
    assert guarded.get("/ready", headers={"Host": "other.example"}).json()["error"]["code"] == "not_ready"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "photos.example.com"])
def test_other_machines_need_a_key_unless_everyone_may_call(key_file: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--no-auth"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, api_key_file=str(key_file)).host == host
    assert ServeSettings(host=host, auth=False).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_programs_of_this_machine_need_none(host: str) -> None:
    assert ServeSettings(host=host).api_key_file is None


def test_neither_keys_nor_contents_are_logged(
    guarded: TestClient, caplog: pytest.LogCaptureFixture, key_file: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a-private-text"
    given: Callable[..., object] = guarded.post
    given(f"/v1/{secret}?{secret}", json={"input": secret}, headers=BEARER)
    given("/v1/embeddings", json={"input": secret}, headers=BEARER)
    given("/v1/embeddings", json={"input": secret}, headers={"X-API-Key": secret})
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("oneclip")]
    assert len(lines) == 3
    for hidden in (FIRST, SECOND, secret):
        assert hidden not in "".join(lines)
