"""Random numbers drawn after loading a model; both sides of a comparison run this file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from cases_clip import SMALL_RESNET, SMALL_VIT
from cases_model import RESNET, TEXT, VIT
from cases_modules import COCA

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "random-vit": {"vision_cfg": VIT, "text_cfg": TEXT},
    "random-resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "random-custom-text": {"vision_cfg": VIT, "text_cfg": TEXT, "custom_text": True, "init_logit_bias": -1.0},
    "random-blocks": {"vision_cfg": {**VIT, "qk_norm": True}, "text_cfg": {**TEXT, "scale_fc": True}},
    "random-coca": {**COCA, "custom_text": True},
    "random-timm": {
        "vision_cfg": {
            "timm_model_name": "resnet18",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
}
PRECISIONS = ("fp32", "bf16", "pure_bf16")


def of_open_clip(package: Any) -> dict[str, Any]:
    """Return weights and the next random numbers, after a seed, for random weights and those of a file."""
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cfg in ARCHITECTURES.items():
            path = Path(folder, f"{name}.json")
            path.write_text(json.dumps({"embed_dim": 64, **cfg}), encoding="utf-8")
            package.add_model_config(path)
            weights = Path(folder, f"{name}.pt")
            torch.manual_seed(3)
            model = package.create_model(name)
            seen[f"{name}, random"] = torch.rand(2)
            torch.save(model.state_dict(), weights)
            for precision in PRECISIONS:
                torch.manual_seed(3)
                package.create_model(name, pretrained=str(weights), precision=precision)
                seen[f"{name}, a file in {precision}"] = torch.rand(2)
            torch.manual_seed(3)
            package.create_model_and_transforms(name, pretrained=str(weights))
            seen[f"{name}, with transforms"] = torch.rand(2)
            forget(package.factory, name, path)
    return seen


def forget(factory: Any, name: str, path: Path) -> None:
    """Remove a registered architecture again, so that lists do not change."""
    del factory._MODEL_CONFIGS[name]
    if path in factory._MODEL_CONFIG_PATHS:
        factory._MODEL_CONFIG_PATHS.remove(path)


def of_clip(package: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in {"vit": SMALL_VIT, "resnet": SMALL_RESNET}.items():
            torch.manual_seed(3)
            model = package.model.CLIP(*arguments)
            seen[f"{name}, random"] = torch.rand(2)
            weights = Path(folder, f"{name}.pt")
            torch.save(model.state_dict(), weights)
            torch.manual_seed(3)
            package.load(str(weights), device="cpu")
            seen[f"{name}, a file"] = torch.rand(2)
            torch.manual_seed(3)
            package.model.build_model(model.state_dict())
            seen[f"{name}, built"] = torch.rand(2)
    return seen
