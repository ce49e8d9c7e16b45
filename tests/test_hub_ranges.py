"""Parts of files, on disk and from a web server."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from oneclip.errors import DataError, DownloadError, OfflineError
from oneclip.hub import ranges
from oneclip.hub.ranges import GAP, read_ranges, stamp

CONTENT = os.urandom(4 * GAP)


class Server:
    """What a web server holds, and how it behaves."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: list[int] = []  # statuses of the next answers
        self.has_ranges = True
        self.etag = '"one"'
        self.address = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(ranges, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("oneclip.hub.addresses.offline", lambda: False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            state.asked.append(f"{self.command} {self.headers.get('Range', '')}".strip())
            body, status = CONTENT, 200
            if wanted is not None and state.has_ranges:
                body, status = CONTENT[int(wanted[1]) : int(wanted[2]) + 1], 206
            if state.faults:
                body, status = b"", state.faults.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", state.etag)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{httpd.server_port}/a.tar"
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_parts_of_a_file_come_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    wanted = [(3 * GAP, 3 * GAP + 5), (10, 20), (0, 12), (5, 5)]
    assert read_ranges(str(path), wanted) == [CONTENT[start:stop] for start, stop in wanted]


def test_close_parts_are_asked_of_a_server_at_once(server: Server) -> None:
    wanted = [(3 * GAP, 3 * GAP + 5), (10, 20), (100, 200)]
    assert read_ranges(server.address, wanted) == [CONTENT[start:stop] for start, stop in wanted]
    assert server.asked == ["GET bytes=10-199", f"GET bytes={3 * GAP}-{3 * GAP + 4}"]


def test_a_stamp_has_the_size_and_changes_with_the_etag(server: Server) -> None:
    first = stamp(server.address)
    server.etag = '"two"'
    assert first[0] == len(CONTENT)
    assert stamp(server.address)[1] != first[1]
    assert server.asked == ["HEAD", "HEAD"]


def test_a_server_that_stumbles_is_asked_again(server: Server) -> None:
    server.faults = [503, 500, 503]
    assert read_ranges(server.address, [(0, 9)]) == [CONTENT[:9]]
    server.faults = [503] * 4
    with pytest.raises(DownloadError, match="answers 503"):
        read_ranges(server.address, [(0, 9)])


def test_a_server_that_refuses_is_not_asked_again(server: Server) -> None:
    server.faults = [404]
    with pytest.raises(DownloadError, match="answers 404"):
        read_ranges(server.address, [(0, 9)])
    assert len(server.asked) == 1


def test_a_server_without_ranges_is_told(server: Server) -> None:
    server.has_ranges = False
    with pytest.raises(DataError, match="does not give parts of files"):
        read_ranges(server.address, [(0, 9)])


def test_a_file_that_ends_too_early_or_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="ends in the middle"):
        read_ranges(str(path), [(0, 9)])
    path.unlink()
    with pytest.raises(DataError, match="no such file any more"):
        read_ranges(str(path), [(0, 1)])
    with pytest.raises(DataError, match="no such file"):
        stamp(str(path))


def test_nothing_is_asked_while_the_network_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(OfflineError):
        stamp("https://example.org/a.tar")
