"""A dual encoder of a few hundred parameters, and pairs that it can learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oneclip.train import Batch


class TinyCLIP(nn.Module):
    """Mean-pooled words and one linear layer over pixels; dropout, so that random states matter."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(64, 16)
        self.ln_final = nn.LayerNorm(16)
        self.proj = nn.Linear(3 * 8 * 8, 16)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.logit_bias = None

    def encode_image(self, image: Tensor) -> Tensor:
        return self.proj(self.dropout(image.flatten(1)))

    def encode_text(self, text: Tensor) -> Tensor:
        used = (text != 0).unsqueeze(-1)
        return self.ln_final((self.token_embedding(text) * used).sum(1))


class Pairs:
    """Sixteen fixed pairs; each batch takes some by seed and step."""

    def __init__(self, size: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=generator) / 64 - 2
        self.texts = torch.zeros(16, 12, dtype=torch.long)
        self.texts[:, :3] = torch.randint(1, 64, (16, 3), generator=generator)
        self.size, self.seed = size, seed

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        picked = torch.randperm(16, generator=generator)[: self.size]
        return Batch(self.images[picked], self.texts[picked])
