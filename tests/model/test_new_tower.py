"""A new image tower needs its class and one row in `build.IMAGE_TOWERS`: then the whole library can use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import picture
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from typer.testing import CliRunner

import oneclip
from oneclip import checkpoint
from oneclip.cli.app import app
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import CLIP, build_model
from oneclip.model.build import IMAGE_TOWERS, TowerBuilder
from oneclip.model.freeze import parameters_of, unlock_last
from oneclip.train import Batch, TrainCfg, Trainer


class ColorGridTower(nn.Module):
    """Mean colors of a grid of cells, through linear blocks, to the mean of the cells."""

    extra, pooling, output_tokens, grid_size = None, "mean", False, (4, 4)

    def __init__(self, embed_dim: int, cfg: CLIPVisionCfg) -> None:
        super().__init__()
        self.image_size, self.output_dim, self.checkpoints = cfg.image_size, embed_dim, False
        self.stem = nn.Linear(3, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(2))
        self.proj = nn.Linear(16, embed_dim)

    def tokens(self, x: Tensor) -> list[Tensor]:
        outputs = [self.stem(nn.functional.adaptive_avg_pool2d(x, self.grid_size).flatten(2).transpose(1, 2))]
        for block in self.blocks:
            y = outputs[-1]
            outputs.append(recompute(block, y, use_reentrant=False) if self.checkpoints else block(y))
        return outputs[1:]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.tokens(x)[-1].mean(dim=1))

    def forward_intermediates(self, x: Tensor, *arguments: Any) -> dict[str, Any]:
        tokens = self.tokens(x)
        return {"image_intermediates": tokens, "image_features": self.proj(tokens[-1].mean(dim=1))}

    def layer_groups(self) -> list[list[nn.Parameter]]:
        return [parameters_of([part]) for part in (self.stem, *self.blocks)]

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        unlock_last([*self.layer_groups(), parameters_of([self.proj])], unlocked_groups)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.checkpoints = enable

    def no_weight_decay(self) -> set[str]:
        return set()


ROW = TowerBuilder(
    lambda cfg: cfg.timm_model_name == "color_grid", lambda dim, cfg, layers: ColorGridTower(dim, cfg)
)
CFG = ModelCfg(
    16,
    CLIPVisionCfg(timm_model_name="color_grid", image_size=32),
    CLIPTextCfg(width=16, heads=2, layers=1),
)


class Pairs:
    """Four images of one color each, with one token id each."""

    def batch(self, step: int) -> Batch:
        colors = torch.eye(4)[:, :3].reshape(4, 3, 1, 1)
        texts = torch.zeros(4, 8, dtype=torch.long)
        texts[:, 0], texts[:, 1] = torch.arange(1, 5), 49407
        return Batch(colors.expand(4, 3, 32, 32), texts)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> CLIP:
    monkeypatch.setattr("oneclip.model.build.IMAGE_TOWERS", [ROW, *IMAGE_TOWERS])
    torch.manual_seed(0)
    return build_model(CFG)


@pytest.fixture
def folder(model: CLIP, tmp_path: Path) -> Path:
    saved = checkpoint.LoadedModel(model.eval(), CFG, PreprocessCfg(size=32), "color grid")
    checkpoint.write_folder(saved, tmp_path / "model")
    return tmp_path / "model"


def test_it_is_trained_with_layer_decay_and_gradient_checkpointing(model: CLIP) -> None:
    model.set_grad_checkpointing()
    before = [parameter.detach().clone() for parameter in model.visual.parameters()]
    result = Trainer(model, Pairs(), TrainCfg(steps=20, lr=1e-2, warmup=0, layer_decay=0.5)).fit()
    assert result is not None
    for old, new in zip(before, model.visual.parameters(), strict=True):
        assert not torch.equal(old, new)
    with torch.no_grad():
        batch = Pairs().batch(0)
        logits, _ = model.eval().get_logits(batch.images, batch.texts)
    assert logits.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_it_is_saved_loaded_and_embeds_images(model: CLIP, folder: Path) -> None:
    loaded = oneclip.load(folder, device="cpu")
    images = [picture(0), picture(1)]
    pixels = torch.stack([loaded.preprocess(image) for image in images])
    with torch.no_grad():
        expected = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(torch.from_numpy(loaded.encode_images(images)), expected)


def test_it_is_locked_except_its_last_groups(model: CLIP) -> None:
    model.lock_image_tower(unlocked_groups=2)
    trainable = {name for name, p in model.visual.named_parameters() if p.requires_grad}
    assert trainable == {"blocks.1.0.weight", "blocks.1.0.bias", "proj.weight", "proj.bias"}


def test_it_returns_intermediates(model: CLIP) -> None:
    output = model.forward_intermediates(torch.zeros(2, 3, 32, 32))
    assert [tokens.shape for tokens in output["image_intermediates"]] == [(2, 16, 16)] * 2


def test_it_is_inspected(folder: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["loads"]
    assert report["model_cfg"]["vision_cfg"]["timm_model_name"] == "color_grid"
