"""Tiny models with random weights, and images for them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from oneclip import checkpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.model import build_model

PIXELS = 32
DIM = 16


def tiny_cfg(**changes: object) -> ModelCfg:
    """Make a configuration that builds and runs in milliseconds."""
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS)
    text = CLIPTextCfg(width=16, heads=2, layers=2)
    return ModelCfg(**{"embed_dim": DIM, "vision_cfg": vision, "text_cfg": text, **changes})


def write_tiny_model(path: Path, seed: int = 0, **changes: object) -> Path:
    """Write a checkpoint with its configuration."""
    torch.manual_seed(seed)
    cfg = tiny_cfg(**changes)
    checkpoint.save_quantized(path, build_model(cfg).state_dict(), cfg, PreprocessCfg(size=PIXELS))
    return path


def coca_cfg() -> ModelCfg:
    """Make a CoCa with CLIP's vocabulary that builds and runs in milliseconds."""
    widths = {"context_length": 20, "width": 32, "heads": 2, "layers": 1}
    vision = CLIPVisionCfg(
        layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS, output_tokens=True
    )
    text = CLIPTextCfg(embed_cls=True, output_tokens=True, **widths)
    return ModelCfg(32, vision, text, custom_text=True, multimodal_cfg=MultimodalCfg(**widths))


def write_tiny_coca(path: Path) -> Path:
    """Write a folder with a CoCa whose weights are large enough to give different captions."""
    torch.manual_seed(0)
    cfg = coca_cfg()
    model = build_model(cfg).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    checkpoint.write_folder(checkpoint.LoadedModel(model, cfg, PreprocessCfg(size=PIXELS), "tiny CoCa"), path)
    return path


def picture(seed: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """Make an image of coarse random squares from a seed."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)
