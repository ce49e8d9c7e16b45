"""Contrastive losses with their gradients; both sides of a comparison run this file."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

BATCHES = ((1, 8), (2, 8), (7, 16), (32, 64))  # rows, width


def observe(package: Any) -> dict[str, Any]:
    """Values and gradients of `ClipLoss`."""
    seen: dict[str, Any] = {}
    for rows, width in BATCHES:
        for bias in (None, -3.0):
            for cache in (False, True):
                name = f"{rows}x{width}, bias {bias}, cache {cache}"
                loss = package.ClipLoss(cache_labels=cache)
                for turn in range(2):
                    seen |= _once(loss, f"{name}, turn {turn}", rows, width, bias)
    return seen


def _once(loss: Any, name: str, rows: int, width: int, bias: float | None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(rows)
    inputs = [torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(2)]
    inputs.append(torch.tensor(2.0, requires_grad=True))
    if bias is not None:
        inputs.append(torch.tensor(bias, requires_grad=True))
    images, texts = (F.normalize(features, dim=-1) for features in inputs[:2])
    rest = [inputs[2].exp(), *inputs[3:]]
    value = loss(images, texts, *rest)
    value.backward()
    named = loss(images, texts, *rest, output_dict=True)
    per_image, per_text = loss.get_logits(images, texts, *rest)
    seen = {"value": value, "named": named["contrastive_loss"], "per_image": per_image, "per_text": per_text}
    seen["labels"] = loss.get_ground_truth(torch.device("cpu"), rows)
    seen |= {f"gradient {index}": tensor.grad for index, tensor in enumerate(inputs)}
    return {f"{name}/{key}": tensor.detach().clone() for key, tensor in seen.items()}
