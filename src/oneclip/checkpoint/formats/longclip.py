"""Long-CLIP's checkpoints (Zhang et al. 2024): OpenAI's format with two tables of text positions.

The first 20 positions come from the first table, the others from the second. Long-CLIP's code builds models as
OpenAI's does: QuickGELU, heads of width 64, OpenAI's preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.config import PreprocessCfg
from oneclip.errors import CheckpointError

KEPT = 20  # rows taken from `positional_embedding`
FIRST, REST = "positional_embedding", "positional_embedding_res"


class LongCLIP:
    """Format of Long-CLIP's state dicts."""

    name = "Long-CLIP"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match the second table of positions."""
        return config is None and REST in state_dict and looks_like_openai(state_dict)

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Merge both tables; see `CheckpointFormat.read`."""
        first, rest = theirs.state_dict[FIRST], theirs.state_dict[REST]
        if first.shape != rest.shape:
            raise CheckpointError(
                f"{FIRST} has shape {tuple(first.shape)} and {REST} {tuple(rest.shape)}; equal shapes were expected"
            )
        tensors = {name: tensor for name, tensor in theirs.state_dict.items() if name != REST}
        tensors[FIRST] = torch.cat([first[:KEPT], rest[KEPT:]])
        cfg = infer_openai_config(tensors)
        return NativeCheckpoint(tensors, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size))

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Write all positions into both tables; see `CheckpointFormat.write`."""
        return ForeignCheckpoint({**model.state_dict, REST: model.state_dict[FIRST].clone()})
