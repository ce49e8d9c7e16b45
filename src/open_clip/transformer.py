"""`open_clip.transformer`: the towers of `oneclip.model` and their parts, to recognise them by and to wrap them.

The towers and blocks are built of configurations, not of the published lists of arguments.
"""

from oneclip.model import (
    AttentionalPooler,
    LayerNorm,
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
    VisionTransformer,
)

__all__ = [
    "AttentionalPooler",
    "LayerNorm",
    "QuickGELU",
    "ResidualAttentionBlock",
    "TextTransformer",
    "Transformer",
    "VisionTransformer",
]
