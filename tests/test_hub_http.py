"""HTTP details: escaped URLs, truncated bodies, busy servers."""

import gzip
import io
import tarfile
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from oneclip.embed.items import Failure, Item
from oneclip.embed.sources import find_sources
from oneclip.errors import DownloadError
from oneclip.hub import http
from oneclip.hub.addresses import read_bytes
from oneclip.hub.http import escape_url


class Server:
    """Files of a web server by path, and its planned responses."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.missing_bytes = 0  # announced and not sent
        self.busy: list[tuple[int, str | None]] = []  # the next answers, and their Retry-After
        self.asked: list[str] = []
        self.address = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "ONECLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.busy:
                status, after = state.busy.pop(0)
                self.send_response(status)
                if after is not None:
                    self.send_header("Retry-After", after)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.files.get(self.path)
            self.send_response(404 if body is None else 200)
            body = body or b""
            self.send_header("Content-Length", str(len(body) + state.missing_bytes))
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record waiting times instead of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(http.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize(
    ("address", "sent"),  # what `new URL(address).href` gives in a browser, but for the fragment
    [
        ("http://h/a b/ü.jpg", "http://h/a%20b/%C3%BC.jpg"),
        ("http://h/a%20b/%C3%BC.jpg", "http://h/a%20b/%C3%BC.jpg"),
        ("http://h/50%.jpg?q=a b&r='ü'", "http://h/50%.jpg?q=a%20b&r=%27%C3%BC%27"),
        ("http://h/a+b,(1)[2]!$&'*;=:@~.jpg#top", "http://h/a+b,(1)[2]!$&'*;=:@~.jpg"),
        ("https://bücher.example:8080/x", "https://xn--bcher-kva.example:8080/x"),
        ("http://h/\u65e5\u672c.png", "http://h/%E6%97%A5%E6%9C%AC.png"),
        ("http://h/a\\b.jpg", "http://h/a/b.jpg"),
        ("http://h/{a}<b>.jpg", "http://h/%7Ba%7D%3Cb%3E.jpg"),
    ],
)
def test_an_address_is_escaped_as_browsers_do(address: str, sent: str) -> None:
    assert escape_url(address) == sent


def test_addresses_with_spaces_and_letters_of_the_world_are_fetched(server: Server) -> None:
    server.files["/my%20photos/%C3%BC.jpg"] = b"here"
    assert read_bytes(f"{server.address}/my photos/ü.jpg") == b"here"
    assert read_bytes(f"{server.address}/my%20photos/%C3%BC.jpg") == b"here"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_retried_after_the_requested_wait(
    server: Server, pauses: list[float], status: int
) -> None:
    server.files["/x.jpg"] = b"here"
    server.busy = [(status, "3"), (status, None), (status, formatdate(http.time.time() + 9, usegmt=True))]
    assert read_bytes(f"{server.address}/x.jpg") == b"here"
    assert pauses[:2] == [3.0, http.RETRY_SECONDS[1]]
    assert 5 < pauses[2] <= 9


def test_a_server_that_stays_busy_or_requests_a_long_wait_is_an_error(
    server: Server, pauses: list[float]
) -> None:
    server.busy = [(429, "1")] * 9
    with pytest.raises(DownloadError, match="answers 429"):
        read_bytes(f"{server.address}/x.jpg")
    assert (len(server.asked), pauses) == (4, [1.0] * 3)
    server.busy = [(503, "3600")]
    with pytest.raises(DownloadError, match="answers 503"):
        read_bytes(f"{server.address}/x.jpg")
    assert len(pauses) == 3
    with pytest.raises(DownloadError, match="answers 404"):
        read_bytes(f"{server.address}/none.jpg")
    assert len(pauses) == 3


@pytest.mark.parametrize("name", ["list.txt", "table.csv", "captions.txt"])
def test_a_list_or_table_that_is_cut_in_transfer_is_an_error(server: Server, name: str) -> None:
    server.files[f"/{name}"] = b"path\n/a.jpg\n"
    server.missing_bytes = 30
    with pytest.raises(DownloadError, match=rf"{name}: the connection broke after 12 of 42 bytes"):
        find_sources([f"{server.address}/{name}"], texts=name == "captions.txt")


def test_a_truncated_download_of_a_tar_yields_items_and_a_failure(server: Server) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("a.jpg", "b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 2000
            archive.addfile(member, io.BytesIO(bytes(2000)))
    content = stream.getvalue()
    for cut in (512 + 2048, 512 + 2048 + 700):  # between two members, and within one
        server.files["/s.tar"] = content[:cut]
        server.missing_bytes = len(content) - cut
        (source,) = find_sources([f"{server.address}/s.tar"])
        first, last = source
        assert isinstance(first, Item)
        assert isinstance(last, Failure)
        assert "truncated or damaged after 1 items" in last.reason


def test_a_compressed_body_is_read_and_a_truncated_one_refused(server: Server) -> None:
    server.headers["Content-Encoding"] = "gzip"
    server.files["/x.csv"] = gzip.compress(b"here" * 1000)
    assert read_bytes(f"{server.address}/x.csv") == b"here" * 1000
    server.files["/x.csv"] = server.files["/x.csv"][:-12]
    with pytest.raises(DownloadError, match="is truncated"):
        read_bytes(f"{server.address}/x.csv")
