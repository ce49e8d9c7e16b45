"""Long-CLIP's own files (Zhang et al. 2024) to `CLIP`, and back: OpenAI's form, with text positions in two tables.

The first 20 positions are those of the first table, the others those of the second. Long-CLIP's code builds models as
OpenAI's does: QuickGELU, heads that are 64 wide, OpenAI's preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.formats.base import Converted, Published
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.config import PreprocessCfg
from oneclip.errors import CheckpointError

KEPT = 20  # rows of `positional_embedding`
FIRST, REST = "positional_embedding", "positional_embedding_res"


class LongCLIP:
    """The format of Long-CLIP's state dicts."""

    name = "Long-CLIP"

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """By the second table of positions."""
        return config is None and REST in state_dict and looks_like_openai(state_dict)

    def read(
        self,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> Converted:
        """Theirs to ours; see `Format.read`."""
        first, rest = state_dict[FIRST], state_dict[REST]
        if first.shape != rest.shape:
            raise CheckpointError(
                f"{FIRST} has shape {tuple(first.shape)} and {REST} {tuple(rest.shape)}; equal shapes were expected"
            )
        tensors = {name: tensor for name, tensor in state_dict.items() if name != REST}
        tensors[FIRST] = torch.cat([first[:KEPT], rest[KEPT:]])
        cfg = infer_openai_config(tensors)
        return Converted(tensors, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size))

    def write(self, model: Converted) -> Published:
        """Ours to theirs, with all positions in both tables; see `Format.write`."""
        return Published({**model.state_dict, REST: model.state_dict[FIRST].clone()})
