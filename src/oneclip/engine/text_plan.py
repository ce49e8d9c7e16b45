"""Text towers to their plans: packed blocks between the towers' own embedding and pooling.

Shapes: B batch, L tokens, C width, D joint embedding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine.blocks import BlockParts, KeysValues, Norm, PackedBlock
from oneclip.engine.guards import must_be
from oneclip.engine.kernels import Pack
from oneclip.engine.prefix_sharing import Job, SharedBeginnings
from oneclip.engine.thread_groups import in_slices
from oneclip.model import CLIP, TextTransformer, Transformer
from oneclip.model.pooling import pooled_positions
from oneclip.model.text import TextTower


class TextPlan:
    """A text tower, packed: token ids (B, L) to features (B, D) in fp32.

    Args:
        tower: a `TextTransformer`, or a flat `CLIP`, in evaluation mode.
        pack: makes the linear layers of the blocks.

    Raises:
        Unplanned: if a part of it is not what it was published as.
    """

    def __init__(self, tower: TextTower, pack: Pack) -> None:
        must_be(tower, TextTransformer, CLIP)
        must_be(tower.transformer, Transformer)
        must_be(tower.token_embedding, nn.Embedding)
        self.tower = tower
        self.pool_type, self.eos_id = tower.pooling()
        pools_one = self.pool_type != "none" or tower.cls_emb is not None
        self.pools_one = pools_one and not getattr(tower, "output_tokens", False)
        stack = tower.transformer
        *first, last = [BlockParts.of(block, stack.batch_first) for block in stack.resblocks]
        self.blocks = [PackedBlock(parts, pack) for parts in first]
        self.last = PackedBlock(last, pack, pooled_only=self.pools_one)
        self.norm = Norm(tower.ln_final)
        self.weight, self.bias = _projection(tower)
        self.shared = None if self.pad is None else SharedBeginnings(self._begin, self._go_on)

    @property
    def pad(self) -> int | None:
        """An id that may follow every caption without changing its features; None where there is none.

        It is 0 where no token sees what follows it and the pooled one is found by its id: "argmax" takes the first of
        the greatest, and "eos" the first that is the end of text.
        """
        tower = self.tower
        causal = tower.attn_mask is not None and not tower.use_pad_mask and tower.cls_emb is None
        found_by_id = self.pool_type == "argmax" or (self.pool_type == "eos" and self.eos_id != 0)
        return 0 if causal and self.pools_one and found_by_id else None

    def __call__(self, text: Tensor) -> Tensor:
        if self.shared is not None and text.device.type == "cpu":
            return self.shared(text, self._positions(text, text.shape[1]))
        return in_slices(self._compute, text, text.shape[1], self.last.hidden)

    def _compute(self, text: Tensor) -> Tensor:
        x, mask = self._embed(text)
        for block in self.blocks:
            x = block(x, mask)
        if self.pools_one:
            return self._project(self.last.at(x, self._positions(text, x.shape[1]), mask))
        x = self.last(x, mask).to(self.tower.transformer.get_cast_dtype())
        return self.tower._pool_text(x, text)[0].float()

    def _embed(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ids (B, L) to tokens (B, L, C) in fp32, and a mask (L, L), or (B, 1, L, L) where padding is masked, too."""
        x, mask = self.tower._embeds(text)
        if mask is not None and mask.ndim == 3:
            mask = mask.reshape(len(x), -1, *mask.shape[1:])[:, :1]  # every head has the same
        return x.float(), mask

    def _project(self, pooled: Tensor) -> Tensor:
        """(B, C) -> (B, D)."""
        pooled = self.norm(pooled)
        return pooled if self.weight is None else F.linear(pooled, self.weight, self.bias)

    def _begin(self, ids: Tensor) -> list[KeysValues]:
        """Ids (G, P) that captions begin with to keys and values in every block."""
        x, mask = self._embed(ids)
        return [*(block.step(x, mask) for block in self.blocks), self.last.keys_values(x)]

    def _go_on(self, job: Job) -> Tensor:
        """Captions, behind what they begin with, to features (B, D)."""
        tower, places = self.tower, job.starts[:, None] + torch.arange(job.own.shape[1])
        positions = tower.positional_embedding[places.clamp(max=tower.context_length - 1)]  # (B, S, C)
        dtype, mask = tower.transformer.get_cast_dtype(), job.mask()
        x = (tower.token_embedding(job.own).to(dtype) + positions.to(dtype)).float()
        for number, block in enumerate(self.blocks):
            x = block(x, mask, job.seen(number))
        return self._project(self.last.at(x, job.positions, mask, job.seen(len(self.blocks))))

    def _positions(self, text: Tensor, length: int) -> Tensor:
        """(B,) positions of the tokens that are pooled, among `length`."""
        kind = self.pool_type
        if self.tower.cls_emb is not None or kind == "last":
            return torch.full((len(text),), length - 1, device=text.device)
        if kind == "first":
            return torch.zeros(len(text), dtype=torch.long, device=text.device)
        return pooled_positions(text, kind, self.eos_id)


def _projection(tower: TextTower) -> tuple[Tensor | None, Tensor | None]:
    """(D, C) and (D,) in fp32, where there are such."""
    if tower.text_projection is None:
        return None, None
    if isinstance(tower.text_projection, nn.Module):
        must_be(tower.text_projection, nn.Linear)
        layer = cast(nn.Linear, tower.text_projection)
        return layer.weight.detach().float(), None if layer.bias is None else layer.bias.detach().float()
    return tower.text_projection.detach().float().T, None
