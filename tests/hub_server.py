"""A local server that the real Hugging Face client accepts as the hub, with repositories in memory.

It implements what downloads need: `/resolve/` with commit, ETag and size, a relative redirect for files in git and one
to another host (the "CDN") for large files, ranges, `/api/models/`, error codes and tokens. `Hub.faults` makes the next
replies fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_a_token_that_this_server_knows"
LARGE = (".safetensors", ".bin", ".pt", ".npz", ".model", "tokenizer.json")  # not in git but in LFS


class Request(NamedTuple):
    """Received request: host ("hub" or "cdn"), method, path, range and token."""

    host: str
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Fault:
    """Failure of one reply.

    Attributes:
        path: part of the path of the request.
        method: of the request.
        status, headers: sent instead of the file.
        drop_after: bytes after which the connection breaks.
        corrupt: whether to change the last byte.
        wait: seconds before the reply.
    """

    path: str
    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    corrupt: bool = False
    wait: float = 0.0


@dataclass
class Repository:
    """Repository: files by commit, branches and tags, and access."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    access: str = "public"  # or "private", "gated"


class Hub:
    """State of the server: repositories, received requests, and planned faults."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.blobs: dict[str, bytes] = {}
        self.url = self.cdn_url = ""

    def publish(
        self, repo: str, files: Mapping[str, bytes], revision: str = "main", access: str = "public"
    ) -> str:
        """Create a commit and point a branch or tag to it.

        Returns:
            The name of the commit.
        """
        repository = self.repositories.setdefault(repo, Repository())
        content = "".join(f"{name} {sha256(data)}" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{repo} {revision} {content}".encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[revision] = commit
        repository.access = access
        self.blobs |= {sha256(data): data for data in files.values()}
        return commit

    def downloads(self, name: str) -> list[Request]:
        """Return the requests for the content of files with this name."""
        digests = {
            sha256(data)
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for path, data in files.items()
            if path.rpartition("/")[2] == name
        }
        return [
            r
            for r in self.requests
            if r.method == "GET" and (r.path.endswith(f"/{name}") or r.path.rpartition("/")[2] in digests)
        ]

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Remove and return the fault planned for this reply, if any."""
        for fault in self.faults:
            if fault.path in path and fault.method == method:
                self.faults.remove(fault)
                return fault
        return None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    """Return the git hash of a file, which is its ETag on the hub."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.requests.append(Request(self.server.host, self.command, path, self.headers.get("Range"), token))
        fault = hub.fault_for(self.command, path) or Fault("")
        if fault.wait:
            threading.Event().wait(fault.wait)
        if fault.status:
            return self._reply(fault.status, fault.headers)
        if self.server.host == "cdn":
            data = hub.blobs.get(path.rpartition("/")[2])
            return self._reply(404) if data is None else self._send(data, {"ETag": '"cdn"'}, fault)
        if match := re.fullmatch(r"/api/resolve-cache/models/(.+?/.+?)/([0-9a-f]{40})/(.+)", path):
            repo, commit, name = match.groups()
            data = hub.repositories[repo].commits[commit][name]
            return self._send(data, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'}, fault)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._describe(match[1], match[2] or "main", token)
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/(.+)", path):
            return self._resolve(match[1], match[2], token)
        return self._reply(404)

    def _resolve(self, repo: str, rest: str, token: str | None) -> None:
        """Redirect to a file; `rest` is a revision, which may contain slashes, and a path."""
        repository = self._readable(repo, token)
        if repository is None:
            return None
        names = {**repository.refs, **{commit: commit for commit in repository.commits}}
        revision = next((name for name in names if rest.startswith(f"{name}/")), None)
        if revision is None:
            return self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        commit, name = names[revision], rest.removeprefix(f"{revision}/")
        data = repository.commits[commit].get(name)
        if data is None:
            return self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if name.endswith(LARGE):
            digest = sha256(data)
            facts = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
            return self._reply(302, facts | {"Location": f"{self.server.hub.cdn_url}/blobs/{digest}"})
        location = f"/api/resolve-cache/models/{repo}/{commit}/{name}"
        return self._reply(307, {"Location": location, "X-Repo-Commit": commit})

    def _describe(self, repo: str, revision: str, token: str | None) -> None:
        repository = self._readable(repo, token)
        if repository is None:
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in repository.commits[commit]]
        facts = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "private": False}
        return self._send(json.dumps(facts).encode(), {"Content-Type": "application/json"}, Fault(""))

    def _readable(self, repo: str, token: str | None) -> Repository | None:
        """Return the repository if it may be read; otherwise send an error."""
        repository = self.server.hub.repositories.get(repo)
        if token not in (None, TOKEN):
            self._reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.access == "private" and token is None):
            self._reply(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
        elif repository.access == "gated" and token is None:
            self._reply(401, {"X-Error-Code": "GatedRepo"})
        elif repository.access == "refused":
            self._reply(403, {"X-Error-Code": "GatedRepo"})
        else:
            return repository
        return None

    def _send(self, data: bytes, headers: dict[str, str], fault: Fault) -> None:
        """Send a file or the requested range."""
        body, status = data, 200
        if fault.corrupt:
            body = data[:-1] + bytes([data[-1] ^ 1])
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            if first >= len(data):
                return self._reply(416, {"Content-Range": f"bytes */{len(data)}"})
            body, status = body[first : last + 1], 206
            headers = headers | {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(data)}"}
        return self._reply(status, headers | {"Accept-Ranges": "bytes"}, body, fault.drop_after)

    def _reply(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        drop_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:drop_after])
        if drop_after is not None:
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, host: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.host = hub, host
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: disconnecting clients are part of the tests."""


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub and its CDN, each on its own port."""
    hub = Hub()
    with Server(hub, "hub") as server, Server(hub, "cdn") as cdn:
        hub.url, hub.cdn_url = server.url, cdn.url
        threads = [
            threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01})
            for each in (server, cdn)
        ]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            for each in (server, cdn):
                each.shutdown()
            for thread in threads:
                thread.join()


def environment(hub: Hub, home: str, **changes: str) -> dict[str, str]:
    """Return environment variables for a subprocess that uses this hub and a folder for its files."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": f"{home}/huggingface",
        "HOME": home,
        "ONECLIP_CACHE": f"{home}/clip",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "*",
        "no_proxy": "*",
        "OMP_NUM_THREADS": "1",
    } | changes


@contextmanager
def in_this_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Run a hub for this process, with its cache in a folder and without real waits.

    The client reads environment variables when it is imported, so its constants are replaced.
    """
    import huggingface_hub.constants as constants

    for name in ("HF_HUB_OFFLINE", "ONECLIP_OFFLINE", "HF_TOKEN", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("ONECLIP_CACHE", str(folder / "clip"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with running() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
        yield hub
