"""Towers of every family give the same embeddings in ONNX Runtime as in torch.

ONECLIP_EXPORT_FAMILIES=all runs them all, which takes minutes; else one tower of each kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import small_towers
import torch
from torch import Tensor, nn

from oneclip.export.onnx_export import write_onnx
from oneclip.export.towers import ExportedImageTower, ExportedTextTower
from tests.export.export_families import IMAGE_TOWERS, TEXT_TOWERS, TIMM, build, image_cfg, text_cfg

EVERY = os.environ.get("ONECLIP_EXPORT_FAMILIES") == "all"
IMAGES = [*IMAGE_TOWERS, "CoCa", *TIMM] if EVERY else ["SigLIP"]
TEXTS = [*TEXT_TOWERS, *small_towers.TEXT] if EVERY else ["SigLIP's text tower"]
LENGTH = 12


def error_of(
    tower: nn.Module, path: Path, example: Tensor, inputs: list[Tensor], longest: int | None
) -> float:
    """Return the greatest length of a difference between torch and ONNX Runtime."""
    with torch.no_grad():
        write_onnx(tower, example, path, input_name="x", output_name="y", longest=longest)
        expected = [tower(one).numpy() for one in inputs]
    session = onnxruntime.InferenceSession(str(path))
    found = [session.run(["y"], {"x": one.numpy()})[0] for one in inputs]
    return max(
        float(np.linalg.norm(one - other, axis=1).max()) for one, other in zip(expected, found, strict=True)
    )


@pytest.mark.parametrize("family", IMAGES)
def test_an_image_tower_is_equal_in_batches_of_every_size(family: str, tmp_path: Path) -> None:
    model = build(image_cfg(family))
    random = torch.Generator().manual_seed(1)
    inputs = [torch.randn(size, 3, 32, 32, generator=random) for size in (1, 2, 7)]
    assert error_of(ExportedImageTower(model), tmp_path / "x.onnx", inputs[1], inputs, None) < 1e-5


def ids_of(pad: int, batch: int, length: int, end: int) -> Tensor:
    """Make texts of 3 tokens and more, which the end token ends."""
    ids = torch.full((batch, length), pad)
    for row in range(batch):
        count = min(length, 3 + row)
        ids[row, :count] = torch.arange(4, 4 + count) + row
        ids[row, count - 1] = end
    return ids


@pytest.mark.parametrize("family", TEXTS)
def test_a_text_tower_is_equal_for_texts_of_every_length(family: str, tmp_path: Path) -> None:
    model = build(text_cfg(family, tmp_path))
    pad, end = getattr(model.text, "pad_id", 0), 2 if family == "text tower, end token" else 89
    is_dynamic = model.text_pooling().may_crop_padding
    sizes = [(1, LENGTH), (2, LENGTH), (7, LENGTH), *([(2, 5), (1, 1)] if is_dynamic else [])]
    inputs = [ids_of(pad, batch, length, end) for batch, length in sizes]
    error = error_of(
        ExportedTextTower(model), tmp_path / "x.onnx", inputs[1], inputs, LENGTH if is_dynamic else None
    )
    assert error < 1e-5
