"""Class names and prompts of ImageNet, and classifiers; both sides of a comparison run this file."""

from __future__ import annotations

from typing import Any

import torch
from parity_weights import fill

CFG = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
NAMES = 7


def observe(package: Any) -> dict[str, Any]:
    """Return the data, and the weights from both functions for a few classes."""
    text = {"layers": 2, "width": 64, "heads": 2}
    model = package.CLIP(48, package.CLIPVisionCfg(**CFG), package.CLIPTextCfg(**text)).eval()
    fill(model)
    names, prompts = package.IMAGENET_CLASSNAMES, package.OPENAI_IMAGENET_TEMPLATES
    few = package.SIMPLE_IMAGENET_TEMPLATES
    strings = ["a photo of a {}.", "{}"]
    build, legacy = package.build_zero_shot_classifier, package.build_zero_shot_classifier_legacy
    with torch.no_grad():
        return {
            "names": list(names),
            "prompts": sorted(prompt("word") for prompt in prompts),
            "few prompts": [prompt("word") for prompt in few],
            "all prompts": build(model, package.tokenize, names[:2], prompts),
            **{
                f"{size} a batch": build(model, package.tokenize, names[:NAMES], few, size)
                for size in (3, 10, None, 0)
            },
            "strings": build(model, package.tokenize, names[:NAMES], strings),
            "legacy": legacy(model, package.tokenize, names[:NAMES], few, use_tqdm=True),
        }
