"""One model with random weights in the form that each entrant reads, and the inputs that all of them get."""

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
    """A model as `model/` (open_clip's form), `transformers/`, `openai.pt` and, for a batch, `image.onnx`.

    OpenAI's package computes every model with QuickGELU; all else has the architecture's own activation.
    """
    from oneclip import zoo
    from oneclip.checkpoint.save import Exportable, export
    from oneclip.config import PreprocessCfg
    from oneclip.model import build_model

    cfg = zoo.architecture(architecture)
    torch.manual_seed(SEED)
    model: Any = build_model(cfg).eval()
    pixels = PreprocessCfg(size=cfg.vision_cfg.image_size)
    for form, name in (("open_clip", "model"), ("transformers", "transformers")):
        export(Exportable(model.state_dict(), cfg, pixels), folder / name, form)
    quick = replace(cfg, quick_gelu=True)
    export(Exportable(model.state_dict(), quick, pixels), folder / "openai.pt", "openai")
    (folder / "architecture.txt").write_text(architecture, encoding="utf-8")
    if onnx_batch:
        write_onnx(model, folder / "image.onnx", onnx_batch)


def write_onnx(model: Any, path: Path, batch: int) -> None:
    """The visual tower for batches of one size, which runtimes optimise further than those of any."""
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
    """(count, 3, H, W) of numbers as preprocessed pictures have them."""
    from oneclip import zoo

    size = zoo.architecture(architecture).vision_cfg.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(SEED))


def captions(count: int, fewest: int = 5, most: int = 15) -> list[str]:
    """Captions of so many words each, no two alike: common words, and names of ImageNet's classes."""
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
    """A line of a report."""
    print(line)
    sys.stdout.flush()
