"""Infer the configuration of an OpenAI checkpoint from the shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import CheckpointError

HEAD_WIDTH = 64  # of all attention layers in OpenAI's models


def infer_openai_config(state_dict: Mapping[str, Tensor], heads: tuple[int, int] | None = None) -> ModelCfg:
    """Infer the configuration of a model from a state dict in OpenAI's format.

    Shapes do not show the activation, which is QuickGELU in all models of OpenAI, and the heads, which are 64 wide in
    all of them. Weights of the same format from other authors may have been trained with different ones.

    Args:
        state_dict: tensors by name.
        heads: heads of the image tower and of the text tower; by default each head is 64 wide.

    Raises:
        CheckpointError: if it does not have that format, or a width is not a multiple of the heads.
    """
    if not looks_like_openai(state_dict):
        raise CheckpointError("not a state dict in OpenAI's format: weights of a tower are missing")
    context_length = state_dict["positional_embedding"].shape[0]
    vocab_size, width = state_dict["token_embedding.weight"].shape
    image_heads, text_heads = heads or (None, None)
    vision = _vision_transformer if "visual.proj" in state_dict else _resnet
    return ModelCfg(
        embed_dim=state_dict["text_projection"].shape[1],
        vision_cfg=vision(state_dict, image_heads),
        text_cfg=CLIPTextCfg(
            context_length=context_length,
            vocab_size=vocab_size,
            width=width,
            heads=width // _head_width(width, text_heads),
            layers=_count(state_dict, r"transformer\.resblocks\.(\d+)\."),
        ),
        quick_gelu=True,
    )


def looks_like_openai(state_dict: Mapping[str, Tensor]) -> bool:
    """Check the names and numbers of axes that all ViTs, or all ResNets, of OpenAI have."""
    axes = {
        "positional_embedding": 2,
        "token_embedding.weight": 2,
        "text_projection": 2,
        "visual.conv1.weight": 4,
    }
    if "visual.proj" in state_dict:
        axes |= {"visual.proj": 2, "visual.positional_embedding": 2}
    else:
        axes |= {"visual.layer1.0.conv1.weight": 4, "visual.attnpool.positional_embedding": 2}
    return all(name in state_dict and state_dict[name].ndim == count for name, count in axes.items())


def _vision_transformer(state_dict: Mapping[str, Tensor], heads: int | None) -> CLIPVisionCfg:
    width, _, patch_size, _ = state_dict["visual.conv1.weight"].shape
    return CLIPVisionCfg(
        layers=_count(state_dict, r"visual\.transformer\.resblocks\.(\d+)\."),
        width=width,
        head_width=_head_width(width, heads),
        patch_size=patch_size,
        image_size=patch_size * _side(state_dict["visual.positional_embedding"]),
    )


def _resnet(state_dict: Mapping[str, Tensor], heads: int | None) -> CLIPVisionCfg:
    width = state_dict["visual.layer1.0.conv1.weight"].shape[0]
    blocks = [_count(state_dict, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    return CLIPVisionCfg(
        layers=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=width,
        head_width=HEAD_WIDTH if heads is None else _head_width(32 * width, heads),
        image_size=32 * _side(state_dict["visual.attnpool.positional_embedding"]),
    )


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    """Count the blocks by their names."""
    numbers = {int(found[1]) for name in state_dict if (found := re.match(pattern, name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(f"expected blocks numbered 0, 1, 2, …; found {sorted(numbers)[:5]}")
    return len(numbers)


def _side(positions: Tensor) -> int:
    """Return the side of a square grid with one position per cell and one more for the class token."""
    count = positions.shape[0]
    side = math.isqrt(max(count - 1, 0))
    if side < 1 or side**2 + 1 != count:
        raise CheckpointError(f"its visual tower has {count} positions; expected a square number plus one")
    return side


def _head_width(width: int, heads: int | None) -> int:
    """Return the width of a head; 64 as in OpenAI's models if the number of heads is unknown."""
    if heads is None and width % HEAD_WIDTH:
        raise CheckpointError(
            f"a tower has width {width}, not a multiple of {HEAD_WIDTH}, the width of OpenAI's heads"
        )
    if heads is not None and width % heads:
        raise CheckpointError(f"a tower has width {width}, not a multiple of {heads} heads")
    return HEAD_WIDTH if heads is None else width // heads
