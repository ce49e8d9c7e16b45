"""Losses with their gradients, on one process; both sides of a comparison run this file."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

BATCHES = ((1, 8), (2, 8), (7, 16), (32, 64))  # rows, width


def observe(package: Any) -> dict[str, Any]:
    """Return values and gradients of all losses."""
    return {
        **of_clip(package),
        **of_siglip(package.loss),
        **of_distill(package.loss),
        **of_coca(package.loss),
    }


def of_clip(package: Any) -> dict[str, Any]:
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


def of_siglip(losses: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for rows, width in BATCHES:
        for bias in (None, -10.0):
            loss = losses.SigLipLoss()
            inputs = _pair(rows, width)
            scale = torch.tensor(2.0, requires_grad=True)
            learned = [] if bias is None else [torch.tensor(bias, requires_grad=True)]
            images, texts = (F.normalize(features, dim=-1) for features in inputs)
            value = loss(images, texts, scale.exp(), *(learned or [None]))
            named = loss(images, texts, scale.exp(), *(learned or [None]), output_dict=True)
            made = {"value": value, "named": named["contrastive_loss"]}
            made["labels"] = loss.get_ground_truth(images.device, images.dtype, rows)
            made["negative labels"] = loss.get_ground_truth(images.device, images.dtype, rows, True)
            seen |= _with_gradients(f"siglip {rows}x{width}, bias {bias}", made, [*inputs, scale, *learned])
    return seen


def of_distill(losses: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for rows, width in BATCHES:
        loss = losses.DistillClipLoss()
        student, teacher = _pair(rows, width), _pair(rows, 2 * width)
        scale = torch.tensor(2.0, requires_grad=True)
        features = [F.normalize(part, dim=-1) for part in (*student, *teacher)]
        arguments = (*features[:2], scale.exp(), *features[2:], torch.tensor(20.0))
        contrastive, distance = loss(*arguments)
        named = loss(*arguments, output_dict=True)
        made = {"value": contrastive + 0.3 * distance, "contrastive": contrastive, "distance": distance}
        made |= {f"named {key}": value for key, value in named.items()}
        seen |= _with_gradients(f"distill {rows}x{width}", made, [*student, *teacher, scale])
    return seen


def of_coca(losses: Any) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for rows, width in BATCHES:
        for weights in ((2.0, 1.0), (0.5, 0.0), (0.0, 3.0)):
            for pad_id in (0, 3):
                generator = torch.Generator().manual_seed(width)
                loss = losses.CoCaLoss(*weights, pad_id=pad_id)
                inputs = _pair(rows, width)
                logits = torch.randn(rows, 9, 11, generator=generator).requires_grad_()
                labels = torch.randint(0, 11, (rows, 9), generator=generator)
                scale = torch.tensor(2.0, requires_grad=True)
                features = [F.normalize(part, dim=-1) for part in inputs]
                arguments = (*features, logits, labels, scale.exp())
                contrastive, caption = loss(*arguments)
                named = loss(*arguments, output_dict=True)
                made = {
                    "value": contrastive + caption,
                    "contrastive": contrastive.float(),
                    "caption": caption,
                }
                made |= {f"named {key}": value.float() for key, value in named.items()}
                leaves = [logits, *([*inputs, scale] if weights[1] else [])]
                seen |= _with_gradients(f"coca {rows}x{width}, {weights}, pad {pad_id}", made, leaves)
    return seen


def _pair(rows: int, width: int) -> list[Any]:
    generator = torch.Generator().manual_seed(rows + width)
    return [torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(2)]


def _with_gradients(name: str, made: dict[str, Any], leaves: list[Any]) -> dict[str, Any]:
    made["value"].backward()
    made |= {f"gradient {index}": leaf.grad for index, leaf in enumerate(leaves) if leaf.grad is not None}
    return {f"{name}/{key}": tensor.detach().clone() for key, tensor in made.items()}
