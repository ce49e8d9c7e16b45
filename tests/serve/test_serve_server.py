"""The server as a process: how it starts and stops, its logs, several processes, and errors of all kinds."""

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from oneclip.errors import ConfigError
from oneclip.serve.access_log import JsonFormatter
from oneclip.serve.app import create_app
from oneclip.serve.metrics import Metrics
from oneclip.serve.server import open_socket
from oneclip.serve.settings import ServeSettings

PATIENCE = 120  # seconds for what takes one or two
# an application that needs no model, in all processes: those that are started import this file, too
LAUNCHER = """
import asyncio, json, os, sys, time, types
from oneclip.errors import DataError

def create_app(settings, in_background):
    from fastapi import FastAPI
    from oneclip.serve.access_log import AccessLog
    from oneclip.serve.api_keys import ApiKeys
    from oneclip.serve.request_limits import RequestLimits
    from oneclip.serve.state import ServerState

    state = ServerState(settings, ApiKeys(settings.api_key_file) if settings.api_key_file else None)
    state.embedder = object()
    app = FastAPI()
    app.state.server = state
    if settings.model == "slow":
        time.sleep(3600)
    if settings.model == "broken":
        state.failure = DataError("the index of sorrow is damaged")

    @app.get("/pid")
    async def pid():
        time.sleep(0.02)  # so that the other process takes the next connection
        return os.getpid()

    @app.post("/slow")
    async def slow():
        await asyncio.sleep(3600)

    @app.get("/metrics")
    def metrics():
        return state.metrics.render()[0].decode()

    app.add_middleware(RequestLimits, state=state, content_types=lambda method, path: None)
    app.add_middleware(AccessLog, metrics=state.metrics)
    return app

sys.modules["oneclip.serve.app"] = types.ModuleType("oneclip.serve.app")
sys.modules["oneclip.serve.app"].create_app = create_app
if __name__ == "__main__":
    from oneclip.serve.server import serve
    from oneclip.serve.settings import ServeSettings
    try:
        serve(ServeSettings.from_dict(json.loads(sys.argv[1])), lambda line: print(line, file=sys.stderr, flush=True))
    except DataError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        sys.exit(f"error: {type(error).__name__}: {error}")
"""


