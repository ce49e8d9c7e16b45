"""The program in docs/training.md runs as it is written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import oneclip
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.image import Preprocess
from oneclip.model import build_model
from oneclip.text import get_tokenizer

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def small_encoder(name: str) -> Encoder:
    text = CLIPTextCfg(width=16, heads=2, layers=1)
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=32, image_size=64)
    cfg = ModelCfg(16, vision, text)
    torch.manual_seed(0)
    return Encoder(build_model(cfg), Preprocess(PreprocessCfg(size=64)), get_tokenizer(text), cfg, name=name)


def test_the_program_in_the_docs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    monkeypatch.setattr(oneclip, "load", small_encoder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(program[1], names)
    assert names["outcome"].step == 200
    assert (tmp_path / "run" / "step_200.pt").exists()
