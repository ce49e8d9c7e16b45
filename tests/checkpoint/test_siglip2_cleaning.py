"""A SigLIP 2 cleans its texts as in open_clip, from every kind of file."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oneclip import checkpoint, zoo
from oneclip.checkpoint import ConvertibleModel, convert
from oneclip.checkpoint.formats.base import NativeCheckpoint
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.config import CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model
from oneclip.text import HFTokenizer
from oneclip.zoo import catalogue

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))

from tiny_tokenizers import siglip2

PUBLISHED = "ViT-B-16-SigLIP2"
TEXT, CLEANED = (
    "A  photo, of a_CAT!",
    "a photo of a cat",
)  # lower case, no punctuation, single spaces
VISION = CLIPVisionCfg(
    layers=1,
    width=16,
    head_width=8,
    patch_size=16,
    image_size=32,
    pool_type="map",
    act_kwargs={"approximate": "tanh"},
    norm_kwargs={"eps": 1e-6},
)


def small_cfg(tokenizer: str) -> ModelCfg:
    """The published architecture with small towers and its own text cleaning."""
    text = replace(
        zoo.architecture(PUBLISHED).text_cfg, width=8, heads=2, layers=1, hf_tokenizer_name=tokenizer
    )
    return replace(zoo.architecture(PUBLISHED), embed_dim=16, vision_cfg=VISION, text_cfg=text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ConvertibleModel:
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    siglip2(tokenizer)
    cfg = small_cfg(str(tokenizer))
    torch.manual_seed(0)
    return ConvertibleModel(build_model(cfg).state_dict(), cfg, PreprocessCfg(size=32, resize_mode="squash"))


@pytest.fixture(autouse=True)
def architecture(monkeypatch: pytest.MonkeyPatch, model: ConvertibleModel) -> None:
    monkeypatch.setitem(catalogue._rows(), "small-SigLIP2", model.cfg.to_dict())


def transformers_folder(model: ConvertibleModel, folder: Path) -> str:
    """A folder as in Google's repositories, without information on how texts are cleaned."""
    convert(model, folder / "hf", "transformers")
    config = json.loads((folder / "hf" / "config.json").read_text())
    del config["oneclip"]
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    path = folder / "hf" / "model.safetensors"
    checkpoint.save(path, checkpoint.read(path).state_dict)
    return str(folder / "hf")


def open_clip_folder(model: ConvertibleModel, folder: Path) -> str:
    convert(model, folder / "open", "open_clip")
    return str(folder / "open")


def big_vision(model: ConvertibleModel, folder: Path) -> str:
    """A file of the authors' code, loaded as a named architecture."""
    theirs = BigVision().write(NativeCheckpoint(dict(model.state_dict), model.cfg)).state_dict
    np.savez(folder / "siglip2.npz", **{name: tensor.numpy() for name, tensor in theirs.items()})
    return f"small-SigLIP2:{folder}/siglip2.npz"


def bare(model: ConvertibleModel, folder: Path) -> str:
    checkpoint.save(folder / "bare.safetensors", model.state_dict)
    return f"small-SigLIP2:{folder}/bare.safetensors"


def with_metadata(model: ConvertibleModel, folder: Path) -> str:
    convert(model, folder / "ours.safetensors", "safetensors")
    return str(folder / "ours.safetensors")


@pytest.mark.parametrize("make", [transformers_folder, open_clip_folder, big_vision, bare, with_metadata])
def test_texts_are_cleaned_as_in_open_clip(model: ConvertibleModel, tmp_path: Path, make: object) -> None:
    assert callable(make)
    loaded = checkpoint.load(make(model, tmp_path), device="cpu")
    tokenizer = loaded.tokenizer()
    expected = HFTokenizer(str(model.cfg.text_cfg.hf_tokenizer_name), 64, clean="whitespace")([CLEANED])
    assert torch.equal(tokenizer([TEXT]), expected)


def test_every_published_siglip2_canonicalizes_texts() -> None:
    names = [name for name in zoo.architectures() if "SigLIP2" in name]
    assert len(names) > 10
    assert all(
        zoo.architecture(name).text_cfg.tokenizer_kwargs == {"clean": "canonicalize"} for name in names
    )