class Running:
    """A server process, and its lines on stderr."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.answered: list[int] = []  # requests for /pid
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(re.sub(r".*:(\d+)( .*)?", r"\1", self.line("listening on http://")))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def line(self, part: str) -> str:
        """Wait for a line that contains a text."""
        return wait_for(lambda: next((line for line in self.lines if part in line), None), self)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        if path == "/pid" and answer.status == 200:
            self.answered.append(content)
        return answer.status, content

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()


def wait_for(find: Callable[[], Any], running: Running) -> Any:
    """Wait until a function returns something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := find():
            return found
        if running.process.poll() is not None and not find():
            time.sleep(0.2)  # until its last lines are read
            break
        time.sleep(0.02)
    found = find()
    assert found, f"ended with {running.process.poll()}: {running.lines}"
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Function that starts a server with the application above."""
    launcher = tmp_path / "launcher.py"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    started: list[Running] = []

    def call(**settings: Any) -> Running:
        arguments = json.dumps({"port": 0, **settings})
        started.append(Running([sys.executable, str(launcher), arguments]))
        return started[-1]

    yield call
    for running in started:
        running.process.kill()
        running.process.wait()


# ---------------------------------------------------------------------------------------------------------- the process


def load(port: int, answers: list[int], lost: list[str], ends: threading.Event) -> None:
    """Ask for embeddings on one connection until the server refuses; note what was never answered."""
    body = json.dumps({"input": ["a cat", "a dog", "a house"]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    while not ends.is_set():
        try:
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        except OSError as error:  # not accepted
            if answers and answers[-1] == 200 and not isinstance(error, ConnectionError):
                lost.append(repr(error))
            return
        try:
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            lost.append(repr(error))
            return
        answers.append(answer.status)
        if answer.status != 200:
            assert content["error"]["code"] == "not_ready"
            assert answer.headers["Connection"] == "close"
            return
        assert len(content["data"]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_under_load_loses_no_accepted_request() -> None:
    running = Running([sys.executable, "-m", "oneclip", "serve", "--port", "0"])
    running.line('"ready"')
    ends, lost = threading.Event(), list[str]()
    answers: list[list[int]] = [[] for _ in range(16)]
    clients = [threading.Thread(target=load, args=(running.port, each, lost, ends)) for each in answers]
    for client in clients:
        client.start()
    wait_for(lambda: all(len(each) > 2 for each in answers), running)
    assert running.stop() == 0, running.lines
    ends.set()
    for client in clients:
        client.join(PATIENCE)
    assert lost == []
    assert all(set(each[:-1]) == {200} and each[-1] in (200, 503) for each in answers)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    requests = [json.loads(line) for line in running.lines[1:] if '"request"' in line]
    assert len(requests) == sum(map(len, answers))
    assert {each["route"] for each in requests} <= {"/v1/embeddings", None}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_ends_a_server_that_is_still_starting(start: Callable[..., Running]) -> None:
    running = start(model="slow")
    running.process.send_signal(signal.SIGHUP)
    assert running.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_a_second_sigterm_ends_at_once(start: Callable[..., Running]) -> None:
    running = start(timeout=1000.0)
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as waiting:
        waiting.sendall(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert running.get("/pid")[0] == 200  # so that the other one has been read, too
        running.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE).close()
            except OSError:
                return True
            return False

        wait_for(refused, running)
        assert running.process.poll() is None  # it waits for the answer
        assert running.stop() == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_requests_that_do_not_end_are_given_up_after_the_timeout(start: Callable[..., Running]) -> None:
    running = start(timeout=0.5)
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as waiting:
        waiting.sendall(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert running.get("/pid")[0] == 200
        assert running.stop() == 0
        waiting.recv(65536)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reads_the_keys_again(start: Callable[..., Running], tmp_path: Path, workers: int) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("old\n", encoding="utf-8")
    running = start(api_key_file=str(keys), workers=workers)
    assert running.get("/pid", **{"X-API-Key": "old"})[0] == 200
    wait_for(lambda: len(known_pids(running, "old")) == workers, running)
    keys.write_text("new\n", encoding="utf-8")
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: sum("keys read from" in line for line in running.lines) == workers, running)
    assert running.get("/pid", **{"X-API-Key": "new"})[0] == 200
    assert running.get("/pid", **{"X-API-Key": "old"})[0] == 401
    assert running.stop() == 0


def known_pids(running: Running, key: str = "") -> set[int]:
    """Return the processes that answer, which takes several requests at once: one would always go to the same."""
    pids = set()

    def ask(_: int) -> None:
        with contextlib.suppress(ConnectionError):  # of a process that was killed
            pids.add(running.get("/pid", **{"X-API-Key": key})[1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
    return pids


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_several_processes_share_a_port_and_are_replaced_when_they_die(
    start: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    running = start(workers=2)
    pids = wait_for(lambda: found if len(found := known_pids(running)) == 2 else None, running)
    assert running.process.pid not in pids
    wait_for(
        lambda: counted_requests(running) == len(running.answered), running
    )  # it is counted once it is answered
    os.kill(min(pids), signal.SIGKILL)
    wait_for(lambda: len(known_pids(running) - {min(pids)}) == 2, running)
    wait_for(lambda: counted_requests(running) == len(running.answered), running)
    assert running.stop() == 0
    assert list((tmp_path / "temporary").iterdir()) == []  # the folder of the metrics is gone


def counted_requests(running: Running) -> int:
    """Return how many requests for /pid all processes together have counted."""
    text = running.get("/metrics")[1]
    found = re.search(r'^oneclip_requests_total\{route="/pid",status="200"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_loaded_ends_the_server_with_its_reason(
    start: Callable[..., Running], workers: int
) -> None:
    running = start(model="broken", workers=workers)
    assert running.wait() == 1
    running.line(
        "error: the index of sorrow is damaged" if workers == 1 else "the index of sorrow is damaged"
    )
    assert sum("sorrow" in line for line in running.lines) == 1


def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: the port is in use; --port 0"):
            open_socket("127.0.0.1", port)


def test_a_host_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is not an address of this machine"):
        open_socket("192.0.2.1", 0)


# -------------------------------------------------------------------------------------- errors, logs, documentation


@pytest.fixture
def bare() -> TestClient:
    """Client of an application whose model is not loaded."""
    app = create_app(ServeSettings())

    @app.get("/fault")
    async def fault() -> None:
        raise ZeroDivisionError("a fault")

    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("POST", "/health", None, 405),
        ("GET", "/v1/embeddings", None, 405),
        ("GET", "/ready", None, 503),
        ("GET", "/health", None, 503),
        ("POST", "/v1/embeddings", b'{"input": "a cat"}', 503),
        ("POST", "/v1/embeddings", b"{", 400),
        ("GET", "/fault", None, 500),
    ],
)
def test_every_error_has_the_shape_of_openai(
    bare: TestClient, method: str, path: str, body: bytes | None, status: int
) -> None:
    answer = bare.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_value_of_the_wrong_type_is_named(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a cat", "dimensions": "many"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"] == "dimensions"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/search", b'{"query": "a", "foo": 1}', "unknown field 'foo'"),
        ("/v1/search", b"[1]", "the body must be a JSON object"),
        ("/v1/embeddings", b'"a cat"', "the body must be a JSON object"),
        ("/v1/classify", b"[1]", "the body must be a JSON object"),
    ],
)
def test_a_body_of_the_wrong_kind_is_explained_in_words_of_json(
    client: TestClient, path: str, body: bytes, message: str
) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, message)


def test_a_fault_is_logged_with_its_traceback_and_the_name_of_the_request(
    bare: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = bare.get("/fault", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert "a fault" not in answer.text
    entry = json.loads(JsonFormatter().format(caplog.records[0]))
    assert (entry["id"], entry["level"]) == ("abc-1", "error")
    assert "ZeroDivisionError: a fault" in entry["traceback"]


def test_a_request_is_logged_in_one_line_of_json(bare: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oneclip.serve")
    answer = bare.get("/docs")
    line = JsonFormatter().format(caplog.records[-1])
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("ms") >= 0
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "message": "request",
        "id": answer.headers["x-request-id"],
        "client": "testclient",
        "method": "GET",
        "route": "/docs",
        "status": 200,
        "items": 0,
        "bytes": len(answer.content),
    }


def test_the_log_counts_the_items_of_a_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oneclip.serve")
    client.post("/v1/embeddings", json={"input": ["a cat", "a dog", "a house"]})
    assert json.loads(JsonFormatter().format(caplog.records[-1]))["items"] == 3


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "ä"])
def test_a_name_of_a_request_that_could_spoil_the_log_is_replaced(bare: TestClient, given: str) -> None:
    answer = bare.get("/docs", headers={"X-Request-ID": given.encode("latin-1")})  # type: ignore[dict-item]
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])


def test_the_documentation_names_all_routes_and_loads_nothing(bare: TestClient) -> None:
    page = bare.get("/docs")
    schema = bare.get("/openapi.json").json()
    assert {
        "/v1/embeddings",
        "/v2/embed",
        "/v1/images/embed",
        "/v1/classify",
        "/v1/explain",
        "/v1/search",
        "/predict",
    } <= set(schema["paths"])
    for path in schema["paths"]:
        assert f"{path}</code>" in page.text
    assert "curl http://localhost/v1/models" in page.text
    assert not re.findall(r"<(?:script|link|img|iframe)|@import|url\(", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_health_and_readiness_of_a_server_with_a_model(client: TestClient) -> None:
    assert client.get("/ready").json() == {"status": "ready", "model": "pocket"}
    health = client.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "pocket")


def test_health_waits_for_a_place_in_a_full_queue(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.serve.errors import QueueFullError

    embedder = client.app.state.server.embedder  # type: ignore[attr-defined]
    embed, refusals = embedder.embed_texts, [QueueFullError(1024), QueueFullError(1024)]

    async def embed_later(texts: list[str]) -> Any:
        if refusals:
            raise refusals.pop()
        return await embed(texts)

    monkeypatch.setattr(embedder, "embed_texts", embed_later)
    assert client.get("/health").status_code == 200
    assert refusals == []


def test_health_is_bad_if_a_text_does_not_come_back(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    async def hang(texts: list[str]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client.app.state.server.embedder, "embed_texts", hang)  # type: ignore[attr-defined]
    monkeypatch.setattr("oneclip.serve.routes.status.HEALTH_SECONDS", 0.05)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


@pytest.mark.parametrize("path", ["/health", "/ready", "/ping", "/v1/models"])
def test_a_load_balancer_may_probe_with_head(client: TestClient, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert set(client.get("/openapi.json").json()["paths"][path]) == {"get"}


def test_counters_exist_before_their_first_event() -> None:
    text = Metrics().render()[0].decode()
    for sample in (
        'threads_replaced_total{kind="image"}',
        'errors_total{kind="internal"}',
        'items_total{kind="image"}',
    ):
        assert f"\noneclip_{sample} 0.0\n" in text
    assert "_created" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cors": ("example.com",)}, "'https://example.com'"),
        ({"cors": ("https://example.com/",)}, "'https://example.com'"),
        ({"allow_hosts": ("https://photos.example.com",)}, "'photos.example.com'"),
        ({"allow_hosts": ("photos.example.com:7997",)}, "'photos.example.com'"),
    ],
)
def test_a_name_that_would_never_match_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeSettings(**settings)


def test_a_foreign_page_that_asks_for_permission_gets_an_error_of_the_usual_shape() -> None:
    foreign = TestClient(create_app(ServeSettings(cors=("https://a.example",))), base_url="http://localhost")
    headers = {"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
    answer = foreign.options("/v1/embeddings", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_may_read_the_shape_of_embeddings() -> None:
    page = TestClient(create_app(ServeSettings(cors=("https://a.example",))), base_url="http://localhost")
    exposed = page.get("/ping", headers={"Origin": "https://a.example"}).headers[
        "access-control-expose-headers"
    ]
    assert {"X-Embeddings-Shape", "X-Embeddings-Dtype"} <= set(exposed.split(", "))


def test_metrics_count_requests_by_route(client: TestClient) -> None:
    client.get("/private/address")
    text = client.get("/metrics").text
    assert re.search(r'^oneclip_requests_total\{route="none",status="404"\} [1-9]', text, re.MULTILINE)
    assert "private" not in text
