"""Gradient caching: the gradients of a large contrastive batch in the memory of a micro-batch.

A contrastive loss needs the features of the whole batch, so its gradient is not the sum over micro-batches. But it
needs only features: encode all micro-batches without a graph, compute the loss and its gradients with respect to the
features, then encode each micro-batch again with a graph and backpropagate the gradients of its features (Gao et al.
2021, https://arxiv.org/abs/2101.06983). Each tower runs forward twice.

Shapes: B batch of this rank, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from oneclip.errors import ConfigError
from oneclip.model.layers import FrozenBatchNorm2d
from oneclip.train.data.batches import Batch

if TYPE_CHECKING:
    from oneclip.train.forward import Features

FieldKey = tuple[str, str | None]  # a field of Features, and the key if it is a mapping

MODEL_FIELDS = ("logit_scale", "logit_bias")  # fields of Features without a row for each pair


def cached_backward(
    encode: Callable[[Batch], Features],
    losses: Callable[[Features, Batch], dict[str, Tensor]],
    batch: Batch,
    micro_batch: int,
    *,
    model: nn.Module,
    scale_loss: Callable[[Tensor], Tensor] = lambda loss: loss,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """Add the gradients of a batch, like `scale_loss(losses(encode(batch), batch)["loss"]).backward()`.

    A micro-batch draws the same random numbers, such as those of dropout, both times. If `losses` gathers features from
    other ranks, every rank must call this function. Only the last micro-batch is outside `no_sync`, so
    DistributedDataParallel averages gradients once.

    Args:
        encode: forward pass of both towers, such as `Stepper.encode`. All tensors that it returns, also those in
            mappings, have a row for each pair, except `logit_scale` and `logit_bias`. It enters autocast itself.
        losses: returns named scalars, such as `Stepper.losses`; "loss" is minimized.
        batch: on the device.
        micro_batch: pairs to encode at once; the last micro-batch may have fewer.
        model: the model in `encode`.
        scale_loss: scales the loss before the backward pass, for gradient accumulation or fp16.
        no_sync: returns a context without gradient averaging, such as DistributedDataParallel's `no_sync`.

    Returns:
        The losses, detached.

    Raises:
        ConfigError: if `micro_batch` is less than 1, or the model normalizes with batch statistics.
    """
    if micro_batch < 1:
        raise ConfigError(f"micro_batch is {micro_batch}; expected at least 1")
    rows = len(batch.images)
    if micro_batch >= rows:
        named = losses(encode(batch), batch)
        scale_loss(named["loss"]).backward()  # type: ignore[no-untyped-call]
        return _detached(named)
    require_no_batch_statistics(model)
    parts = [_rows(batch, slice(start, start + micro_batch)) for start in range(0, rows, micro_batch)]

    states, cached = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(batch.images.device))
            cached.append(encode(part))
    leaves = _joined(cached)
    with no_sync():  # losses may use parameters of the model
        named = losses(leaves, batch)
        scale_loss(named["loss"]).backward()  # type: ignore[no-untyped-call]

    with _preserve_random_state(batch.images.device):
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            is_last = number == len(parts) - 1
            with nullcontext() if is_last else no_sync():
                _set_random_state(state, batch.images.device)
                _backward(encode(part), leaves, start=number * micro_batch, with_shared=is_last)
    return _detached(named)


def require_no_batch_statistics(model: nn.Module) -> None:
    """Raise ConfigError if a module normalizes with batch statistics, which differ in micro-batches."""
    for name, module in model.named_modules():
        is_held = isinstance(module, FrozenBatchNorm2d) or not isinstance(module, _BatchNorm)
        if not is_held and (module.training or module.running_mean is None):
            raise ConfigError(
                f"{name or 'the model'} ({type(module).__name__}) normalizes with the statistics of its batch, which "
                "differ in micro-batches, so gradients would change. Freeze the statistics (call its eval(), or "
                "lock_image_tower(freeze_bn_stats=True)), or do not set micro_batch"
            )


def _joined(cached: list[Features]) -> Features:
    """Concatenate the features of micro-batches into leaf tensors."""
    tensors: dict[FieldKey, Tensor] = {}
    for place, last in _tensors(cached[-1]).items():
        parts = [last] if place[0] in MODEL_FIELDS else [_tensors(features)[place] for features in cached]
        whole = torch.cat(parts) if len(parts) > 1 else last.detach()
        tensors[place] = whole.requires_grad_(whole.is_floating_point())
    fields: dict[str, Any] = {}
    for (name, key), tensor in tensors.items():
        if key is None:
            fields[name] = tensor
        else:
            fields.setdefault(name, {})[key] = tensor
    return cached[-1]._replace(**fields)


def _backward(features: Features, leaves: Features, start: int, with_shared: bool) -> None:
    """Backpropagate the gradients of the features of one micro-batch through the towers."""
    roots, gradients = [], []
    whole = _tensors(leaves)
    for place, value in _tensors(features).items():
        is_shared, gradient = place[0] in MODEL_FIELDS, whole[place].grad
        if gradient is None or not value.requires_grad or (is_shared and not with_shared):
            continue
        roots.append(value)
        gradients.append(gradient if is_shared else gradient[start : start + len(value)])
    if roots:
        torch.autograd.backward(roots, gradients)


def _tensors(features: Features) -> dict[FieldKey, Tensor]:
    """Return all tensors of features by field and key."""
    found: dict[FieldKey, Tensor] = {}
    for name, value in features._asdict().items():
        if isinstance(value, Mapping):
            found |= {(name, key): tensor for key, tensor in value.items()}
        elif value is not None:
            found[name, None] = value
    return found


def _rows(batch: Batch, rows: slice) -> Batch:
    extra = {key: value[rows] for key, value in batch.extra.items()}
    return Batch(batch.images[rows], batch.texts[rows], extra)


def _detached(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in named.items()}


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the random state of the CPU, and of the device if it is CUDA."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _preserve_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restore the random state at exit."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
