"""Files of other programs, loaded here, give the outputs of the published package with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_compare import compare
from write_files import PIXELS, TEXTS, TOY

from oneclip import checkpoint
from oneclip.checkpoint import ConvertibleModel, convert
from oneclip.errors import AmbiguousModelError, CheckpointError

TOLERANCE = 1e-5  # relative
SAID = {"quick_gelu": False, "heads": 1, "preprocess": "openai"}
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": PIXELS, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture(scope="module")
def seen(published_open_clip: Any) -> dict[str, Any]:
    found: dict[str, Any] = published_open_clip["files"]
    return found


@pytest.fixture(scope="module")
def folder(published_open_clip: Any, seen: dict[str, Any]) -> Path:
    """Return the folder with the files."""
    written: Path = published_open_clip.results / "written"
    return written


def same(loaded: checkpoint.LoadedModel, seen: dict[str, Any], case: str) -> None:
    expected, model = seen[case], loaded.model
    with torch.inference_mode():
        ours = {"image": model.encode_image(seen["pixels"]), "text": model.encode_text(expected["ids"])}
    compare(f"read, {case}", ours, {key: expected[key] for key in ours}, TOLERANCE)


def test_heads_that_are_not_64_wide_are_asked_for(folder: Path, seen: dict[str, Any]) -> None:
    said = {"quick_gelu": False, "preprocess": "openai"}
    with pytest.raises(AmbiguousModelError, match=r"how many heads.*heads=\(image tower, text tower\)"):
        checkpoint.load(folder / "heads.pt", device="cpu", **said)
    same(checkpoint.load(folder / "heads.pt", device="cpu", heads=(2, 4), **said), seen, "heads")


def open_clip_folder(source: Path, target: Path) -> Path:
    """Load the model with an added token as open_clip does: pooled at the largest id."""
    text = SMALL["text_cfg"] | {"vocab_size": 49409, "tokenizer_kwargs": {"additional_special_tokens": [TOY]}}
    target.mkdir()
    config = {"model_cfg": SMALL | {"text_cfg": text}, "preprocess_cfg": {}}
    (target / "open_clip_config.json").write_text(json.dumps(config))
    checkpoint.save(target / "open_clip_model.safetensors", checkpoint.read(source / "added.pt").state_dict)
    return target


@pytest.mark.parametrize("form", [None, "open_clip", "safetensors", "transformers"])
def test_texts_are_pooled_at_their_end_whatever_was_added(
    folder: Path, seen: dict[str, Any], tmp_path: Path, form: str | None
) -> None:
    path = open_clip_folder(folder, tmp_path / "folder")
    if form is not None:
        target = tmp_path / ("out.safetensors" if form == "safetensors" else "out")
        convert(ConvertibleModel.from_loaded(checkpoint.load(path, device="cpu")), target, form)
        path = target
    loaded = checkpoint.load(path, device="cpu")
    same(loaded, seen, "added tokens")
    with torch.inference_mode():
        one, other, _ = loaded.model.encode_text(loaded.tokenizer()(TEXTS))
    expected = seen["added tokens"]["text"]
    torch.testing.assert_close(one, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, expected[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, other, atol=1e-2)


def test_long_clips_own_file(folder: Path, seen: dict[str, Any]) -> None:
    loaded = checkpoint.load(folder / "longclip.pt", device="cpu")
    assert (loaded.cfg.text_cfg.context_length, loaded.cfg.quick_gelu) == (248, True)
    same(loaded, seen, "Long-CLIP")


@pytest.mark.parametrize("name", ["net", "Lightning", "beside"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_is_found_in_its_wrapper(folder: Path, seen: dict[str, Any], name: str, suffix: str) -> None:
    path = folder / f"{name}{suffix}"
    if suffix == ".safetensors":
        content = torch.load(folder / f"{name}.pt", weights_only=True)
        checkpoint.save(path, content.get("net") or content.get("state_dict") or content)
    same(checkpoint.load(path, device="cpu", **SAID), seen, "wrapped")


def test_a_model_may_be_named_by_its_prefix(folder: Path, seen: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"under 'backbone\.' and 'teacher\.'.*prefix='backbone\.'"):
        checkpoint.load(folder / "named.pt", device="cpu", **SAID)
    with pytest.raises(CheckpointError, match=r"begins with 'model\.'; it has backbone\.\* \(\d+\), teacher"):
        checkpoint.load(folder / "named.pt", device="cpu", prefix="model.", **SAID)
    same(checkpoint.load(folder / "named.pt", device="cpu", prefix="backbone.", **SAID), seen, "wrapped")


def test_a_model_may_be_named_by_its_part(folder: Path, seen: dict[str, Any]) -> None:
    content = torch.load(folder / "net.pt", weights_only=True)
    torch.save(content | {"net_ema": content["net"]}, folder / "two.pt")
    with pytest.raises(CheckpointError, match=r"net and net_ema.*part='net'"):
        checkpoint.load(folder / "two.pt", device="cpu", **SAID)
    same(checkpoint.load(folder / "two.pt", device="cpu", part="net", **SAID), seen, "wrapped")
