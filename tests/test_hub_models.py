"""`oneclip.load("hf-hub:…")` end to end: online in one process, then offline in another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub_models
import numpy as np
import pytest
from hub_server import Fault, Hub, environment, in_this_process, running, sha256
from tiny import picture

import oneclip
from oneclip.errors import ChecksumError, DownloadError, OfflineError
from tests import programs

CAPTIONS = ["a photo of a cat", "the sun"]
PROGRAM = """
import json, sys
import numpy, oneclip
picture = numpy.load(sys.argv[1])
found = {}
for name in sys.argv[2:]:
    clip = oneclip.load(name, device="cpu")
    found[name] = [clip.encode_images(picture).tolist(), clip.encode_texts(%r).tolist()]
print(json.dumps(found))
""" % (CAPTIONS,)  # noqa: UP031

MODELS = {
    "hf-hub:own/clip": hub_models.clip,
    "hf-hub:own/nested/small/one@v1": lambda: hub_models.clip(1),
    "hf-hub:own/siglip": lambda: hub_models.siglip() | hub_models.words(),
    "hf-hub:own/siglip-with-words": lambda: hub_models.siglip() | hub_models.words("sun"),
    "hf-hub:own/transformers": hub_models.transformers_clip,
    "hf-hub:own/shards": lambda: hub_models.transformers_clip(1),
}
"""Folders with all files of a model, by the name that should load it."""


def publish(server: Hub) -> None:
    server.publish("own/clip", hub_models.clip())
    server.publish("own/nested", {"README.md": b"-"})
    server.publish("own/nested", hub_models.below("small/one", hub_models.clip(1)), "v1")
    server.publish("own/siglip", hub_models.siglip())
    server.publish("own/siglip-with-words", hub_models.siglip() | hub_models.words("sun"))
    server.publish(hub_models.WORDS_REPO, hub_models.words())
    server.publish("own/transformers", hub_models.transformers_clip())
    server.publish("own/shards", hub_models.in_shards(hub_models.transformers_clip(1)))


def load_in_a_process(server: Hub, home: Path, picture: Path, *names: str, **changes: str) -> dict[str, Any]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    done = programs.run(["-c", PROGRAM, picture, *names], kept | environment(server, str(home), **changes))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def online_and_offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the outputs of each model online and then offline, and the requests made offline."""
    folder = tmp_path_factory.mktemp("hub")
    np.save(folder / "picture.npy", np.asarray(picture()))
    with running() as server:
        publish(server)
        online = load_in_a_process(server, folder, folder / "picture.npy", *MODELS)
        server.requests.clear()
        offline = load_in_a_process(server, folder, folder / "picture.npy", *MODELS, ONECLIP_OFFLINE="1")
        return {"online": online, "offline": offline, "asked": list(server.requests)}


@pytest.mark.parametrize("name", MODELS)
def test_a_repository_loads_as_the_same_files_in_a_folder_do(
    online_and_offline: dict[str, Any], tmp_path: Path, name: str
) -> None:
    clip = oneclip.load(hub_models.written(MODELS[name](), tmp_path / "model"), device="cpu")
    image, text = online_and_offline["online"][name]
    np.testing.assert_allclose(image, clip.encode_images(picture()), atol=1e-6)
    np.testing.assert_allclose(text, clip.encode_texts(CAPTIONS), atol=1e-6)


def test_the_models_differ(online_and_offline: dict[str, Any]) -> None:
    texts = [json.dumps(text) for _, text in online_and_offline["online"].values()]
    assert len(set(texts)) == len(texts)


def test_offline_all_of_them_load_without_a_single_request(online_and_offline: dict[str, Any]) -> None:
    assert online_and_offline["offline"] == online_and_offline["online"]
    assert online_and_offline["asked"] == []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path) as hub:
        publish(hub)
        yield hub


def test_offline_a_missing_model_is_reported_with_a_remedy(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(
        OfflineError, match=r"own/clip is not on this machine.*`oneclip pull NAME --out FOLDER`"
    ):
        oneclip.load("hf-hub:own/clip")
    with pytest.raises(OfflineError, match=r"ViT-B-32\.pt is not on this machine.*oneclip pull"):
        oneclip.load("ViT-B/32")
    assert server.requests == []


@pytest.mark.parametrize("name", ["hf-hub:own/clip", "hf-hub:own/transformers", "hf-hub:own/siglip"])
def test_when_the_hub_cannot_be_reached_cached_models_load(
    server: Hub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    oneclip.load(name, device="cpu")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    oneclip.load(name, device="cpu")


def test_all_files_of_a_model_are_of_one_commit_though_its_branch_moves_on(server: Hub) -> None:
    """Another model is published between the download of the configuration and that of the weights."""
    moved = hub_models.siglip()

    class Moving(list):
        def append(self, request: Any) -> None:
            super().append(request)
            if request.method == "GET" and "open_clip_config" in request.path:
                server.publish("own/clip", moved)

    server.requests = Moving()
    assert oneclip.load("hf-hub:own/clip", device="cpu").embed_dim == 16
    assert oneclip.load("hf-hub:own/clip", device="cpu").embed_dim == 32


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf-hub:own/clap", DownloadError, "own/clap.*does not exist or is private. Check its name"),
        ("hf-hub:own/closed", DownloadError, "requires accepting its terms.*hf auth login"),
        ("hf-hub:own/clip@v9", DownloadError, "the revision does not exist"),
        (
            "hf-hub:own/nested",
            DownloadError,
            "own/nested does not contain open_clip_config.json or config.json",
        ),
        ("hf-hub:own/bare", DownloadError, "own/bare.* does not contain open_clip_model.safetensors"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_explained(
    server: Hub, name: str, error: type[Exception], message: str
) -> None:
    server.publish("own/closed", hub_models.clip(), access="gated")
    config = hub_models.clip()["open_clip_config.json"]
    server.publish("own/bare", {"open_clip_config.json": config})
    with pytest.raises(error, match=message):
        oneclip.load(name)


def test_damaged_weights_are_not_loaded(server: Hub) -> None:
    server.faults = [Fault(sha256(hub_models.clip()["open_clip_model.safetensors"]), corrupt=True)]
    with pytest.raises(ChecksumError):
        oneclip.load("hf-hub:own/clip")
    assert oneclip.load("hf-hub:own/clip", device="cpu").embed_dim == 16
