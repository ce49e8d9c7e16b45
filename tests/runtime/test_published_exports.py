"""Published ONNX exports of CLIP, as folders and on the hub, against the arithmetic of NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

pytest.importorskip("onnx", reason="needs the extra oneclip[export]")

from hub_server import Hub, in_this_process
from small_export import DIM, IDS, PIXELS, SmallExport, write_image_tower, write_text_tower

import oneclip
from oneclip.errors import AmbiguousModelError, CheckpointError
from oneclip.runtime import RuntimeEncoder

TEXTS = ["a cat", "!", "a dog, and wow!"]
CONFIG = {
    "model_type": "clip",
    "projection_dim": DIM,
    "vision_config": {"image_size": PIXELS},
    "text_config": {"max_position_embeddings": 77},
}
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": PIXELS},
    "crop_size": {"height": PIXELS, "width": PIXELS},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> SmallExport:
    """Write towers whose outputs have no unit length, and a text tower with an attention mask."""
    folder = tmp_path_factory.mktemp("published")
    random = np.random.default_rng(1)
    small = SmallExport(
        folder,
        random.standard_normal((48, DIM)).astype(np.float32),
        random.standard_normal((IDS, DIM)).astype(np.float32),
    )
    (folder / "onnx").mkdir()
    write_image_tower(folder / "onnx" / "vision_model.onnx", small.pixel_weights, norm=False)
    write_text_tower(folder / "onnx" / "text_model.onnx", small.token_weights, norm=False, mask=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return small


def masked(small: SmallExport, texts: list[str]) -> np.ndarray:
    """Compute the embeddings of texts from their tokens; that of an exclamation mark has the id of padding, 0."""
    tokenizer = oneclip.text.CLIPTokenizer()
    rows = [[tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id] for text in texts]
    sums = np.stack([small.token_weights.astype(np.float64)[row].sum(axis=0) for row in rows])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@pytest.fixture
def images() -> list[object]:
    return [tiny.picture(seed) for seed in range(3)]


def test_embeddings_of_a_folder_are_those_of_its_towers(published: SmallExport, images: list) -> None:
    encoder = oneclip.load(published.folder)
    assert isinstance(encoder, RuntimeEncoder)
    np.testing.assert_allclose(encoder.encode_images(images), published.images(images), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), masked(published, TEXTS), atol=1e-5)


def test_the_scale_is_that_of_clip(published: SmallExport) -> None:
    assert oneclip.load(published.folder).logit_scale == 100


def test_other_towers_have_other_digests(published: SmallExport, tmp_path: Path) -> None:
    digest = oneclip.load(published.folder).weights_digest()
    assert digest == oneclip.load(published.folder).weights_digest()
    copy = tmp_path / "copy"
    (copy / "onnx").mkdir(parents=True)
    for file in published.folder.rglob("*.*"):
        (copy / file.relative_to(published.folder)).write_bytes(file.read_bytes())
    write_image_tower(copy / "onnx" / "vision_model.onnx", 2 * published.pixel_weights)
    assert oneclip.load(copy).weights_digest() != digest


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path / "home") as hub:
        yield hub


def files_of(small: SmallExport) -> dict[str, bytes]:
    folder = small.folder
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}


def test_a_repository_is_downloaded_once(published: SmallExport, images: list, server: Hub) -> None:
    server.publish("own/onnx-clip", files_of(published))
    for _ in range(2):
        encoder = oneclip.load("hf-hub:own/onnx-clip")
        np.testing.assert_allclose(encoder.encode_images(images), published.images(images), atol=1e-5)
    assert encoder.name == "hf-hub:own/onnx-clip"
    assert len(server.downloads("onnx/vision_model.onnx")) == 1


def test_a_repository_without_towers_is_refused_as_before(server: Hub) -> None:
    server.publish("own/empty", {"config.json": b"{}"})
    with pytest.raises(AmbiguousModelError, match="does not describe its weights"):
        oneclip.load("hf-hub:own/empty")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", json.dumps({**CONFIG, "model_type": "siglip"}), "model_type 'siglip'"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ("preprocessor_config.json", json.dumps({**PREPROCESSOR, "do_resize": False}), "do_resize"),
    ],
)
def test_what_cannot_be_used_is_named(
    published: SmallExport, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    for name, data in files_of(published).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        oneclip.load(tmp_path)
