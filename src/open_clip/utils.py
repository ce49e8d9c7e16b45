"""`open_clip.utils`: helpers for training programs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError

__all__ = [
    "FrozenBatchNorm2d",
    "convert_int8_model_to_inference_mode",
    "feature_take_indices",
    "freeze_batch_norm_2d",
    "replace_linear",
    "to_1tuple",
    "to_2tuple",
    "to_3tuple",
    "to_4tuple",
    "to_ntuple",
]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with constant weights and statistics, stored as buffers."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps, self.affine = num_features, eps, True
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) feature maps."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def freeze_batch_norm_2d(module: nn.Module, module_match: Collection[str] = (), name: str = "") -> nn.Module:
    """Replace the 2d batch norms of a module by frozen ones.

    Args:
        module: any module; changed in place.
        module_match: dotted names of the norms to freeze; all if empty.
        name: dotted name of the module itself.

    Returns:
        The module, or its replacement if it is a batch norm itself.
    """
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and (not module_match or name in module_match):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        frozen.affine = module.affine
        for key in ("weight", "bias", "running_mean", "running_var"):
            if (value := getattr(module, key)) is not None:
                setattr(frozen, key, value.detach().clone())
        return frozen.train(module.training)
    for child_name, child in module.named_children():
        replaced = freeze_batch_norm_2d(child, module_match, f"{name}.{child_name}" if name else child_name)
        if replaced is not child:
            setattr(module, child_name, replaced)
    return module


def _ntuple(n: int) -> Callable[[Any], Any]:
    """Make a function that returns iterables unchanged, and repeats other values `n` times."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, Iterable) else tuple(repeat(x, n))

    return parse


to_1tuple, to_2tuple, to_3tuple, to_4tuple = map(_ntuple, (1, 2, 3, 4))


def to_ntuple(n: int, x: Any) -> Any:
    """Return `x` if it is iterable, else a tuple with `x` repeated `n` times."""
    return _ntuple(n)(x)


def replace_linear(
    model: nn.Module,
    linear_replacement: Callable[[int, int, bool], nn.Module],
    include_modules: Collection[str] = ("c_fc", "c_proj"),
    copy_weights: bool = True,
) -> nn.Module:
    """Replace linear layers by name, for example by those of bitsandbytes.

    Args:
        model: changed in place.
        linear_replacement: makes a layer from (in_features, out_features, has_bias).
        include_modules: last parts of the names of the layers to replace.
        copy_weights: copy the weights into the new layers.

    Returns:
        The model.
    """
    for name, module in model.named_children():
        replace_linear(module, linear_replacement, include_modules, copy_weights)
        if isinstance(module, nn.Linear) and name in include_modules:
            replaced: Any = linear_replacement(
                module.in_features, module.out_features, module.bias is not None
            )
            if copy_weights:
                replaced.weight.data.copy_(module.weight.data)
                if replaced.bias is not None:
                    replaced.bias.data.copy_(module.bias.data)
            setattr(model, name, replaced)
    return model


def convert_int8_model_to_inference_mode(model: nn.Module) -> None:
    """Call `prepare_for_eval` on every layer that has it, and store the original dtype of its weights."""
    for module in model.modules():
        if hasattr(module, "prepare_for_eval"):
            layer: Any = module
            dtype = layer.weight.dtype
            layer.prepare_for_eval()
            layer.int8_original_dtype = dtype


def feature_take_indices(
    num_features: int, indices: int | Sequence[int] | None = None, as_set: bool = False
) -> tuple[list[int] | set[int], int]:
    """Normalize the indices of a tower's features.

    Args:
        num_features: number of features.
        indices: None for all, a number n for the last n, or a list; negative indices count from the end.
        as_set: return a set instead of a list.

    Returns:
        The indices from the start, and the largest of them.

    Raises:
        ConfigError: for an index out of range.
    """
    requested = range(-num_features, 0) if indices is None else indices
    if isinstance(requested, int):
        if not 0 < requested <= num_features:
            raise ConfigError(
                f"cannot take the last {requested} of {num_features} features; expected 1 to {num_features}"
            )
        requested = range(-requested, 0)
    taken = [num_features + index if index < 0 else index for index in requested]
    for index in taken:
        if not 0 <= index < num_features:
            raise ConfigError(f"feature index {index} is out of range; expected 0 to {num_features - 1}")
    return (set(taken) if as_set else taken), max(taken)


def _out_indices_as_tuple(x: int | Sequence[int]) -> tuple[int, ...]:
    """Return indices as a tuple; a number n means the last n."""
    return tuple(range(-x, 0)) if isinstance(x, int) else tuple(x)
