"""Local hub server that accepts uploads, based on `hub_server`."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hub_server import LARGE, TOKEN, Handler, Hub, Server, sha256


class UploadHandler(Handler):
    """Handler that creates repositories, and accepts files and commits."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply_json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'me'}/{request['name']}"
            if name not in self.server.hub.repositories:
                self.server.hub.publish(name, {".gitattributes": b""})
            self.reply_json({"url": f"{self.server.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in files}
            answers = [
                {"path": p, "uploadMode": m, "shouldIgnore": False, "oid": None} for p, m in modes.items()
            ]
            self.reply_json({"files": answers})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            put = lambda digest: {"upload": {"href": f"{self.server.hub.url}/blobs/{digest}"}}  # noqa: E731
            self.reply_json(
                {"transfer": "basic", "objects": [{**o, "actions": put(o["oid"])} for o in objects]}
            )
        elif match := re.fullmatch(r"/api/models/(.+)/commit/([^?]+).*", self.path):
            self.reply_json(self.commit(match[1], match[2], body))
        else:
            self.reply_json({"error": self.path}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        known = self.path.rpartition("/")[2] == sha256(data)
        self.server.hub.blobs[sha256(data)] = data
        self.reply_json({}, 200 if known else 400)

    def commit(self, repo: str, revision: str, body: bytes) -> dict[str, str]:
        hub = self.server.hub
        repository = hub.repositories[repo]
        files = dict(repository.commits[repository.refs["main"]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
        commit = hub.publish(repo, files, revision)
        return {"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit, "hookOutput": ""}

    def reply_json(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def taking_uploads() -> Iterator[Hub]:
    """Run a hub that accepts uploads with `hub_server.TOKEN`."""
    hub = Hub()
    with Server(hub, "hub") as server, Server(hub, "cdn") as cdn:
        server.RequestHandlerClass = UploadHandler
        hub.url, hub.cdn_url = server.url, cdn.url
        threads = [
            threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01}) for s in (server, cdn)
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
