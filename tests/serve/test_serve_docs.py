"""What docs/serve.md shows works, its table of routes is that of the server, and the container files fit together."""

import re
import runpy
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from oneclip.serve.http_protocol import limited_protocol
from oneclip.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "serve.md"
DOCKERFILE = ROOT / "Dockerfile"


@pytest.fixture
def address(app: "FastAPI") -> Iterator[str]:
    """Serve the application on a port, in a thread; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=limited_protocol(ServeSettings()), log_config=None, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_the_python_of_the_page_runs(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for block in re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        assert "http://127.0.0.1:7997" in block
        exec(compile(block.replace("http://127.0.0.1:7997", address), str(PAGE), "exec"), names)
    assert len(names["texts"].data) == 2
    assert len(names["images"].data) == 1
    assert names["found"]["images"][0]["labels"][0]["label"] == "a cat"
    assert len(names["content"]) == 4 * len(names["texts"].data[0].embedding)


def test_the_page_lists_every_route() -> None:
    make_routes = runpy.run_path(str(ROOT / "docs" / "make_routes.py"))
    page = PAGE.read_text(encoding="utf-8")
    assert make_routes["with_table"](page) == page, "run: python docs/make_routes.py"


def test_every_status_of_an_error_is_explained() -> None:
    explained = set(re.findall(r"^\| (\d{3}) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    used = set()
    for path in (ROOT / "src" / "oneclip" / "serve").rglob("*.py"):
        used |= set(re.findall(r"RequestError\(\s*(\d{3}),", path.read_text(encoding="utf-8")))
    assert used - {"500"} <= explained


def test_the_options_that_the_page_names_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## `oneclip serve`")[2]
    ours = set(re.findall(r"`(--[a-z-]+)", page)) - {"--precision", "--profile"}
    for option in ours:
        assert f"`{option}" in listed, option


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    content: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return content


def test_the_variables_in_the_compose_file_are_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from oneclip.cli.app import run

    served: list[ServeSettings] = []
    monkeypatch.setattr("oneclip.serve.server.serve", lambda settings, announce: served.append(settings))
    for name in ("oneclip", "photographs"):
        service = compose()["services"][name]
        with monkeypatch.context() as patch:
            for variable, value in service["environment"].items():
                patch.setenv(variable, value)
            assert run(service["command"].split()) == 0
        assert (served[-1].host, served[-1].auth) == ("0.0.0.0", False)
        assert all(port.startswith("127.0.0.1:") and port.endswith(":7997") for port in service["ports"])
    assert served[0].index == ("/photos",)
    assert served[0].allow_hosts == ("oneclip",)
    assert served[1].model == "ViT-B-32-256:datacomp_s34b_b86k"


def test_the_compose_file_mounts_what_the_image_uses() -> None:
    content, dockerfile = compose(), DOCKERFILE.read_text(encoding="utf-8")
    mounted = [volume.rsplit(":") for volume in content["services"]["oneclip"]["volumes"]]
    named = dict(each for each in mounted if len(each) == 2)
    assert set(named) <= set(content["volumes"])
    for target in named.values():
        assert target in dockerfile  # as a folder that belongs to the user, and in a variable
    assert content["services"]["oneclip"]["volumes"][0].endswith(":/photos:ro")


def test_prometheus_reads_the_metrics_of_the_server() -> None:
    yaml = pytest.importorskip("yaml")
    service = compose()["services"]["prometheus"]
    source = service["volumes"][0].partition(":")[0]
    scraped = yaml.safe_load((ROOT / source).read_text(encoding="utf-8"))["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == ["oneclip:7997"]


def test_the_image_contains_what_the_server_needs() -> None:
    dockerfile = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(r"\.whl\)\[[a-z,]*\bserve\b[a-z,]*\]", dockerfile)
    allowed = set((ROOT / ".dockerignore").read_text(encoding="utf-8").replace("!", "").split())
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in allowed, source
