"""Resizing positions to another image size or context length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from tiny import tiny_cfg
from torch import Tensor

from oneclip.checkpoint import load, resize_positions, save
from oneclip.config import CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, CheckpointMismatchError, ConfigError
from oneclip.model import build_model
from oneclip.zoo import catalogue

PATCH, WIDTH = 8, 24


def trunk(grid: int, prefix: int, *, registers: int = 0) -> dict[str, Tensor]:
    """Tensors of a timm tower that matter for its positions."""
    torch.manual_seed(grid)
    state = {
        "visual.trunk.patch_embed.proj.weight": torch.zeros(WIDTH, 3, PATCH, PATCH),
        "visual.trunk.pos_embed": torch.randn(1, prefix + grid**2, WIDTH),
    }
    if prefix:
        state["visual.trunk.cls_token"] = torch.zeros(1, 1, WIDTH)
    if registers:
        state["visual.trunk.reg_token"] = torch.zeros(1, registers, WIDTH)
    return state


def trunk_cfg(image_size: int | tuple[int, int]) -> ModelCfg:
    cfg = tiny_cfg()
    cfg.vision_cfg = CLIPVisionCfg(timm_model_name="vit_small_patch8_224", image_size=image_size)
    return cfg


@pytest.mark.parametrize(
    ("prefix", "registers"), [(0, 0), (1, 0), (5, 4)], ids=["SigLIP", "EVA", "registers"]
)
@pytest.mark.parametrize("size", [16, 48, (24, 64)], ids=str)
def test_positions_of_timms_towers_are_resized_as_timm_does(
    prefix: int, registers: int, size: int | tuple[int, int]
) -> None:
    state = trunk(4, prefix, registers=registers)
    rows, columns = (size, size) if isinstance(size, int) else size
    expected = resample_abs_pos_embed(
        state["visual.trunk.pos_embed"], [rows // PATCH, columns // PATCH], num_prefix_tokens=prefix
    )
    assert torch.equal(resize_positions(state, trunk_cfg(size))["visual.trunk.pos_embed"], expected)


def test_registers_without_positions_are_no_prefix() -> None:
    state = trunk(4, 0, registers=4) | {"visual.trunk.cls_token": torch.zeros(1, 1, WIDTH)}
    assert resize_positions(state, trunk_cfg(48))["visual.trunk.pos_embed"].shape == (1, 36, WIDTH)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_stay_sixteen_bits(dtype: torch.dtype) -> None:
    state = {
        "visual.positional_embedding": torch.randn(5, 32).to(dtype),
        "positional_embedding": torch.randn(77, 16).to(dtype),
    }
    cfg = tiny_cfg()
    cfg.vision_cfg.image_size, cfg.text_cfg.context_length = 48, 20
    found = resize_positions(state, cfg)
    assert {name: (tuple(t.shape), t.dtype) for name, t in found.items()} == {
        "visual.positional_embedding": ((10, 32), dtype),
        "positional_embedding": ((20, 16), dtype),
    }


def test_positions_that_are_not_a_square_grid_are_refused() -> None:
    with pytest.raises(CheckpointError, match="expected 1 and a square number"):
        resize_positions({"visual.positional_embedding": torch.zeros(8, 32)}, tiny_cfg())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare file of a model for images of 48 pixels and texts of 20 tokens; `tiny` has 32 and 77."""
    monkeypatch.setitem(catalogue._rows(), "tiny", tiny_cfg().to_dict())
    torch.manual_seed(0)
    cfg = tiny_cfg()
    cfg.vision_cfg.image_size, cfg.text_cfg.context_length = 48, 20
    save(tmp_path / "m.pt", build_model(cfg).state_dict())
    return tmp_path / "m.pt"


def test_a_file_of_another_size_is_resized_only_on_request(file: Path) -> None:
    with pytest.raises(
        CheckpointMismatchError, match=r"to resize them, load it with context_length= and image_size="
    ):
        load(f"tiny:{file}")
    loaded = load(f"tiny:{file}", image_size=32, context_length=77)
    assert loaded.model.state_dict()["visual.positional_embedding"].shape == (5, 32)
    assert (loaded.preprocess_cfg.size, loaded.cfg.text_cfg.context_length) == (32, 77)


def test_the_size_of_the_file_changes_nothing(file: Path) -> None:
    loaded = load(f"tiny:{file}", image_size=48, context_length=20)
    saved = torch.load(file, weights_only=True)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.preprocess_cfg == PreprocessCfg(size=48)


def test_a_model_takes_images_and_texts_of_the_requested_size(pocket: Path, file: Path) -> None:
    model = load(f"tiny:{file}", image_size=(32, 64), context_length=33).model
    model(torch.zeros(1, 3, 32, 64), torch.zeros(1, 33, dtype=torch.long))


@pytest.mark.parametrize(
    "size", [{"image_size": 0}, {"image_size": "big"}, {"image_size": (3,)}, {"context_length": 1}]
)
def test_invalid_sizes_are_refused(file: Path, size: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        load(f"tiny:{file}", **size)
