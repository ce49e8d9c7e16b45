"""Plan of a text tower: packed blocks between the tower's own embedding and pooling.

Shapes: B batch, L tokens, S tokens after a shared prefix, C width, D joint embedding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine.blocks import BlockParts, KeysValues, Norm, PackedBlock
from oneclip.engine.guards import require_type
from oneclip.engine.kernels import Pack
from oneclip.engine.prefix_sharing import SharedPrefixes, SuffixBatch
from oneclip.model import CLIP, TextTransformer, Transformer
from oneclip.model.text_base import TextTransformerBase


class TextPlan:
    """A text tower with packed weights: token ids (B, L) to features (B, D) in fp32.

    Args:
        tower: a `TextTransformer`, or a flat `CLIP`, in evaluation mode.
        pack: makes the linear layers of the blocks.

    Attributes:
        hidden: width of the widest activation.
        pad: an id that can follow every text without changing its features; None if there is no such id.
        shared: the same computation with equal prefixes computed once, on a CPU; None if the tower does not allow it.

    Raises:
        PlanUnsupported: if a part of the tower differs from the published one.
    """

    def __init__(self, tower: TextTransformerBase, pack: Pack) -> None:
        require_type(tower, TextTransformer, CLIP)
        require_type(tower.transformer, Transformer)
        require_type(tower.token_embedding, nn.Embedding)
        self.tower = tower
        self.pooling = tower.text_pooling()
        pools_one = self.pooling.pool_type != "none" or self.pooling.has_class_token
        self.pools_one = pools_one and not getattr(tower, "output_tokens", False)
        stack = tower.transformer
        *first, last = [BlockParts.of(block, stack.batch_first) for block in stack.resblocks]
        self.blocks = [PackedBlock(parts, pack) for parts in first]
        self.last = PackedBlock(last, pack, pooled_only=self.pools_one)
        self.hidden = self.last.hidden
        self.norm = Norm(tower.ln_final)
        self.weight, self.bias = _projection(tower)
        self.pad = self.pooling.filler_id if self.pools_one else None
        self.shared = (
            None
            if self.pad is None
            else SharedPrefixes(self.pooling, self._encode_prefixes, self._encode_suffixes)
        )

    def __call__(self, text: Tensor) -> Tensor:
        x, mask = self._embed(text)
        for block in self.blocks:
            block(x, mask)
        if self.pools_one:
            return self._project(self.last.pooled(x, self.pooling.positions(text, x.shape[1]), mask))
        self.last(x, mask)
        return self.tower._pool_text(x.to(self.tower.transformer.get_cast_dtype()), text)[0].float()

    def _embed(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed ids (B, L): tokens (B, L, C) in fp32, and a mask (L, L), or (B, 1, L, L) if it hides padding."""
        x, mask = self.tower._embeds(text)
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(len(x), -1, *mask.shape[1:])[:, :1]  # it is the same for every head
        return x.float(), mask

    def _project(self, pooled: Tensor) -> Tensor:
        pooled = self.norm(pooled)
        return pooled if self.weight is None else F.linear(pooled, self.weight, self.bias)

    def _encode_prefixes(self, ids: Tensor) -> list[KeysValues]:
        """Compute the keys and values of prefixes (G, P) in every block."""
        x, mask = self._embed(ids)
        return [*(block(x, mask) for block in self.blocks), self.last.keys_values(x)]

    def _encode_suffixes(self, batch: SuffixBatch) -> Tensor:
        """Compute the features (B, D) of texts from their prefixes' keys and values."""
        tower, places = self.tower, batch.starts[:, None] + torch.arange(batch.ids.shape[1])
        positions = tower.positional_embedding[places.clamp(max=tower.context_length - 1)]  # (B, S, C)
        dtype, mask = tower.transformer.get_cast_dtype(), batch.mask()
        x = (tower.token_embedding(batch.ids).to(dtype) + positions.to(dtype)).float()
        for number, block in enumerate(self.blocks):
            block(x, mask, batch.prefix(number))
        return self._project(self.last.pooled(x, batch.positions, mask, batch.prefix(len(self.blocks))))


def _projection(tower: TextTransformerBase) -> tuple[Tensor | None, Tensor | None]:
    """Return the weight (D, C) and the bias (D,) of the projection in fp32, None where there is none."""
    if tower.text_projection is None:
        return None, None
    if isinstance(tower.text_projection, nn.Module):
        require_type(tower.text_projection, nn.Linear)
        layer = cast(nn.Linear, tower.text_projection)
        return layer.weight.detach().float(), None if layer.bias is None else layer.bias.detach().float()
    return tower.text_projection.detach().float().T, None
