"""Copy a state dict into a model: all tensors, or none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oneclip.errors import CheckpointError, CheckpointMismatchError

RECOMPUTED = ("attn_mask", "position_ids", "relative_position_index", "token_type_ids")
FLAT_TEXT_NAMES = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)


def load_into(model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str = "the checkpoint") -> None:
    """Copy tensors into a model; names and shapes are compared before anything is copied.

    Values are converted to the model's dtypes and devices. Integers are never converted to floating-point weights.

    Args:
        model: with its parameters in memory, not on the meta device.
        state_dict: tensors by the model's names.
        source: of the tensors, for messages.

    Raises:
        CheckpointMismatchError: if keys are missing or unexpected, or shapes differ; it lists them.
        CheckpointError: if a dtype cannot be converted without changing the meaning of its values.
    """
    own = model.state_dict()
    given = fix_old_checkpoints(own, state_dict)
    # Files written before PyTorch 0.4.1 have no `num_batches_tracked`; the model keeps its default.
    missing = [name for name in own if name not in given and name.rpartition(".")[2] != "num_batches_tracked"]
    unexpected = [name for name in given if name not in own]
    both = [(name, given[name], own[name]) for name in own if name in given]
    reshaped = [(name, tuple(g.shape), tuple(o.shape)) for name, g, o in both if g.shape != o.shape]
    if missing or unexpected or reshaped:
        raise CheckpointMismatchError(source, missing, unexpected, reshaped)
    for name, tensor, target in both:
        if target.is_meta:
            raise CheckpointError(
                f"{name} of the model is on the meta device; move the model with to_empty first"
            )
        if (
            tensor.is_floating_point() != target.is_floating_point()
            or tensor.is_complex() != target.is_complex()
        ):
            found, expected = (str(t.dtype).removeprefix("torch.") for t in (tensor, target))
            raise CheckpointError(
                f"{source} does not fit the model: {name} has dtype {found}; expected {expected}"
            )
    with torch.no_grad():
        for _, tensor, target in both:
            target.copy_(tensor)


def fix_old_checkpoints(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapt tensors of older files to the names and shapes of a model.

    - Causal masks and position ids, which were stored in the past and are computed now, are dropped.
    - A scale or bias of one number is reshaped if it was stored with or without an axis.
    - The text tower of a `CLIP` gets the prefix `text.` if the model has it as a separate module.

    Args:
        own: state dict of the model.
        given: tensors of the file.
    """
    fixed: dict[str, Tensor] = {}
    is_flat = "text.token_embedding.weight" in own and "token_embedding.weight" in given
    for name, tensor in given.items():
        if name not in own and name.rpartition(".")[2] in RECOMPUTED:
            continue
        if is_flat and name not in own and name.startswith(FLAT_TEXT_NAMES):
            name = f"text.{name}"
        is_scale = name in ("logit_scale", "logit_bias") and name in own
        if is_scale and tensor.numel() == own[name].numel() == 1:
            tensor = tensor.reshape(own[name].shape)
        fixed[name] = tensor
    return fixed
