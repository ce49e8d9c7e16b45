"""Files from the Hugging Face hub, with the real client and a local server that speaks its protocol."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from hub_server import TOKEN, Fault, Hub, environment, in_this_process, sha256
from huggingface_hub import errors

from oneclip import hub
from oneclip.errors import ChecksumError, DownloadError, OfflineError, OutputError

WEIGHTS = bytes(range(256)) * 8192  # 2 MiB
NAME = "open_clip_model.safetensors"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path) as hub_:
        hub_.publish("own/model", {NAME: WEIGHTS, "sub/config.json": b"{}"})
        yield hub_


def test_a_file_is_complete_and_not_fetched_twice(server: Hub) -> None:
    path = hub.hub_file("own/model")
    assert path.read_bytes() == WEIGHTS
    assert hub.hub_file("own/model") == path == hub.cached_hub_file("own/model")
    assert len(server.downloads(NAME)) == 1


def test_subfolders_and_revisions(server: Hub) -> None:
    commit = server.publish("own/model", {NAME: b"newer"}, "refs/pr/2")
    assert hub.hub_file("own/model", "config.json", subfolder="sub").read_bytes() == b"{}"
    assert hub.hub_file("own/model", revision="refs/pr/2").read_bytes() == b"newer"
    assert hub.hub_file("own/model", revision=commit).read_bytes() == b"newer"
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS


def test_an_updated_branch_is_followed(server: Hub) -> None:
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS
    server.publish("own/model", {NAME: b"newer"})
    assert hub.hub_file("own/model").read_bytes() == b"newer"


def test_a_dropped_connection_is_resumed(server: Hub) -> None:
    digest = sha256(WEIGHTS)
    server.faults = [Fault(digest, drop_after=10 * 2**16), Fault(digest, drop_after=5 * 2**16)]
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS
    asked = [request.range for request in server.downloads(NAME)]
    assert asked == [None, f"bytes={10 * 2**16}-", f"bytes={15 * 2**16}-"]


def test_a_connection_that_the_client_gives_up_is_retried(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, failures = (
        huggingface_hub.hf_hub_download,
        [ConnectionResetError(104, "reset"), OSError("short")],
    )

    def fails_twice(*args: object, **kwargs: object) -> object:
        if failures:
            raise failures.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails_twice)
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS


@pytest.mark.parametrize("links", [True, False], ids=["cache with links", "cache without links"])
def test_a_corrupted_body_is_deleted(server: Hub, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *args: links)
    server.faults = [Fault(sha256(WEIGHTS), corrupt=True)]
    with pytest.raises(ChecksumError, match=f"hf-hub:own/model .*the hub has {sha256(WEIGHTS)}"):
        hub.hub_file("own/model")
    assert hub.cached_hub_file("own/model") is None
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS


def test_a_cached_file_is_not_verified_again(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.hub_file("own/model")
    monkeypatch.setattr("oneclip.hub.huggingface.sha256_of", lambda path: pytest.fail("it was read again"))
    assert hub.hub_file("own/model") == path


def test_a_busy_hub_is_asked_again_when_it_says(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.faults = [
        Fault(
            "/resolve/", "HEAD", status=429, headers={"Retry-After": "7"}
        ),  # the client looks at its cache, and asks
        Fault("/resolve/", "HEAD", status=429, headers={"Retry-After": "8"}),
        Fault(sha256(WEIGHTS), status=429, headers={"Retry-After": "9"}),
    ]
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS
    assert waits == [8 + 1, 9 + 1]  # it adds a second


def test_a_hub_that_stays_busy_is_an_error(server: Hub) -> None:
    server.faults = [Fault("/resolve/", "HEAD", status=429)] * 30
    with pytest.raises(DownloadError, match=r"too many requests \(HTTP 429\). Wait some minutes"):
        hub.hub_file("own/model")


def test_a_server_error_of_the_hub_is_reported(server: Hub) -> None:
    server.faults = [Fault("/resolve/", "HEAD", status=503)] * 30
    with pytest.raises(DownloadError, match=r"has a server error \(HTTP 503\). Try again later"):
        hub.hub_file("own/model")


def test_an_unreachable_hub_is_reported(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(DownloadError, match=r"Check the network connection and, if it is set, HF_ENDPOINT"):
        hub.hub_file("own/model")


def test_without_a_network_cached_files_are_used(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.publish("own/old", {"open_clip_pytorch_model.bin": WEIGHTS})  # the name that is tried second
    path = hub.hub_file("own/old")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert hub.hub_file("own/old") == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["a.bin", "b.bin"]}, "^hf-hub:own/model does not contain a.bin or b.bin$"),
        ({"repo": "own/mistyped"}, "the repository does not exist or is private. Check its name, or log in"),
        ({"repo": "own/private"}, "does not exist or is private"),
        ({"repo": "own/gated"}, "requires accepting its terms: accept them on the repository's page"),
        ({"repo": "own/refused"}, "requires accepting its terms"),
        ({"revision": "nowhere"}, "hf-hub:own/model@nowhere .*the revision does not exist"),
        ({"repo": "own/model/too/long"}, "hf-hub:own/model/too/long is not a valid repository name"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_inaccessible_files_are_reported(server: Hub, arguments: dict, message: str) -> None:
    for access in ("private", "gated", "refused"):
        server.publish(f"own/{access}", {NAME: WEIGHTS}, access=access)
    with pytest.raises(DownloadError, match=message):
        hub.hub_file(**{"repo": "own/model", **arguments})


@pytest.mark.parametrize("access", ["private", "gated"])
def test_a_token_grants_access_and_is_sent_only_to_the_hub(
    server: Hub, monkeypatch: pytest.MonkeyPatch, access: str
) -> None:
    server.publish("own/closed", {NAME: WEIGHTS}, access=access)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.hub_file("own/closed").read_bytes() == WEIGHTS
    assert {request.host for request in server.requests if request.token} == {"hub"}
    assert {request.token for request in server.requests if request.host == "cdn"} == {None}


def test_an_unknown_token_is_reported(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(DownloadError, match=r"refused the token \(HTTP 401\)"):
        hub.hub_file("own/model")


def test_optional_files_of_a_repository(server: Hub) -> None:
    found = hub.hub_files("own/model", ["tokenizer.json", "config.json"], subfolder="sub")
    assert {name: path.read_bytes() for name, path in found.items()} == {"config.json": b"{}"}


@pytest.mark.parametrize("switch", ["ONECLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_uses_cached_files_and_sends_no_request(
    server: Hub, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    path = hub.hub_file("own/model")
    server.requests.clear()
    monkeypatch.setenv(switch, "1")
    assert hub.hub_file("own/model") == path
    with pytest.raises(OfflineError, match=r"open_clip_model.safetensors or .* of hf-hub:own/other is not"):
        hub.hub_file("own/other")
    with pytest.raises(OfflineError, match=r"`oneclip pull NAME --out FOLDER`"):
        hub.hub_file("own/model", "another.bin")
    assert hub.hub_files("own/model", [NAME, "another.bin"]) == {NAME: path}
    assert server.requests == []


def test_a_full_disk_leaves_nothing_behind(server: Hub) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(OutputError, match=r"could not be written: File too large. Free some space"):
            hub.hub_file("own/model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    assert not [path for path in cache.rglob("blobs/*") if path.stat().st_size > 0]
    assert hub.hub_file("own/model").read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_created_is_an_output_error(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        hub.hub_file("own/model", cache_dir=tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            errors.LocalEntryNotFoundError("no connection"),
            DownloadError,
            "could not be fetched: no connection",
        ),
        (ConnectionResetError("reset"), DownloadError, "could not be fetched: reset"),
        (
            OSError("Consistency check failed"),
            DownloadError,
            "could not be fetched: Consistency check failed",
        ),
    ],
)
def test_network_failures_become_our_errors(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception], message: str
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(expected, match=message):
        hub.hub_file("own/model")


def test_a_missing_name_is_requested_once(server: Hub) -> None:
    server.publish("own/old", {"open_clip_pytorch_model.bin": WEIGHTS})  # the name that is tried second
    path = hub.hub_file("own/old")
    server.requests.clear()
    assert hub.hub_file("own/old") == path
    assert not [request for request in server.requests if request.path.endswith(NAME)]


def test_the_preferred_name_is_fetched_even_if_the_other_is_cached(server: Hub) -> None:
    server.publish("own/both", {NAME: WEIGHTS, "open_clip_pytorch_model.bin": b"the same, but pickled"})
    hub.hub_file("own/both", "open_clip_pytorch_model.bin")
    assert hub.hub_file("own/both").name == NAME


PROGRAM = """
import sys
from oneclip import hub
print(hub.hub_file(sys.argv[1]).stat().st_size, hub.cached_hub_file(sys.argv[1]).name)
"""


def in_a_process(server: Hub, folder: Path, repo: str = "own/model", **changes: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, repo],
        env=kept | environment(server, str(folder), **changes),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_endpoint_and_the_cache_are_those_of_the_environment(server: Hub, tmp_path: Path) -> None:
    assert in_a_process(server, tmp_path) == f"{len(WEIGHTS)} {NAME}"
    assert (tmp_path / "huggingface" / "hub" / "models--own--model").is_dir()
    server.requests.clear()
    assert in_a_process(server, tmp_path, HF_HUB_OFFLINE="1") == f"{len(WEIGHTS)} {NAME}"
    assert server.requests == []


def test_a_mirror_behind_a_proxy_is_used(server: Hub, tmp_path: Path) -> None:
    behind = {"HF_ENDPOINT": "http://mirror.example", "http_proxy": server.url}
    local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1")  # where the CDN is
    assert in_a_process(server, tmp_path, **behind, **local) == f"{len(WEIGHTS)} {NAME}"


def test_two_processes_at_once_fetch_it_once(server: Hub, tmp_path: Path) -> None:
    server.faults = [Fault(sha256(WEIGHTS), wait=2.0)] * 2
    with ThreadPoolExecutor() as threads:
        results = [threads.submit(in_a_process, server, tmp_path) for _ in range(2)]
        assert [result.result() for result in results] == [f"{len(WEIGHTS)} {NAME}"] * 2
    assert len(server.downloads(NAME)) == 1
