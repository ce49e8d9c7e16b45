"""Image towers of timm: behaviour that differs from open_clip_torch or does not exist there."""

from __future__ import annotations

import builtins
import importlib
import re
from typing import Any

import pytest
import small_towers
import torch
from torch import Tensor, nn

import open_clip.torchscript  # noqa: F401  # lets torch.jit.script compile the models
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import (
    BrokenExtraError,
    ConfigError,
    DownloadError,
    MissingExtraError,
    OfflineError,
    ShapeError,
)
from oneclip.installation import install_command
from oneclip.model import build_model, build_visual_tower
from oneclip.model.timm_tower import TimmTower

TEXT = CLIPTextCfg(context_length=8, vocab_size=60, width=32, heads=2, layers=1)


@pytest.fixture(autouse=True, scope="module")
def _small_members() -> None:
    small_towers.register()


def tower(family: str, size: int | tuple[int, int] = 32, **options: Any) -> Any:
    cfg = CLIPVisionCfg(timm_model_name=small_towers.timm_name(family), image_size=size, **options)
    torch.manual_seed(0)
    return build_visual_tower(24, cfg).eval()


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["eva02", "pe_core", "swin", "vitamin", "vit_clip", "vit_relpos"])
def test_a_tower_is_built_for_its_image_size(family: str) -> None:
    size = (64, 32)
    visual = tower(family, size, timm_pool="avg" if family != "pe_core" else "map")
    assert visual.image_size == size
    assert visual(images(*size)).shape == (2, 24)


def test_images_of_another_size_are_rejected() -> None:
    with pytest.raises(ShapeError, match=r"\(B, 3, 32, 32\); found \(2, 3, 64, 32\)"):
        tower("vit_clip")(images(64, 32))


def test_a_convolutional_trunk_takes_images_of_any_size() -> None:
    assert tower("convnext")(images(96, 64)).shape == (2, 24)


@pytest.mark.parametrize("family", ["convnext", "eva02", "fastvit", "vitamin", "swin", "pe_core"])
def test_sixteen_bits_are_near_thirty_two(family: str) -> None:
    visual = tower(
        family, 64 if family == "fastvit" else 32, timm_pool="map" if family == "pe_core" else "avg"
    )
    x = images(*visual.image_size)
    with torch.no_grad():
        wide = visual(x)
        narrow = visual.bfloat16()(x.bfloat16()).float()
    assert torch.cosine_similarity(wide, narrow).min() > 0.999


def test_stopping_early_changes_no_features() -> None:
    visual = tower("vit_clip", timm_pool="token")
    with torch.no_grad():
        found = visual.forward_intermediates(images(32, 32), indices=[0], stop_early=True)
        torch.testing.assert_close(found["image_features"], visual(images(32, 32)))


def test_frozen_statistics_stay_and_activations_with_them() -> None:
    visual = tower("fastvit", 64)
    fused = [m for m in visual.modules() if isinstance(m, nn.BatchNorm2d) and hasattr(m, "act")]
    assert fused  # batch norms of timm's that hold an activation
    x, before = images(64, 64), {k: v.clone() for k, v in visual.state_dict().items()}
    with torch.no_grad():
        expected = visual(x)
        visual.lock(0, freeze_bn_stats=True)
        for module in visual.modules():
            if not isinstance(module, nn.Dropout):
                module.train()
        torch.testing.assert_close(visual(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in visual.state_dict().items())


def test_statistics_of_unlocked_groups_move() -> None:
    visual = tower("fastvit", 64)
    visual.lock(1, freeze_bn_stats=True)
    before = {name: b.clone() for name, b in visual.named_buffers() if name.endswith("running_mean")}
    visual.train()(images(64, 64))
    moved = {
        name for name, b in visual.named_buffers() if name in before and not torch.equal(b, before[name])
    }
    assert moved
    assert moved < before.keys()
    trainable = {name.rpartition(".")[0] for name, p in visual.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[0] for name in moved} <= trainable


@pytest.mark.parametrize("family", ["convnext", "eva02", "vitamin"])
def test_checkpointing_changes_no_gradient(family: str) -> None:
    visual, gradients = tower(family).train(), []
    for enable in (False, True):
        visual.set_grad_checkpointing(enable)
        visual.zero_grad()
        visual(images(32, 32)).square().sum().backward()
        gradients.append([p.grad.clone() for p in visual.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_trunk_without_checkpointing_logs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    visual = tower("convnext")
    monkeypatch.delattr(type(visual.trunk), "set_grad_checkpointing")
    visual.set_grad_checkpointing(False)
    assert caplog.records == []
    visual.set_grad_checkpointing()
    assert "ConvNeXt stores all activations" in caplog.text


def test_a_tower_can_be_scripted() -> None:
    visual = tower("convnext")
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(visual)(images(32, 32)), visual(images(32, 32)))


@pytest.mark.parametrize("asked", [False, True])
def test_weights_of_timm_are_downloaded_only_on_request(asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    seen: list[bool] = []
    make = timm.create_model

    def create(*arguments: Any, pretrained: bool, **options: Any) -> Any:
        seen.append(pretrained)
        return make(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", create)
    vision = CLIPVisionCfg(timm_model_name="small_convnext", timm_model_pretrained=True)
    build_model(ModelCfg(24, vision, TEXT), pretrained_towers=asked)
    assert seen == [asked]


def test_a_failed_download_of_weights_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def unreachable(*arguments: Any, **options: Any) -> Any:
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(DownloadError, match="small_convnext: no route to the hub"):
        tower("convnext", timm_model_pretrained=True)


def test_weights_are_not_downloaded_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    with pytest.raises(OfflineError, match="convnext_tiny"):
        TimmTower(CLIPVisionCfg(timm_model_name="convnext_tiny", timm_model_pretrained=True), 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timm_model_name": "convnext_bose"}, "did you mean convnext_base"),
        ({"timm_proj": "conv"}, "timm_proj is 'conv'"),
        ({"timm_pool": "nearest", "timm_proj": None}, "timm_pool='nearest'"),
        ({"timm_model_name": "small_vit_clip", "timm_pool": "abs_attn"}, "needs maps"),
        ({"patch_dropout": 0.5}, "patch_drop_rate"),
    ],
)
def test_a_configuration_that_timm_rejects_is_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TimmTower(CLIPVisionCfg(**{"timm_model_name": "small_convnext", "image_size": 32, **options}), 24)


def test_a_trunk_with_one_size_rejects_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(tower("vit_clip").trunk), "set_input_size")
    with pytest.raises(ConfigError, match=r"images of \(32, 32\) pixels only; found \(48, 48\)"):
        tower("vit_clip", 48)


def test_a_negative_count_of_groups_is_rejected() -> None:
    with pytest.raises(ConfigError, match="-1 groups"):
        tower("convnext").lock(-1)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return plain(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("timm"))):
        tower("convnext")


def test_a_torchvision_for_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, *rest: Any) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BrokenExtraError, match="torchvision was built for another torch") as error:
        tower("convnext")
    assert isinstance(error.value, builtins.ImportError)
