"""Configurations of Hugging Face text models have the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch
import transformers

from oneclip import zoo
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.model import build_text_tower
from oneclip.model.hf_config import config_from

WHOLE = {  # millions, rounded by the authors, of the published model without a language-model head
    "roberta-base": 125,
    "xlm-roberta-base": 278,
    "xlm-roberta-large": 560,
    "facebook/xlm-v-base": 778,
    "bert-base-uncased": 110,
    "hfl/chinese-roberta-wwm-ext": 102,
    "hfl/chinese-roberta-wwm-ext-large": 325,
    "hfl/rbt3": 38,
    "facebook/nllb-200-distilled-600M": 615,
    "facebook/nllb-200-distilled-1.3B": 1370,
}
TEXT_TOWERS = {  # millions, from the model profiles in open_clip's documentation
    "coca_roberta-ViT-B-32": 124.45,
    "mt5-base-ViT-B-32": 277.86,
    "mt5-xl-ViT-H-14": 1674.68,
    "nllb-clip-base": 414.04,
    "nllb-clip-large": 767.14,
    "roberta-ViT-B-32": 124.87,
    "xlm-roberta-base-ViT-B-32": 278.27,
    "xlm-roberta-large-ViT-H-14": 560.94,
}


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", WHOLE)
def test_a_model_has_as_many_parameters_as_the_published_one(name: str) -> None:
    config = config_from(zoo.text_tower(name) or {})
    model = build_on_meta(lambda: transformers.AutoModel.from_config(config))
    assert millions(model) == pytest.approx(WHOLE[name], rel=0.015)


@pytest.mark.parametrize("name", TEXT_TOWERS)
def test_a_text_tower_has_as_many_parameters_as_the_published_one(name: str) -> None:
    cfg = zoo.architecture(name)
    cfg.text_cfg.hf_model_pretrained = False
    tower = build_on_meta(lambda: build_text_tower(cfg.embed_dim, cfg.text_cfg))
    assert millions(tower) == pytest.approx(TEXT_TOWERS[name], abs=0.006)


def test_no_text_tower_of_the_zoo_needs_the_network() -> None:
    named = {zoo.architecture(arch).text_cfg.hf_model_name for arch in zoo.architectures()} - {None}
    assert named <= set(zoo.text_towers())


def test_a_name_with_and_without_its_owner_is_one_model() -> None:
    assert zoo.text_tower("FacebookAI/xlm-roberta-large") == zoo.text_tower("xlm-roberta-large")


def test_an_unknown_name_is_not_guessed() -> None:
    assert zoo.text_tower("roberta-bass") is None


def test_the_returned_configuration_is_a_copy() -> None:
    first = zoo.text_tower("roberta-base")
    assert first is not None
    first["vocab_size"] = 1
    assert zoo.text_tower("roberta-base") != first
