"""Byte ranges of local and remote files."""

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
from oneclip.hub.ranges import MAX_GAP, file_version, read_ranges

CONTENT = os.urandom(4 * MAX_GAP)


class Server:
    """Content and behaviour of a web server."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.faults: list[int] = []  # statuses of the next answers
        self.has_ranges = True
        self.etag = '"one"'
        self.address = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(ranges, "_RETRY_SECONDS", (0.0, 0.0, 0.0))
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


def test_ranges_are_returned_in_the_requested_order(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(CONTENT)
    wanted = [(3 * MAX_GAP, 3 * MAX_GAP + 5), (10, 20), (0, 12), (5, 5)]
    assert read_ranges(str(path), wanted) == [CONTENT[start:stop] for start, stop in wanted]


def test_close_ranges_are_read_in_one_request(server: Server) -> None:
    wanted = [(3 * MAX_GAP, 3 * MAX_GAP + 5), (10, 20), (100, 200)]
    assert read_ranges(server.address, wanted) == [CONTENT[start:stop] for start, stop in wanted]
    assert server.asked == ["GET bytes=10-199", f"GET bytes={3 * MAX_GAP}-{3 * MAX_GAP + 4}"]


def test_the_file_version_has_the_size_and_changes_with_the_etag(server: Server) -> None:
    first = file_version(server.address)
    server.etag = '"two"'
    assert first[0] == len(CONTENT)
    assert file_version(server.address)[1] != first[1]
    assert server.asked == ["HEAD", "HEAD"]


def test_a_temporary_server_error_is_retried(server: Server) -> None:
    server.faults = [503, 500, 503]
    assert read_ranges(server.address, [(0, 9)]) == [CONTENT[:9]]
    server.faults = [503] * 4
    with pytest.raises(DownloadError, match="answers 503"):
        read_ranges(server.address, [(0, 9)])


def test_a_refusal_is_not_retried(server: Server) -> None:
    server.faults = [404]
    with pytest.raises(DownloadError, match="answers 404"):
        read_ranges(server.address, [(0, 9)])
    assert len(server.asked) == 1


def test_a_server_without_ranges_is_reported(server: Server) -> None:
    server.has_ranges = False
    with pytest.raises(DataError, match="does not support byte ranges"):
        read_ranges(server.address, [(0, 9)])


def test_a_truncated_or_missing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"short")
    with pytest.raises(DataError, match="is truncated"):
        read_ranges(str(path), [(0, 9)])
    path.unlink()
    with pytest.raises(DataError, match="the file no longer exists"):
        read_ranges(str(path), [(0, 1)])
    with pytest.raises(DataError, match="no such file"):
        file_version(str(path))


def test_offline_no_range_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(OfflineError):
        file_version("https://example.org/a.tar")
