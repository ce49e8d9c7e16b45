"""A tiny model with random weights, in the form of the one in the wheel, and pictures to give it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from oneclip import checkpoint
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.model import build_model

PIXELS = 32
DIM = 16


def tiny_cfg(**changes: object) -> ModelCfg:
    """A configuration that builds and runs in milliseconds."""
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=PIXELS)
    text = CLIPTextCfg(width=16, heads=2, layers=2)
    return ModelCfg(**{"embed_dim": DIM, "vision_cfg": vision, "text_cfg": text, **changes})


def write_tiny_model(path: Path, seed: int = 0, **changes: object) -> Path:
    """A checkpoint that says what it is."""
    torch.manual_seed(seed)
    cfg = tiny_cfg(**changes)
    checkpoint.write_quantised(path, build_model(cfg).state_dict(), cfg, PreprocessCfg(size=PIXELS))
    return path


def picture(seed: int = 0, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """A picture of coarse random squares, unlike others of another seed."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)
