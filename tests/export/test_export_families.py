"""Towers of every family give the same embeddings in ONNX Runtime as in torch, as the table of docs/export.md says.

ONECLIP_EXPORT_FAMILIES=all runs them all, which takes minutes; else one tower of each side.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from oneclip.export.onnx_export import write_onnx
from tests.export.export_families import FAMILIES, tower_and_inputs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
EVERY = os.environ.get("ONECLIP_EXPORT_FAMILIES") == "all"
WITHIN = 1e-5


@pytest.mark.parametrize("family", FAMILIES if EVERY else ["SigLIP", "SigLIP's text tower"])
def test_a_tower_is_equal_in_batches_and_texts_of_every_size(family: str, tmp_path: Path) -> None:
    tower, inputs, longest = tower_and_inputs(family, tmp_path)
    with torch.no_grad():
        write_onnx(tower, inputs[1], tmp_path / "x.onnx", input_name="x", output_name="y", longest=longest)
        expected = [tower(one).numpy() for one in inputs]
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    for one, right in zip(inputs, expected, strict=True):
        (found,) = session.run(["y"], {"x": one.numpy()})
        assert np.linalg.norm(found - right, axis=1).max() < WITHIN


def test_the_documented_families_are_within_the_bound() -> None:
    table = PAGE.read_text(encoding="utf-8").split("<!-- families: begin -->")[1].split("<!--")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([\d.e-]+) \| ([\d.e–-]+) \|", table, re.MULTILINE)
    assert [name for name, *_ in rows] == list(FAMILIES)
    for name, onnx_error, openvino_error in rows:
        assert float(onnx_error) < WITHIN, name
        assert openvino_error == "–" or float(openvino_error) < 1e-3, name
