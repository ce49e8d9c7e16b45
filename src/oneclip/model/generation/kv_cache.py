"""Logits of the next token of captions that are being written, computing only what is new.

Shapes: B images, R rows, a multiple of B, those of one image side by side; T tokens written, N of them new,
S tokens of an image, C width, H heads, E = C / H, V vocabulary.
"""

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.model import untouched
from oneclip.model.attention import Attention, additive_mask
from oneclip.model.text import TextTransformer
from oneclip.model.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock

if TYPE_CHECKING:
    from oneclip.model.coca import CoCa


class Reader(Protocol):
    """What a search asks."""

    def logits(self, ids: Tensor) -> Tensor:
        """Captions (R, T) to logits (R, V) of what follows; each call's captions continue those of the last one."""

    def reorder(self, rows: Tensor) -> None:
        """Let the captions of the next call continue others: row i that of row `rows[i]` of the same image."""


def reader_for(model: "CoCa", image_embs: Tensor) -> Reader:
    """The reader that fits a model: what was read is kept where towers are causal and nobody can see the difference.

    Args:
        image_embs: (B, S, C) tokens of the images.
    """
    text, decoder = model.text, model.text_decoder
    if (
        not isinstance(text, TextTransformer)
        or text.attn_mask is None
        or not untouched.is_untouched(text, decoder)
    ):
        return WholeReader(model, image_embs)
    blocks = [*text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn]
    known = all(map(_is_known, blocks))
    return CachedReader(model, image_embs) if known else WholeReader(model, image_embs)


def _is_known(block: Any) -> bool:
    """Whether `attend` and `look` compute what a block does."""
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


class WholeReader:
    """Reads every caption whole each time: where a token also sees those behind it, nothing of the past can be kept."""

    def __init__(self, model: "CoCa", image_embs: Tensor) -> None:
        self.model, self.image_embs = model, image_embs

    def logits(self, ids: Tensor) -> Tensor:
        decoder = self.model.text_decoder
        _, tokens = self.model.text(ids)
        images = self.image_embs.repeat_interleave(ids.shape[0] // self.image_embs.shape[0], dim=0)
        logits: Tensor = decoder(images, tokens)
        return logits[:, -1]

    def reorder(self, rows: Tensor) -> None:
        pass


class CachedReader:
    """Keeps the keys and values of what was read, of images once and of captions as they grow.

    In a causal tower and decoder no token sees what follows it, so that the past never changes. The class token, which
    no other token sees, is left out.
    """

    def __init__(self, model: "CoCa", image_embs: Tensor) -> None:
        self.text, self.decoder = cast(TextTransformer, model.text), model.text_decoder
        self.images = [
            project(block.attn, block.ln_1_kv(image_embs), "kv") for block in self.decoder.cross_attn
        ]
        self.blocks = [*self.text.transformer.resblocks, *self.decoder.resblocks]
        self.past = [Past() for _ in self.blocks]
        self.read = 0  # tokens of each caption so far

    def logits(self, ids: Tensor) -> Tensor:
        if ids.shape[1] <= self.read:  # a window that moved: every token has another position now
            self.read, self.past = 0, [Past() for _ in self.blocks]
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
            x = look(cross, attend(block, x, past, mask), *image)
        return self.decoder.predict(x[:, -1])

    def reorder(self, rows: Tensor) -> None:
        for past in self.past:
            past.reorder(rows)


class Past:
    """Keys and values of one block, (R, H, T, E) each."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens (R, H, N, E), and give all."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


def attend(block: Any, x: Tensor, past: Past, mask: Tensor) -> Tensor:
    """A residual attention block over new tokens (R, N, C) and the past of their captions."""
    q, k, v = project(block.attn, block.ln_1(x), "qkv")
    y = mix(block.attn, q, *past.extend(k, v), mask)
    y = block.ln_attn(y) if isinstance(block, CustomResidualAttentionBlock) else y
    return feed_forward(block, x + block.ls_1(y))


def look(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """A cross-attention block over new tokens (R, N, C) and images (B, H, S, E).

    Nothing is masked, so that all rows of an image ask as one caption, and its keys need not be repeated.
    """
    together = block.ln_1(x).reshape(keys.shape[0], -1, x.shape[2])  # (B, R / B · N, C)
    (q,) = project(block.attn, together, "q")
    return feed_forward(block, x + block.ls_1(mix(block.attn, q, keys, values).reshape(x.shape)))


def feed_forward(block: Any, x: Tensor) -> Tensor:
    """The branch of a block in which each token is by itself, (R, N, C) -> (R, N, C)."""
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


def project(attention: Any, x: Tensor, parts: str) -> tuple[Tensor, ...]:
    """Queries, keys or values (B, H, L, E) of tokens (B, L, C), those that `parts` names: "qkv", "q" or "kv"."""
    width = attention.in_proj_weight.shape[1]
    first = "qkv".index(parts) * width
    rows = slice(first, first + len(parts) * width)
    bias = attention.in_proj_bias
    y = F.linear(x, attention.in_proj_weight[rows], None if bias is None else bias[rows])
    y = y.reshape(*x.shape[:2], len(parts), attention.num_heads, -1)
    return y.permute(2, 0, 3, 1, 4).unbind(0)


def mix(attention: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, H, L, E) attend to keys and values (B, H, S, E): (B, L, C), projected."""
    mask = None if mask is None else additive_mask(mask, attention.num_heads, q.dtype)
    if isinstance(attention, Attention):
        y = attention.attend(q, k, v, mask)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    out: Tensor = F.linear(y, attention.out_proj.weight, attention.out_proj.bias)
    return out
