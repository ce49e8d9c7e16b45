"""Downloads from a local server that fails in all the usual ways."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from oneclip import hub, zoo
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OutputError
from oneclip.hub import download_bar, transfer

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Handler that serves `server.content`, with the faults of `server.plan` in order."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range"))
        plan = self.server.plan.pop(0) if self.server.plan else {}
        content, asked = plan.get("content", self.server.content), self.headers.get("Range")
        if "status" in plan:
            self.send_response(plan["status"])
            for key, value in plan.get("headers", {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "sleep" in plan:
            time.sleep(plan["sleep"])
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0  # type: ignore[index]
        if self.headers.get("If-Range", self.server.etag) != self.server.etag or plan.get("no_ranges"):
            start, asked = 0, None
        if asked and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", self.server.etag)
        if asked:
            default = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", plan.get("content_range", default))
        if not plan.get("no_length"):
            self.send_header("Content-Length", str(len(body) + plan.get("promise", 0)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[: plan.get("drop_after", len(body))])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: disconnecting clients are part of the tests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.plan: list[dict] = []
        self.requests: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/models/weights.pt"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transfer, "BACKOFF", 0.001)
    monkeypatch.setattr(transfer, "CHUNK", 2**16)
    for name in ("HF_HUB_OFFLINE", "ONECLIP_OFFLINE", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_complete_and_not_fetched_twice(server: Server, tmp_path: Path) -> None:
    path = hub.download(server.url, tmp_path / "new" / "folder", sha256=SHA256)
    assert path == tmp_path / "new" / "folder" / "weights.pt"
    assert path.read_bytes() == CONTENT
    assert hub.download(server.url, path.parent, sha256=SHA256.upper()) == path
    assert server.requests == [None]
    assert not path.with_name("weights.pt.part").exists()


def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.plan = [{"drop_after": 300_000}, {"drop_after": 200_000}]
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_a_dropped_connection_is_resumed_without_checksum(server: Server, tmp_path: Path) -> None:
    server.plan = [{"drop_after": 300_000}]
    assert hub.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]


def test_a_file_that_changes_between_attempts_is_fetched_from_its_start(
    server: Server, tmp_path: Path
) -> None:
    newer = CONTENT[::-1]

    class Changing(list):
        def pop(self, index: int) -> dict:  # type: ignore[override]
            plan = super().pop(index)
            if len(self) == 0:
                server.content, server.etag = newer, '"two"'
            return plan

    server.plan = Changing([{"drop_after": 300_000}, {}])
    assert hub.download(server.url, tmp_path).read_bytes() == newer


def test_a_later_call_continues_what_an_earlier_one_began(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_a_part_without_checksum_is_not_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(b"of another file")
    assert hub.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None]


@pytest.mark.parametrize("stale", [b"of another file", b"x" * (len(CONTENT) + 5), b"y" * len(CONTENT)])
def test_a_stale_part_is_thrown_away(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "weights.pt.part").write_bytes(stale)
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_complete_part_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(CONTENT)
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize(
    "answer",
    [
        {"no_ranges": True},
        {"content_range": "bytes 7-99/100"},
        {"content_range": "nonsense"},
        {"status": 503},
    ],
    ids=["ignores ranges", "another range", "no range", "out of order"],
)
def test_servers_that_cannot_continue_still_give_the_file(
    server: Server, tmp_path: Path, answer: dict
) -> None:
    server.plan = [{"drop_after": 300_000}, answer]
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_reply_without_length_is_read_to_its_end(server: Server, tmp_path: Path) -> None:
    server.plan = [{"no_length": True}]
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_reply_shorter_than_promised_is_never_used(server: Server, tmp_path: Path) -> None:
    server.plan = [{"promise": 10, "no_ranges": True}] * 9
    with pytest.raises(DownloadError, match=r"in 5 attempts.*copy it to .*weights\.pt"):
        hub.download(server.url, tmp_path)
    assert not (tmp_path / "weights.pt").exists()


def test_attempts_are_bounded(server: Server, tmp_path: Path) -> None:
    server.plan = [{"drop_after": 10}] * 50
    with pytest.raises(DownloadError, match="connection broke after"):
        hub.download(server.url, tmp_path, sha256=SHA256)
    assert len(server.requests) == 5
    server.plan = []
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=50-"


def test_attempts_that_make_progress_do_not_count(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ENOUGH", 50_000)
    server.plan = [{"drop_after": 60_000}] * 17
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int) -> None:
    server.plan = [{"status": status}]
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        hub.download(server.url, tmp_path)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again_when_it_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    server.plan = [
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 503, "headers": {"Retry-After": "9999"}},
    ]
    assert hub.download(server.url, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert waits == [7, transfer.LONGEST_WAIT]


def test_an_unreachable_server_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"could not be fetched in 5 attempts"):
        hub.download("http://127.0.0.1:1/weights.pt", tmp_path)


def test_a_proxy_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr("urllib.request._opener", None)  # created again from the environment
    assert hub.download("http://weights.example/w.pt", tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_a_corrupted_file_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ChecksumError, match=SHA256):
        hub.download(server.url, tmp_path, sha256=SHA256)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_an_existing_file_with_another_checksum_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"something else")
    assert hub.download(server.url, tmp_path, sha256=SHA256[:8]).read_bytes() == CONTENT


def test_an_existing_file_survives_a_failed_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"something else")
    server.content = b"corrupt"
    with pytest.raises(ChecksumError):
        hub.download(server.url, tmp_path, sha256=SHA256)
    assert (tmp_path / "weights.pt").read_bytes() == b"something else"


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "ONECLIP_OFFLINE"])
def test_offline_an_uncached_file_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(OfflineError, match=f"Fetch {server.url} elsewhere") as caught:
        hub.download(server.url, tmp_path, sha256=SHA256)
    assert str(tmp_path / "weights.pt") in str(caught.value)
    (tmp_path / "weights.pt").write_bytes(CONTENT)
    assert hub.download(server.url, tmp_path, sha256=SHA256).exists()
    (tmp_path / "weights.pt").write_bytes(b"broken")
    with pytest.raises(OfflineError, match="is damaged"):
        hub.download(server.url, tmp_path, sha256=SHA256)
    assert server.requests == []


def _fetch(url: str, folder: Path, results: multiprocessing.Queue) -> None:
    results.put(hub.download(url, folder, sha256=SHA256).read_bytes() == CONTENT)


def test_two_processes_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    server.plan = [{"sleep": 0.3}] * 4
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_fetch, args=(server.url, tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=30) for _ in processes] == [True, True, True]
    for process in processes:
        process.join()
    assert len(server.requests) == 1


def test_a_full_disk_is_an_output_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_append", full)
    with pytest.raises(OutputError, match="No space left"):
        hub.download(server.url, tmp_path)


def test_an_unusable_folder_is_an_output_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        hub.download(server.url, tmp_path / "file" / "below")
    (tmp_path / "weights.pt").mkdir()
    with pytest.raises(OutputError, match="exists and is not a file"):
        hub.download(server.url, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/a.pt",
        "https://host/",
        "https://host/..",
        "weights.pt",
        "http://h/a%2F..%5Cb",
    ],
)
def test_invalid_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=re.escape(url)):
        hub.download(url, tmp_path)


def test_a_short_download_draws_nothing_without_a_terminal(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.download(server.url, tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
def test_a_long_download_draws_a_bar_on_stderr(
    server: Server,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shown: bool,
) -> None:
    monkeypatch.setattr(download_bar, "QUIET_SECONDS", 0)
    hub.download(server.url, tmp_path, progress=shown)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("weights.pt" in err and "1.0" in err) if shown else err == ""


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ONECLIP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / ".cache" / "clip"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_folder() == tmp_path / "xdg" / "clip"
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path / "mine"))
    assert hub.cache_folder() == tmp_path / "mine"


def test_weights_with_a_full_checksum_are_fetched_from_their_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple] = []
    monkeypatch.setattr(
        hub.weights, "download", lambda url, folder, sha256: asked.append((url, folder, sha256))
    )
    monkeypatch.setattr(
        hub.weights, "hub_file", lambda repo, names, cache_dir: asked.append((repo, names, cache_dir))
    )
    hub.fetch_weights(zoo.pretrained("ViT-B/32", "openai"), tmp_path)
    hub.fetch_weights(zoo.pretrained("ViT-B-32", "laion400m_e32"), tmp_path)
    hub.fetch_weights(zoo.pretrained("ViT-B-16-plus-240", "laion400m_e32"), tmp_path)
    hub.fetch_weights(zoo.pretrained("ViTamin-S", "datacomp1b"), tmp_path)
    assert asked[0][2] == "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert asked[1][0] == "timm/vit_base_patch32_clip_224.laion400m_e32"
    assert asked[2][2] == "699c4b84"
    assert asked[3] == ("jienengchen/ViTamin-S", ("pytorch_model.bin",), tmp_path)


def test_if_the_url_fails_the_error_names_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> Path:
        raise DownloadError("HTTP 404")

    monkeypatch.setattr(hub.weights, "download", fail)
    with pytest.raises(DownloadError, match=r"^HTTP 404. .* as hf-hub:timm/vit_base_patch32_clip_224.openai"):
        hub.fetch_weights(zoo.pretrained("ViT-B/32", "openai"), tmp_path)


def test_cached_weights_are_found_without_a_request(tmp_path: Path) -> None:
    weights = zoo.pretrained("ViT-B-32", "laion400m_e32")
    assert hub.cached_weights(weights, tmp_path) is None
    path = tmp_path / "vit_b_32-quickgelu-laion400m_e32-46683a32.pt"
    path.touch()
    assert hub.cached_weights(weights, tmp_path) == path
