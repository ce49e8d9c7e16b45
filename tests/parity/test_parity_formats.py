"""The published packages load our exported files and give the same outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import install
import pytest
import torch
from parity_compare import compare

import open_clip
from oneclip.checkpoint.convert import ConvertibleModel, convert
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.model import build_model
from open_clip.push_to_hf_hub import save_for_hf
from tests import programs

PIXELS, LENGTH = 32, 16
VIT = CLIPVisionCfg(layers=2, width=64, head_width=64, patch_size=8, image_size=PIXELS)
TEXT = CLIPTextCfg(width=64, heads=1, layers=2, context_length=LENGTH)
RESNET = CLIPVisionCfg(layers=(1, 1, 1, 1), width=32, image_size=PIXELS)
CLIPA = CLIPVisionCfg(
    2, 32, 16, patch_size=8, image_size=PIXELS, no_ln_pre=True, pool_type="avg", final_ln_after_pool=True
)
COCA = CLIPVisionCfg(
    2, 32, 16, patch_size=8, image_size=PIXELS, attentional_pool=True, attn_pooler_heads=2, output_tokens=True
)
COCA_TEXT = CLIPTextCfg(
    width=32, heads=2, layers=2, context_length=LENGTH, embed_cls=True, output_tokens=True
)
DECODER = MultimodalCfg(width=32, heads=2, layers=1, context_length=LENGTH, attn_pooler_heads=2)
MODELS = {
    "CoCa": ModelCfg(32, COCA, COCA_TEXT, custom_text=True, multimodal_cfg=DECODER),
    "plain": ModelCfg(24, VIT, TEXT),
    "custom text": ModelCfg(24, CLIPA, TEXT, custom_text=True, init_logit_bias=-10.0),
    "openai ViT.pt": ModelCfg(24, VIT, TEXT, quick_gelu=True),
    "openai ResNet.pt": ModelCfg(24, RESNET, TEXT, quick_gelu=True),
}
BERT = {
    "model_type": "bert",
    "vocab_size": 49408,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
PUSHED = {"pushed .safetensors": True, "pushed .bin": False}
TOLERANCE = 1e-5  # relative


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.manual_seed(0)
    bert = tmp_path_factory.mktemp("bert")
    (bert / "config.json").write_text(json.dumps(BERT))
    text = CLIPTextCfg(context_length=LENGTH, hf_model_name=str(bert), hf_model_pretrained=False)
    hugging_face = ModelCfg(24, VIT, text, custom_text=True)
    models: dict[str, Any] = {}
    for name, cfg in (MODELS | {"Hugging Face text": hugging_face}).items():
        models[name] = build_model(cfg).eval()
        models[name].cfg = cfg
        for tensor in models[name].state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())  # OpenAI's program rounds weights to fp16
    return models


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 49406, (3, LENGTH))
    for row, length in enumerate((4, 9, 15)):
        ids[row, length], ids[row, length + 1 :] = 49407, 0
    return torch.randn(2, 3, PIXELS, PIXELS), ids


def name_its_tower_by_its_path(folder: Path, notes: tuple[str, ...]) -> None:
    """Follow the note for open_clip_torch about text towers that are not on a hub."""
    assert any(
        "set hf_model_name in open_clip_config.json to the path of text_tower.json" in n for n in notes
    )
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(folder / "text_tower.json")
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture(scope="module")
def seen(
    models: dict[str, Any],
    inputs: tuple[torch.Tensor, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    if not install.installed():
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    folder = tmp_path_factory.mktemp("written")
    torch.save(inputs, folder / "inputs.pt")
    for name, model in models.items():
        form = "openai" if name.startswith("openai") else "open_clip"
        written = ConvertibleModel(model.state_dict(), model.cfg, PreprocessCfg(size=PIXELS))
        notes = convert(written, folder / name, form)
        if model.cfg.text_cfg.hf_model_name:
            name_its_tower_by_its_path(folder / name, notes)
    for name, safe in PUSHED.items():
        model = models["custom text"]
        save_for_hf(model, open_clip.get_tokenizer("ViT-B-32"), model.cfg.to_dict(), folder / name, safe)
    environment = {**os.environ, "PYTHONPATH": str(install.PACKAGES), "OMP_NUM_THREADS": "1"}
    done = programs.run([Path(__file__).with_name("read_formats.py"), folder], environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(folder / "seen.pt", weights_only=True)
    return found


@pytest.mark.parametrize("name", [*MODELS, "Hugging Face text", *PUSHED])
def test_published_packages_compute_the_same_with_what_we_wrote(
    name: str, models: dict[str, Any], inputs: tuple[torch.Tensor, torch.Tensor], seen: dict[str, Any]
) -> None:
    pixels, ids = inputs
    model = models["custom text" if name in PUSHED else name]
    with torch.inference_mode():
        ours = {"image": model.encode_image(pixels), "text": model.encode_text(ids)}
    theirs = {key: value for key, value in seen[name].items() if key != "preprocess"}
    compare(f"written, {name}", ours, theirs, TOLERANCE)


def test_open_clip_takes_the_preprocessing_over(seen: dict[str, Any]) -> None:
    assert "Resize(size=32, interpolation=bicubic" in seen["plain"]["preprocess"]
