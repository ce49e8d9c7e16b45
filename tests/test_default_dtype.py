"""`torch.set_default_dtype` of a program does not change a bit of an encoder's weights, inputs or results."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_towers
import torch
from tiny import PIXELS, picture, tiny_cfg

import oneclip
from oneclip import checkpoint
from oneclip.config import ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.encoder import Encoder
from oneclip.model import build_model

BASE = tiny_cfg()
VISION, TEXT = BASE.vision_cfg, BASE.text_cfg
TEXTS = ["a dog", "a cat that sits on a mat", "a dog in the snow", "a tree"]


def changed(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **rest: Any
) -> ModelCfg:
    return replace(
        BASE, vision_cfg=replace(VISION, **(vision or {})), text_cfg=replace(TEXT, **(text or {})), **rest
    )


MODELS: dict[str, ModelCfg] = {
    "flat": changed(),
    "sin_cos": changed({"pos_embed_type": "sin_cos_2d"}),
    "custom": changed(
        {"ls_init_value": 0.3, "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
        {"scaled_cosine_attn": True, "scale_heads": True, "ls_init_value": 0.3},
        custom_text=True,
    ),
    "resnet": changed({"layers": (1, 1, 1, 1), "width": 8, "head_width": 16}),
    "coca": changed(
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True},
        {"embed_cls": True, "output_tokens": True},
        custom_text=True,
        multimodal_cfg=MultimodalCfg(width=16, heads=2, layers=1, attn_pooler_heads=2),
    ),
    "siglip": changed(
        {"pool_type": "map"},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        custom_text=True,
        init_logit_bias=-10.0,
        embed_dim=32,
    ),
}


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=lambda dtype: str(dtype)[6:])
def other_default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def written(cfg: ModelCfg, path: Path) -> Path:
    """Write a model to a file, unless another test has done so."""
    if path.is_file():
        return path
    torch.manual_seed(0)
    model = build_model(cfg)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint.save_quantized(path, model.state_dict(), cfg, PreprocessCfg(size=PIXELS))
    return path


def facts(clip: Encoder) -> dict[str, Any]:
    """Collect everything that an encoder holds and returns."""
    found: dict[str, Any] = {f"state {name}": tensor for name, tensor in clip.model.state_dict().items()}
    found |= {f"buffer {name}": tensor for name, tensor in clip.model.named_buffers()}
    images = [
        picture(0),
        picture(1, (50, 20)).convert("L"),
        np.linspace(0, 1, 300, dtype=np.float32).reshape(10, 30),
    ]
    found["pixels"] = clip.preprocess(picture(0))
    found["images"] = clip.encode_images(images)
    found["one image"] = clip.encode_images(images[0])
    found["fast"] = clip.encode_images(images, decode="fast")
    found["texts"] = clip.encode_texts(TEXTS)
    found["labels"] = clip.encode_labels(["cat", "dog"], ["a {}", "the {} of all"])
    found["classified"] = np.array([p for _, p in clip.classify(images[0], TEXTS)])
    found["raw"] = clip.encode_pixels(clip.preprocess(picture(0))[None])
    found["plain"] = clip.model.encode_image(
        clip.preprocess(picture(0))[None].to(clip.inference.dtype)
    ).detach()
    found["plain text"] = clip.model.encode_text(clip.tokenizer(TEXTS)).detach()
    return found


@cache
def by_default(path: Path, **options: Any) -> dict[str, Any]:
    """Collect the results of an encoder while the default dtype is float32."""
    return facts(oneclip.load(path, device="cpu", **options))


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(_bits(found[name]), _bits(value), err_msg=name)


def _bits(values: Any) -> np.ndarray:
    tensor = torch.as_tensor(values).contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else tensor.numpy()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "fp16"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_bit_is_the_same(folder: Path, other_default: torch.dtype, kind: str, precision: str) -> None:
    if other_default != torch.bfloat16 and precision not in ("fp32", "int8"):
        pytest.skip("one is enough")
    path = written(MODELS[kind], folder / f"{kind}.safetensors")
    expected = by_default(path, precision=precision)
    torch.set_default_dtype(other_default)
    found = facts(oneclip.load(path, device="cpu", precision=precision))
    assert torch.get_default_dtype() == other_default
    torch.set_default_dtype(torch.float32)
    same(found, expected)


def test_interpolated_positions_are_the_same(folder: Path, other_default: torch.dtype) -> None:
    path = written(MODELS["flat"], folder / "flat.safetensors")
    expected = by_default(path, image_size=48, context_length=20)
    torch.set_default_dtype(other_default)
    found = facts(oneclip.load(path, device="cpu", image_size=48, context_length=20))
    torch.set_default_dtype(torch.float32)
    same(found, expected)


def test_captions_are_the_same(folder: Path, other_default: torch.dtype) -> None:
    path = written(MODELS["coca"], folder / "coca.safetensors")
    expected = oneclip.load(path, device="cpu").caption(picture(), seq_len=12)
    torch.set_default_dtype(other_default)
    assert oneclip.load(path, device="cpu").caption(picture(), seq_len=12) == expected


@pytest.mark.parametrize("family", ["eva02", "vit_relpos", "swin", "pe_core", "convnext", "vitamin"])
def test_towers_of_timm_are_the_same(folder: Path, other_default: torch.dtype, family: str) -> None:
    pytest.importorskip("timm")
    small_towers.register()
    cfg = changed(
        {"timm_model_name": small_towers.timm_name(family), "timm_proj": "linear", "timm_pool": "avg"},
        custom_text=True,
    )
    path = written(cfg, folder / f"{family}.safetensors")
    expected = by_default(path)
    torch.set_default_dtype(other_default)
    found = facts(oneclip.load(path, device="cpu"))
    torch.set_default_dtype(torch.float32)
    same(found, expected)


@pytest.mark.parametrize("kind", small_towers.TEXT)
def test_towers_of_transformers_are_the_same(folder: Path, other_default: torch.dtype, kind: str) -> None:
    pytest.importorskip("transformers")
    config = small_towers.text_folder(kind, folder)
    cfg = changed(
        text={"hf_model_name": config, "hf_model_pretrained": False, "context_length": 20}, custom_text=True
    )
    path = written(cfg, folder / f"{kind}.safetensors")
    ids = torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]])

    def tower() -> dict[str, Any]:
        clip = oneclip.load(path, device="cpu")
        held = {**clip.model.state_dict(), **dict(clip.model.named_buffers())}
        return {**held, "raw": clip.encode_tokens(ids), "plain": clip.model.encode_text(ids).detach()}

    expected = tower()
    torch.set_default_dtype(other_default)
    found = tower()
    torch.set_default_dtype(torch.float32)
    same(found, expected)
