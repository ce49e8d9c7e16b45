"""Captions as far as they are written to logits of their next token, computing only what is new.

Shapes: B pictures, R rows, a multiple of B, those of one picture side by side; T tokens written, N of them new,
S tokens of a picture, C width, H heads, E = C / H, V vocabulary.
"""

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from oneclip.model.attention import Attention
from oneclip.model.text import TextTransformer

if TYPE_CHECKING:
    from oneclip.model.coca import CoCa


class Reader(Protocol):
    """What a search asks."""

    def logits(self, ids: Tensor) -> Tensor:
        """Captions (R, T) to logits (R, V) of what follows; each call's captions continue those of the last one."""

    def reorder(self, rows: Tensor) -> None:
        """Let the captions of the next call continue others: row i that of row `rows[i]` of the same picture."""


def reader_for(model: "CoCa", image_embs: Tensor) -> Reader:
    """The reader that fits a model's text tower.

    Args:
        image_embs: (B, S, C) tokens of the pictures.
    """
    is_causal = isinstance(model.text, TextTransformer) and model.text.attn_mask is not None
    return CachedReader(model, image_embs) if is_causal else WholeReader(model, image_embs)


class WholeReader:
    """Reads every caption whole each time: where a token also sees those behind it, nothing of the past can be kept."""

    def __init__(self, model: "CoCa", image_embs: Tensor) -> None:
        self.model, self.image_embs = model, image_embs

    def logits(self, ids: Tensor) -> Tensor:
        decoder = self.model.text_decoder
        _, tokens = self.model.text(ids)
        pictures = self.image_embs.repeat_interleave(ids.shape[0] // self.image_embs.shape[0], dim=0)
        return decoder.predict(decoder.read(pictures, tokens)[:, -1])

    def reorder(self, rows: Tensor) -> None:
        pass


class CachedReader:
    """Keeps the keys and values of what was read, of pictures once and of captions as they grow.

    In a causal tower and decoder no token sees what follows it, so that the past never changes. The class token, which
    no other token sees, is left out.
    """

    def __init__(self, model: "CoCa", image_embs: Tensor) -> None:
        self.text, self.decoder = cast(TextTransformer, model.text), model.text_decoder
        self.pictures = [
            block.attn.project_context(block.ln_1_kv(image_embs)) for block in self.decoder.cross_attn
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

        x, mask = self.text._embed_text(ids)
        x = x[:, first:length]  # (R, N, C)
        assert mask is not None
        mask = mask[..., first:length, :length]
        for block, past in zip(self.blocks[:layers], self.past[:layers], strict=True):
            x = attend(block, x, past, mask)
        if self.text.cls_emb is None:
            x = self.text.ln_final(x)

        mask = self.decoder.attn_mask[first:length, :length]
        own = zip(self.blocks[layers:], self.past[layers:], strict=True)
        for (block, past), cross, picture in zip(own, self.decoder.cross_attn, self.pictures, strict=True):
            x = look(cross, attend(block, x, past, mask), *picture)
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
    attention: Attention = block.attn
    q, k, v = attention.project(block.ln_1(x), None)
    y = attention.mix(q, *past.extend(k, v), mask)
    out: Tensor = block.feed_forward(x + block.ls_1(block.ln_attn(y)))
    return out


def look(block: Any, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """A cross-attention block over new tokens (R, N, C) and pictures (B, H, S, E).

    Nothing is masked, so that all rows of a picture ask as one caption, and its keys need not be repeated.
    """
    attention: Attention = block.attn
    together = block.ln_1(x).reshape(keys.shape[0], -1, x.shape[2])  # (B, R / B · N, C)
    y = attention.mix(attention.project_queries(together), keys, values).reshape(x.shape)
    out: Tensor = block.feed_forward(x + block.ls_1(y))
    return out
