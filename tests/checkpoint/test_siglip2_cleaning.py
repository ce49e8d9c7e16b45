"""A SigLIP 2 cleans its texts in one way, whichever name or folder it is loaded by: as in open_clip."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oneclip import checkpoint, zoo
from oneclip.checkpoint import Exportable, save
from oneclip.checkpoint.formats.base import Converted
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.config import CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model
from oneclip.text import HFTokenizer
from oneclip.zoo import catalogue

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))

from made_tokenizers import siglip2

PUBLISHED = "ViT-B-16-SigLIP2"
TEXT, CLEANED = (
    "A  photo, of a_CAT!",
    "a photo of a cat",
)  # in lower case, no punctuation, one space between words
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
    """The published architecture, but small: of its text tower all that belongs to texts."""
    text = replace(
        zoo.architecture(PUBLISHED).text_cfg, width=8, heads=2, layers=1, hf_tokenizer_name=tokenizer
    )
    return replace(zoo.architecture(PUBLISHED), embed_dim=16, vision_cfg=VISION, text_cfg=text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Exportable:
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    siglip2(tokenizer)
    cfg = small_cfg(str(tokenizer))
    torch.manual_seed(0)
    return Exportable(build_model(cfg).state_dict(), cfg, PreprocessCfg(size=32, resize_mode="squash"))


@pytest.fixture(autouse=True)
def architecture(monkeypatch: pytest.MonkeyPatch, model: Exportable) -> None:
    monkeypatch.setitem(catalogue._rows(), "small-SigLIP2", model.cfg.to_dict())


def transformers_folder(model: Exportable, folder: Path) -> str:
    """As Google's repositories are: nothing in it says how texts are cleaned."""
    save(model, folder / "hf", "transformers")
    config = json.loads((folder / "hf" / "config.json").read_text())
    del config["oneclip"]
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    path = folder / "hf" / "model.safetensors"
    checkpoint.save(path, checkpoint.read(path).state_dict)
    return str(folder / "hf")


def open_clip_folder(model: Exportable, folder: Path) -> str:
    save(model, folder / "open", "open_clip")
    return str(folder / "open")


def big_vision(model: Exportable, folder: Path) -> str:
    """The authors' own file, under an architecture's name."""
    theirs = BigVision().write(Converted(dict(model.state_dict), model.cfg)).state_dict
    np.savez(folder / "siglip2.npz", **{name: tensor.numpy() for name, tensor in theirs.items()})
    return f"small-SigLIP2:{folder}/siglip2.npz"


def bare(model: Exportable, folder: Path) -> str:
    checkpoint.save(folder / "bare.safetensors", model.state_dict)
    return f"small-SigLIP2:{folder}/bare.safetensors"


def described(model: Exportable, folder: Path) -> str:
    save(model, folder / "ours.safetensors", "safetensors")
    return str(folder / "ours.safetensors")


@pytest.mark.parametrize("make", [transformers_folder, open_clip_folder, big_vision, bare, described])
def test_texts_are_cleaned_in_one_way(model: Exportable, tmp_path: Path, make: object) -> None:
    assert callable(make)
    loaded = checkpoint.load(make(model, tmp_path), device="cpu")
    tokenizer = loaded.tokenizer()
    expected = HFTokenizer(str(model.cfg.text_cfg.hf_tokenizer_name), 64, clean="whitespace")([CLEANED])
    assert torch.equal(tokenizer([TEXT]), expected)


def test_every_published_siglip2_is_cleaned_so() -> None:
    names = [name for name in zoo.architectures() if "SigLIP2" in name]
    assert len(names) > 10
    assert all(
        zoo.architecture(name).text_cfg.tokenizer_kwargs == {"clean": "canonicalize"} for name in names
    )
