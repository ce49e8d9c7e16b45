"""`open_clip.utils`: small helpers that training programs import."""

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
    """Batch norm whose weights and statistics are constants: buffers, which no optimizer sees."""

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
        """(B, C, H, W) to the same."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def freeze_batch_norm_2d(module: nn.Module, module_match: Collection[str] = (), name: str = "") -> nn.Module:
    """Replace every batch norm of pictures in a module by one that does not change.

    Args:
        module: anything; it is changed in place.
        module_match: dotted names of the norms to freeze; all if empty.
        name: the module's own dotted name.

    Returns:
        The module, or what replaces it if it is a batch norm itself.
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
    """Make the function that gives its argument if it can be iterated over, else a tuple of it n times."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, Iterable) else tuple(repeat(x, n))

    return parse


to_1tuple, to_2tuple, to_3tuple, to_4tuple = map(_ntuple, (1, 2, 3, 4))


def to_ntuple(n: int, x: Any) -> Any:
    """`x` if it can be iterated over, else `x` n times."""
    return _ntuple(n)(x)


def replace_linear(
    model: nn.Module,
    linear_replacement: Callable[[int, int, bool], nn.Module],
    include_modules: Collection[str] = ("c_fc", "c_proj"),
    copy_weights: bool = True,
) -> nn.Module:
    """Replace the linear layers of these names, such as by those of bitsandbytes.

    Args:
        model: changed in place.
        linear_replacement: makes a layer of (in_features, out_features, whether it has a bias).
        include_modules: the last parts of the names of the layers to replace.
        copy_weights: whether the new layers get the weights of the old ones.

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
    """Let every layer that has a form for evaluation take it, and remember the dtype its weights had."""
    for module in model.modules():
        if hasattr(module, "prepare_for_eval"):
            layer: Any = module
            dtype = layer.weight.dtype
            layer.prepare_for_eval()
            layer.int8_original_dtype = dtype


def feature_take_indices(
    num_features: int, indices: int | Sequence[int] | None = None, as_set: bool = False
) -> tuple[list[int] | set[int], int]:
    """Which of a tower's features are meant.

    Args:
        num_features: how many there are.
        indices: all (None), the last n (int), or those listed; negative ones count from the end.
        as_set: give a set instead of a list.

    Returns:
        The indices from the start, and the greatest of them.

    Raises:
        ConfigError: for what is not there.
    """
    wanted = range(-num_features, 0) if indices is None else indices
    if isinstance(wanted, int):
        if not 0 < wanted <= num_features:
            raise ConfigError(
                f"the last {wanted} of {num_features} features are not there (1 to {num_features})"
            )
        wanted = range(-wanted, 0)
    taken = [num_features + index if index < 0 else index for index in wanted]
    for index in taken:
        if not 0 <= index < num_features:
            raise ConfigError(f"feature {index} is not there (0 to {num_features - 1})")
    return (set(taken) if as_set else taken), max(taken)


def _out_indices_as_tuple(x: int | Sequence[int]) -> tuple[int, ...]:
    """Indices as a tuple; a number stands for the last n."""
    return tuple(range(-x, 0)) if isinstance(x, int) else tuple(x)
