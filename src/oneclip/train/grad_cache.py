"""One batch of pairs to its gradients, its towers a few pairs at a time and its loss over all pairs.

A contrastive loss needs the features of the whole batch, so its gradient is not the sum of those of its parts. But it
needs no more than features: encode all in micro-batches without graph, take the loss and its gradients with respect to
features, then encode each micro-batch again with graph and hand it the gradients of its features (Gao et al. 2021,
https://arxiv.org/abs/2101.06983). Activations take the memory of a micro-batch; each tower computes forward twice.

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

Place = tuple[str, str | None]  # a field of Features, and a key in it

SHARED = ("logit_scale", "logit_bias")  # features of the model, not of a pair


def cached_backward(
    encode: Callable[[Batch], Features],
    losses: Callable[[Features, Batch], dict[str, Tensor]],
    batch: Batch,
    micro_batch: int,
    *,
    model: nn.Module,
    weigh: Callable[[Tensor], Tensor] = lambda loss: loss,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """Add the gradients of a batch to those of all parameters, as `weigh(losses(encode(batch), batch)["loss"])` would.

    Random numbers drawn by a micro-batch, of dropout for one, are the same both times. Across ranks that gather
    features in `losses`, each of them has to call this, and parameters get this rank's gradients; only the last
    micro-batch is outside `no_sync`, so DistributedDataParallel averages them once.

    Args:
        encode: the forward pass of both towers, such as `Trainer.encode`. All tensors that it gives, also those in
            mappings, have a row for each pair, but for `logit_scale` and `logit_bias`; it enters autocast, if at all,
            by itself.
        losses: named scalars, such as `Trainer.losses`; "loss" is minimised.
        batch: on the device.
        micro_batch: pairs that are encoded at once; the last one may have fewer.
        model: what `encode` computes with.
        weigh: what happens to the loss before its gradient is taken: divided by a number of steps, or scaled for fp16.
        no_sync: makes the context in which gradients stay with this rank, such as DistributedDataParallel's `no_sync`.

    Returns:
        The losses, detached.

    Raises:
        ConfigError: if `micro_batch` is less than 1, or the model normalises with the statistics of a batch.
    """
    if micro_batch < 1:
        raise ConfigError(f"micro_batch is {micro_batch}; expected at least 1")
    rows = len(batch.images)
    if micro_batch >= rows:
        named = losses(encode(batch), batch)
        weigh(named["loss"]).backward()  # type: ignore[no-untyped-call]
        return _detached(named)
    require_no_batch_statistics(model)
    parts = [_rows(batch, slice(start, start + micro_batch)) for start in range(0, rows, micro_batch)]

    states, cached = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(batch.images.device))
            cached.append(encode(part))
    leaves = _joined(cached)
    with no_sync():  # for losses that use parameters of the model
        named = losses(leaves, batch)
        weigh(named["loss"]).backward()  # type: ignore[no-untyped-call]

    with _kept_random_state(batch.images.device):
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            is_last = number == len(parts) - 1
            with nullcontext() if is_last else no_sync():
                _set_random_state(state, batch.images.device)
                _backward(encode(part), leaves, start=number * micro_batch, with_shared=is_last)
    return _detached(named)


def require_no_batch_statistics(model: nn.Module) -> None:
    """Raise ConfigError if a module normalises with the mean and variance of its batch: those of a part are others."""
    for name, module in model.named_modules():
        is_held = isinstance(module, FrozenBatchNorm2d) or not isinstance(module, _BatchNorm)
        if not is_held and (module.training or module.running_mean is None):
            raise ConfigError(
                f"{name or 'the model'} ({type(module).__name__}) normalises with the statistics of its batch, and "
                "those of a micro-batch are others, so gradients would not be the same. Hold them still (eval() on it, "
                "or lock_image_tower(freeze_bn_stats=True)), or leave micro_batch out"
            )


def _joined(cached: list[Features]) -> Features:
    """Features of parts to those of the batch, which remember their gradients."""
    tensors: dict[Place, Tensor] = {}
    for place, last in _tensors(cached[-1]).items():
        parts = [last] if place[0] in SHARED else [_tensors(features)[place] for features in cached]
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
    """Through the towers of one micro-batch, the gradients that the loss gave for its features."""
    roots, gradients = [], []
    whole = _tensors(leaves)
    for place, value in _tensors(features).items():
        is_shared, gradient = place[0] in SHARED, whole[place].grad
        if gradient is None or not value.requires_grad or (is_shared and not with_shared):
            continue
        roots.append(value)
        gradients.append(gradient if is_shared else gradient[start : start + len(value)])
    if roots:
        torch.autograd.backward(roots, gradients)


def _tensors(features: Features) -> dict[Place, Tensor]:
    """Each tensor by its field, and by its key where the field holds several."""
    found: dict[Place, Tensor] = {}
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
    """Of the CPU, and of the device if it is a CUDA device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def _kept_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Random numbers go on afterwards as if none had been drawn."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
