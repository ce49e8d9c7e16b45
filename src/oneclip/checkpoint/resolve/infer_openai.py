"""The shapes of an OpenAI checkpoint to the configuration it was built of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import CheckpointError

HEAD_WIDTH = 64  # of every attention in OpenAI's models


def infer_openai_config(state_dict: Mapping[str, Tensor], heads: tuple[int, int] | None = None) -> ModelCfg:
    """Read off a state dict in OpenAI's form what model it belongs to.

    Shapes say everything but the activation, which is QuickGELU in all of OpenAI's models, and the heads, which are 64
    wide in all of them. A state dict of the same form from elsewhere may have been trained with others.

    Args:
        state_dict: tensors by name.
        heads: of the image tower and of the text tower; by default OpenAI's, each 64 wide.

    Raises:
        CheckpointError: if it is not of that form, or a width is no multiple of the heads.
    """
    if not looks_like_openai(state_dict):
        raise CheckpointError("this is no state dict in OpenAI's form: it lacks weights of a tower")
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
    """Whether a state dict has the names, and as many axes, as both kinds of OpenAI's models have."""
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
    """How many blocks there are, by their names."""
    numbers = {int(found[1]) for name in state_dict if (found := re.match(pattern, name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(f"its blocks are not numbered from 0 on without gaps: {sorted(numbers)[:5]}")
    return len(numbers)


def _side(positions: Tensor) -> int:
    """Cells along one side of a square grid that has a position for each cell and one more."""
    count = positions.shape[0]
    side = math.isqrt(max(count - 1, 0))
    if side < 1 or side**2 + 1 != count:
        raise CheckpointError(
            f"its visual tower has {count} positions, which are no square grid and one more"
        )
    return side


def _head_width(width: int, heads: int | None) -> int:
    """How wide a head is; OpenAI's where nobody says how many there are."""
    if heads is None and width % HEAD_WIDTH:
        raise CheckpointError(f"a tower is {width} wide, which no number of heads of {HEAD_WIDTH} gives")
    if heads is not None and width % heads:
        raise CheckpointError(f"a tower is {width} wide, which {heads} heads do not divide")
    return HEAD_WIDTH if heads is None else width // heads
