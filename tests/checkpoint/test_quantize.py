"""Quantized files: their content and their error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.torch import save_file

from oneclip.checkpoint import read, save_quantized
from oneclip.checkpoint.quantize import dequantize_state_dict, quantize_rows, quantize_state_dict
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError

CFG = ModelCfg(8, CLIPVisionCfg(layers=(1, 1, 1, 1), image_size=64), CLIPTextCfg(width=8, heads=1))
STATE = {
    "token_embedding.weight": torch.randn(50, 8, generator=torch.Generator().manual_seed(0)),
    "visual.proj": torch.randn(8, 8, generator=torch.Generator().manual_seed(1)),
    "logit_scale": torch.tensor(4.6052),
    "visual.bn1.num_batches_tracked": torch.tensor(2**40),
}


def test_dtypes_and_shapes_in_the_file(tmp_path: Path) -> None:
    save_quantized(tmp_path / "m.safetensors", STATE, CFG, PreprocessCfg(size=64), card={"licence": "MIT"})
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        dtypes = {name: (file.get_tensor(name).dtype, file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
    assert dtypes == {
        "token_embedding.weight": (torch.int8, (50, 8)),
        "token_embedding.scale": (torch.float16, (50, 1)),
        "visual.proj": (torch.float16, (8, 8)),
        "logit_scale": (torch.float16, ()),
        "visual.bn1.num_batches_tracked": (torch.int64, ()),
    }


def test_the_file_describes_its_model_and_is_expanded_when_read(tmp_path: Path) -> None:
    save_quantized(tmp_path / "m.safetensors", STATE, CFG, PreprocessCfg(size=64), card={"licence": "MIT"})
    found = read(tmp_path / "m.safetensors")
    assert found.format == "quantized"
    assert ModelCfg.from_dict(found.metadata["model_cfg"]) == CFG
    assert PreprocessCfg.from_dict(found.metadata["preprocess_cfg"]) == PreprocessCfg(size=64)
    assert found.metadata["card"] == {"licence": "MIT"}
    assert found.state_dict.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found.state_dict[name].dtype == tensor.dtype
        torch.testing.assert_close(
            found.state_dict[name], tensor, rtol=2**-11, atol=tensor.abs().max().item() / 250
        )
    assert found.state_dict["visual.bn1.num_batches_tracked"] == 2**40


def test_token_tables_of_both_kinds_of_model_are_quantized() -> None:
    small = quantize_state_dict({"text.token_embedding.weight": STATE["token_embedding.weight"]})
    assert small.keys() == {"text.token_embedding.weight", "text.token_embedding.scale"}
    assert dequantize_state_dict(small).keys() == {"text.token_embedding.weight"}


@settings(deadline=None, max_examples=200)
@given(
    hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-6e4, 6e4, width=32))
)
def test_the_error_is_at_most_half_a_scale(table: object) -> None:
    exact = torch.from_numpy(table)
    rows, scale = quantize_rows(exact)
    error = (rows.double() * scale.double() - exact.double()).abs()
    assert (error <= scale.double() * 0.5001 + 1e-38).all()
    assert (scale.double() <= exact.double().abs().amax(1, keepdim=True) / 127 * 1.001 + 6e-8).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows, scale = quantize_rows(torch.zeros(2, 3))
    assert not (rows * scale).any()


@pytest.mark.parametrize("value", [7e4, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["visual.proj", "token_embedding.weight"])
def test_values_that_do_not_fit_are_refused(value: float, name: str) -> None:
    broken = {name: torch.full((2, 2), value * (200 if "token" in name and value == 7e4 else 1))}
    with pytest.raises(CheckpointError, match="not finite, or too large"):
        quantize_state_dict(broken)


@pytest.mark.parametrize("scale", [torch.ones(49, 1), torch.ones(50), torch.ones(1, 1)])
def test_scales_of_another_table_are_refused(tmp_path: Path, scale: torch.Tensor) -> None:
    tensors = {
        "token_embedding.weight": torch.ones(50, 8, dtype=torch.int8),
        "token_embedding.scale": scale.half(),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="scales are missing or have another shape"):
        read(tmp_path / "m.safetensors")
