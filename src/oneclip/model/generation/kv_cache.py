"""Caption readers: logits of the next token, with keys and values of earlier tokens cached.

Shapes: B images, R rows, a multiple of B, rows of one image next to each other; T tokens written, N of them new,
S tokens of an image, C width, H heads, E = C / H, V vocabulary.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.model import untouched
from oneclip.model.attention import Attention, additive_mask
from oneclip.model.decoder import MultimodalTransformer
from oneclip.model.text import TextTransformer
from oneclip.model.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock


class CaptionReader(Protocol):
    """Source of logits for a search."""

    def logits(self, ids: Tensor) -> Tensor:
        """Compute logits (R, V) of the token behind captions (R, T), which continue those of the last call."""

    def reorder(self, rows: Tensor) -> None:
        """Reorder the cache: row i of the next call continues row `rows[i]`, which has the same image."""


def reader_for(text: nn.Module, decoder: MultimodalTransformer, image_embs: Tensor) -> CaptionReader:
    """Choose a reader: one with a cache where the tower is causal and nobody can see the difference.

    Args:
        text: the text tower, which returns its tokens.
        decoder: predicts the next token.
        image_embs: (B, S, C) tokens of the images.
    """
    if (
        not isinstance(text, TextTransformer)
        or text.attn_mask is None
        or not untouched.is_untouched(text, decoder)
    ):
        return FullReader(text, decoder, image_embs)
    blocks = [*text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn]
    kind = CachedReader if all(map(_is_known, blocks)) else FullReader
    return kind(text, decoder, image_embs)


def _is_known(block: Any) -> bool:
    """Return True if `attend` and `cross_attend` compute what a block computes."""
    if type(block) is CustomResidualAttentionBlock:
        return type(block.attn) is Attention
    attention = block.attn if type(block) is ResidualAttentionBlock else None
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


class FullReader:
    """Reader that computes every token each time, for towers in which a token attends to those behind it."""

    def __init__(self, text: nn.Module, decoder: MultimodalTransformer, image_embs: Tensor) -> None:
        self.text, self.decoder, self.image_embs = text, decoder, image_embs

    def logits(self, ids: Tensor) -> Tensor:
        _, tokens = self.text(ids)
        images = self.image_embs.repeat_interleave(ids.shape[0] // self.image_embs.shape[0], dim=0)
        return self.decoder(images, tokens)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        pass


class CachedReader:
    """Reader that caches the keys and values of images and of all tokens that were read.

    In a causal tower and decoder no token attends to those behind it, so the cache stays valid. The class token, to
    which no other token attends, is left out.
    """

    def __init__(self, text: TextTransformer, decoder: MultimodalTransformer, image_embs: Tensor) -> None:
        self.text, self.decoder = text, decoder
        self.images = [
            project(block.attn, block.ln_1_kv(image_embs), "kv") for block in self.decoder.cross_attn
        ]
        self.blocks = [*self.text.transformer.resblocks, *self.decoder.resblocks]
        self.past = [KeyValueCache() for _ in self.blocks]
        self.read = 0  # tokens of each caption so far

    def logits(self, ids: Tensor) -> Tensor:
        if ids.shape[1] <= self.read:  # the window moved: every token has another position now
            self.read, self.past = 0, [KeyValueCache() for _ in self.blocks]
        first, length = self.read, ids.shape[1]
        self.read = length
        layers = len(self.text.transformer.resblocks)

        x, mask = self.text._embeds(ids)
        x = x[:, first:length]  # (R, N, C)
        assert mask is not None
        mask = mask[..., first:length, :length]
        for block, past in zip(self.blocks[:layers], self.past[:layers], strict=True):
            x = attend(block, x, past, mask)
        if self.text.cls_emb is None:
            x = self.text.ln_final(x)

        mask = self.decoder.attn_mask[first:length, :length]
        own = zip(self.blocks[layers:], self.past[layers:], strict=True)
        for (block, past), cross, image in zip(own, self.decoder.cross_attn, self.images, strict=True):
            x = cross_attend(cross, attend(block, x, past, mask), *image)
        return self.decoder.predict(x[:, -1])

    def reorder(self, rows: Tensor) -> None:
        for past in self.past:
            past.reorder(rows)


class KeyValueCache:
    """Keys and values of one block, (R, H, T, E) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new tokens (R, H, N, E), and return all."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


def attend(block: Any, x: Tensor, past: KeyValueCache, mask: Tensor) -> Tensor:
    """Run a residual attention block over new tokens (R, N, C) and the cache of their captions."""
    q, k, v = project(block.attn, block.ln_1(x), "qkv")
    y = attend_and_project(block.attn, q, *past.extend(k, v), mask)
    y = block.ln_attn(y) if isinstance(block, CustomResidualAttentionBlock) else y
    return feed_forward(block, x + block.ls_1(y))


def cross_attend(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Run a cross-attention block over new tokens (R, N, C) and images (B, H, S, E).

    Nothing is masked, so all rows of an image can be one sequence of queries, and its keys need not be repeated.
    """
    queries = block.ln_1(x).reshape(keys.shape[0], -1, x.shape[2])  # (B, R / B · N, C)
    (q,) = project(block.attn, queries, "q")
    return feed_forward(
        block, x + block.ls_1(attend_and_project(block.attn, q, keys, values).reshape(x.shape))
    )


def feed_forward(block: Any, x: Tensor) -> Tensor:
    """Run the MLP branch of a block, (R, N, C) -> (R, N, C)."""
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def project(attention: Any, x: Tensor, parts: str) -> tuple[Tensor, ...]:
    """Project tokens (B, L, C) to queries, keys or values (B, H, L, E): `parts` is "qkv", "q" or "kv"."""
    width = attention.in_proj_weight.shape[1]
    first = "qkv".index(parts) * width
    rows = slice(first, first + len(parts) * width)
    bias = attention.in_proj_bias
    y = F.linear(x, attention.in_proj_weight[rows], None if bias is None else bias[rows])
    y = y.reshape(*x.shape[:2], len(parts), attention.num_heads, -1)
    return y.permute(2, 0, 3, 1, 4).unbind(0)


def attend_and_project(attention: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend from queries (B, H, L, E) to keys and values (B, H, S, E), and project to (B, L, C)."""
    mask = None if mask is None else additive_mask(mask, attention.num_heads, q.dtype)
    if isinstance(attention, Attention):
        y = attention.attend(q, k, v, mask)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    return F.linear(y, attention.out_proj.weight, attention.out_proj.bias)
