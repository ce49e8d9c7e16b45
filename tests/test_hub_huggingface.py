"""The real Hugging Face client, in a process of its own, against a server of ours that speaks its protocol."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import errors

from oneclip import hub
from oneclip.errors import DownloadError, OutputError

FILES = {
    "/own/model/resolve/main/open_clip_pytorch_model.bin": b"weights",
    "/own/model/resolve/main/sub/config.json": b"{}",
    "/own/model/resolve/v2/open_clip_pytorch_model.bin": b"newer",
}

PROGRAM = """
import json, sys
from oneclip import hub
results = []
for arguments in json.loads(sys.argv[1]):
    try:
        results.append(hub.hub_file(**arguments).read_text())
    except Exception as error:
        results.append(f"{type(error).__name__}: {error}")
here = hub.hub_file_here("own/model")
print(json.dumps([*results, here and here.name]))
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        content, status, headers = FILES.get(self.path.partition("?")[0]), 200, {}
        if self.path.startswith("/own/gated"):
            content, status, headers = b"", 403, {"X-Error-Code": "GatedRepo"}
        elif not self.path.startswith("/own/model"):
            content, status, headers = b"", 404, {"X-Error-Code": "RepoNotFound"}
        elif "/nowhere/" in self.path:
            content, status, headers = b"", 404, {"X-Error-Code": "RevisionNotFound"}
        elif content is None:
            content, status, headers = b"", 404, {"X-Error-Code": "EntryNotFound"}
        self.send_response(status)
        headers |= {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": ("2" if "/v2/" in self.path else "1") * 40,
            "Content-Length": str(len(content)),
        }
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def run(server: ThreadingHTTPServer, folder: Path, *arguments: dict, **environment: str) -> list[str | None]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(folder),
        "HOME": str(folder),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_hub_files(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    weights, config, newer, none, gated, unknown, revision, invalid, here = run(
        server,
        tmp_path,
        {"repo": "own/model"},
        {"repo": "own/model", "names": "config.json", "subfolder": "sub"},
        {"repo": "own/model", "revision": "v2"},
        {"repo": "own/model", "names": ["a.bin", "b.bin"]},
        {"repo": "own/gated"},
        {"repo": "own/unknown"},
        {"repo": "own/model", "revision": "nowhere"},
        {"repo": "own/model/too/long"},
    )
    assert (weights, config, newer) == ("weights", "{}", "newer")
    assert none == "DownloadError: hf-hub:own/model has no a.bin or b.bin"
    assert gated is not None
    assert gated.startswith("DownloadError:")
    assert "accepted its terms" in gated
    assert unknown is not None
    assert "does not exist or is private" in unknown
    assert revision is not None
    assert "has no such revision" in revision
    assert invalid is not None
    assert "no name of a repository" in invalid
    assert here == "open_clip_pytorch_model.bin"


def test_offline_takes_what_is_here_and_asks_no_server(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    run(server, tmp_path, {"repo": "own/model"})
    server.requests.clear()  # type: ignore[attr-defined]
    found, missing, _ = run(
        server, tmp_path, {"repo": "own/model"}, {"repo": "own/other"}, ONECLIP_OFFLINE="1"
    )
    assert found == "weights"
    assert missing is not None
    assert missing.startswith(
        "OfflineError: open_clip_model.safetensors or open_clip_pytorch_model.bin of hf-hub:own/other"
    )
    assert "hf download own/other" in missing
    assert server.requests == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            errors.LocalEntryNotFoundError("no connection"),
            DownloadError,
            "could not be fetched: no connection",
        ),
        (ConnectionResetError("reset"), DownloadError, "could not be fetched: reset"),
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "No space left on device"),
    ],
)
def test_what_the_network_and_the_disk_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], message: str
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(expected, match=message):
        hub.hub_file("own/model")
