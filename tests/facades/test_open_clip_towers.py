"""`open_clip.hf_model` and `open_clip.timm_model`: towers with the published arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_towers
import torch
import transformers
from torch import nn

import open_clip
from oneclip.config import CLIPTextCfg, CLIPVisionCfg
from oneclip.model import build_text_tower, build_visual_tower
from oneclip.model.hf_poolers import POOLERS
from open_clip import hf_model, timm_model


@pytest.fixture(autouse=True, scope="module")
def _small_members() -> None:
    small_towers.register()


def ids() -> torch.Tensor:
    return torch.tensor([[5, 6, 7, 1], [8, 9, 10, 11]])


def test_an_encoder_is_the_tower_of_its_configuration(tmp_path: Path) -> None:
    folder = small_towers.text_folder("roberta", tmp_path)
    encoder = hf_model.HFTextEncoder(folder, 24, pooler_type="max_pooler", proj_type="mlp", pretrained=False)
    cfg = CLIPTextCfg(
        hf_model_name=folder, hf_pooler_type="max_pooler", hf_proj_type="mlp", hf_model_pretrained=False
    )
    tower = build_text_tower(24, cfg)
    tower.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(ids()), tower.eval()(ids()), rtol=0, atol=0)


def test_an_encoder_of_a_configuration_has_the_published_names() -> None:
    config = transformers.AutoConfig.for_model(**small_towers.TEXT["roberta"])
    encoder = hf_model.HFTextEncoder("", 24, config=config, pooler_type="mean_pooler", proj_type="linear")
    assert "transformer.pooler.dense.weight" in encoder.state_dict()
    assert encoder.config is config
    assert encoder.context_length == config.max_position_embeddings


def test_an_encoder_begins_with_published_weights(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(**small_towers.TEXT["bert"])
    published = transformers.AutoModel.from_config(config)
    published.save_pretrained(tmp_path)
    encoder = hf_model.HFTextEncoder(str(tmp_path), 24, pooler_type="cls_pooler", proj_type="linear")
    theirs = published.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in encoder.transformer.state_dict().items())


def test_towers_of_either_kind_pass_for_the_published_classes() -> None:
    text = CLIPTextCfg(hf_model_name="hfl/rbt3", hf_model_pretrained=False)
    with torch.device("meta"):
        assert isinstance(build_text_tower(24, text), hf_model.HFTextEncoder)
        native = build_text_tower(24, CLIPTextCfg(layers=1))
        vision = CLIPVisionCfg(timm_model_name="small_convnext", image_size=32)
        assert isinstance(build_visual_tower(24, vision), timm_model.TimmModel)
    assert not isinstance(native, hf_model.HFTextEncoder)
    assert not isinstance(native, timm_model.TimmModel)


@pytest.mark.parametrize(
    ("arguments", "cfg"),
    [
        ({}, {"timm_pool": "avg", "timm_proj": "linear"}),
        ({"pool": "token", "proj": ""}, {"timm_pool": "token", "timm_proj": ""}),
        (
            {
                "pool": "avg",
                "proj": "mlp",
                "proj_bias": True,
                "drop": 0.5,
                "drop_path": 0.2,
                "patch_drop": 0.5,
            },
            {
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "timm_proj_bias": True,
                "timm_drop": 0.5,
                "timm_drop_path": 0.2,
                "patch_dropout": 0.5,
            },
        ),
    ],
)
def test_a_timm_model_is_the_tower_of_its_configuration(
    arguments: dict[str, Any], cfg: dict[str, Any]
) -> None:
    model = timm_model.TimmModel("small_vit_clip", 24, image_size=(48, 32), **arguments)
    tower = build_visual_tower(
        24, CLIPVisionCfg(timm_model_name="small_vit_clip", image_size=(48, 32), **cfg)
    )
    assert repr(model).replace("TimmModel", "TimmTower") == repr(tower)
    tower.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), tower.eval()(x), rtol=0, atol=0)


def test_a_registered_pooler_reaches_the_towers() -> None:
    @hf_model.register_pooler
    class SumPooler(nn.Module):
        def forward(self, x: Any, attention_mask: torch.Tensor) -> torch.Tensor:
            total: torch.Tensor = (x.last_hidden_state * attention_mask.unsqueeze(-1)).sum(dim=1)
            return total

    try:
        config = transformers.AutoConfig.for_model(**small_towers.TEXT["bert"])
        encoder = hf_model.HFTextEncoder("", 24, config=config, pooler_type="sum_pooler", proj_type="linear")
        assert encoder(ids()).shape == (2, 24)
    finally:
        del POOLERS["sum_pooler"]


def test_poolers_by_themselves() -> None:
    class Output:
        last_hidden_state = torch.tensor([[[1.0], [5.0], [9.0]], [[2.0], [4.0], [6.0]]])
        pooler_output = torch.tensor([[7.0], [8.0]])

    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert hf_model.MeanPooler()(Output, mask).tolist() == [[3.0], [4.0]]
    assert hf_model.MaxPooler()(Output, mask).tolist() == [[5.0], [6.0]]
    assert hf_model.ClsPooler()(Output, mask).tolist() == [[7.0], [8.0]]
    assert hf_model.ClsPooler(use_pooler_output=False)(Output, mask).tolist() == [[1.0], [2.0]]
    assert hf_model.ClsLastHiddenStatePooler()(Output, mask).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("pretrained", [True, False])
def test_published_text_weights_are_used_unless_disabled(
    pretrained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.AutoConfig.for_model(**small_towers.TEXT["bert"])
    published = transformers.AutoModel.from_config(config)
    published.save_pretrained(tmp_path)
    small = {
        "embed_dim": 24,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
        "text_cfg": {"hf_model_name": str(tmp_path), "hf_pooler_type": "mean_pooler"},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-bert", small)
    model = open_clip.create_model("small-bert", pretrained_text=pretrained)
    theirs = published.state_dict()["embeddings.word_embeddings.weight"]
    assert torch.equal(model.text.transformer.embeddings.word_embeddings.weight, theirs) is pretrained
