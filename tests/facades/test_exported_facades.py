"""The names that the facades export; a change here is a change of the API."""

import importlib

import pytest

NAMES = {
    "clip": ["available_models", "load", "tokenize"],
    "clip.model": [
        "CLIP",
        "AttentionPool2d",
        "Bottleneck",
        "LayerNorm",
        "ModifiedResNet",
        "QuickGELU",
        "ResidualAttentionBlock",
        "Transformer",
        "VisionTransformer",
        "build_model",
        "convert_weights",
    ],
    "open_clip": [
        "CLIP",
        "OPENAI_DATASET_MEAN",
        "OPENAI_DATASET_STD",
        "AugmentationCfg",
        "CLIPTextCfg",
        "CLIPVisionCfg",
        "ClipLoss",
        "CustomTextCLIP",
        "SimpleTokenizer",
        "create_model_and_transforms",
        "decode",
        "get_tokenizer",
        "image_transform",
        "tokenize",
    ],
    "open_clip.loss": ["ClipLoss"],
    "open_clip.model": ["CLIP", "CLIPTextCfg", "CLIPVisionCfg", "CustomTextCLIP"],
    "open_clip.transformer": [
        "AttentionalPooler",
        "LayerNorm",
        "QuickGELU",
        "ResidualAttentionBlock",
        "TextTransformer",
        "Transformer",
        "VisionTransformer",
    ],
}


@pytest.mark.parametrize("module", NAMES)
def test_a_facade_exports_these_names(module: str) -> None:
    exported = importlib.import_module(module)
    assert sorted(exported.__all__) == sorted(NAMES[module])
    assert all(hasattr(exported, name) for name in NAMES[module])


@pytest.mark.parametrize(
    "name", ["_MODELS", "_download", "_transform", "_tokenizer", "_convert_image_to_rgb", "build_model"]
)
def test_clip_clip_has_the_names_that_programs_import(name: str) -> None:
    assert hasattr(importlib.import_module("clip.clip"), name)
