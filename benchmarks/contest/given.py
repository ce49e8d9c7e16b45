"""One model with random weights in the format of each entrant, and the inputs of all of them."""

from __future__ import annotations

import random
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

SEED = 0
WORDS = "a the small old red blue large bright dark wooden in on under near with and two three of some"
LITTLE = WORDS.split()


def write_model(folder: Path, architecture: str, onnx_batch: int = 0) -> None:
    """Write a model as `model/` (open_clip format), `transformers/`, `openai.pt` and, if requested, `image.onnx`.

    OpenAI's package computes every model with QuickGELU; all else has the architecture's own activation.
    """
    from oneclip import zoo
    from oneclip.checkpoint.convert import ConvertibleModel, convert
    from oneclip.config import PreprocessCfg
    from oneclip.model import build_model

    cfg = zoo.architecture(architecture)
    torch.manual_seed(SEED)
    model: Any = build_model(cfg).eval()
    pixels = PreprocessCfg(size=cfg.vision_cfg.image_size)
    for form, name in (("open_clip", "model"), ("transformers", "transformers")):
        convert(ConvertibleModel(model.state_dict(), cfg, pixels), folder / name, form)
    quick = replace(cfg, quick_gelu=True)
    convert(ConvertibleModel(model.state_dict(), quick, pixels), folder / "openai.pt", "openai")
    (folder / "architecture.txt").write_text(architecture, encoding="utf-8")
    if onnx_batch:
        write_onnx(model, folder / "image.onnx", onnx_batch)


def write_onnx(model: Any, path: Path, batch: int) -> None:
    """Export the image tower for one batch size, which runtimes optimize better."""
    height, width = model.visual.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.visual,
            (torch.zeros(batch, 3, height, width),),
            str(path),
            input_names=["pixels"],
            output_names=["features"],
            opset_version=17,
            dynamo=False,
        )


def pixels(architecture: str, count: int) -> torch.Tensor:
    """Make (count, 3, H, W) random values like those of preprocessed images."""
    from oneclip import zoo

    size = zoo.architecture(architecture).vision_cfg.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(SEED))


def captions(count: int, fewest: int = 5, most: int = 15) -> list[str]:
    """Make different texts with these numbers of words: common words and ImageNet class names."""
    from oneclip.evaluate.imagenet import class_names

    names = [name for name in class_names() if " " not in name]
    chance = random.Random(SEED)
    made: dict[str, None] = {}
    while len(made) < count:
        length = chance.randint(fewest, most)
        words = (chance.choice(names if place % 3 == 2 else LITTLE) for place in range(length))
        made[" ".join(words)] = None
    return list(made)


def say(line: str = "") -> None:
    """Print a line of the report at once."""
    print(line)
    sys.stdout.flush()
