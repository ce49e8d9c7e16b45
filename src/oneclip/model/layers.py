"""Small layers of towers: norms, activation, layer scale, dropout of patches and paths, frozen batch norm.

Shapes: B batch, L tokens, C width.
"""

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.errors import ConfigError


class LayerNorm(nn.LayerNorm):
    """Layer norm in the precision of its own weights, returned in the precision of its input.

    fp16 or bf16 activations under fp32 norm weights are thus normalized in fp32, as OpenAI's models expect.
    """

    def forward(self, x: Tensor) -> Tensor:  # its published name
        """Normalize the last dimension of `x`, (..., C) -> (..., C)."""
        out = F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)
        return out.to(x.dtype)


class LayerNormFp32(LayerNorm):
    """Layer norm computed in fp32, whatever the precision of input and weights; returned in that of the input."""

    def forward(self, x: Tensor) -> Tensor:  # its published name
        """Normalize the last dimension of `x`, (..., C) -> (..., C)."""
        weight = self.weight.float() if self.weight is not None else None
        bias = self.bias.float() if self.bias is not None else None
        out = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return out.to(x.dtype)


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation that OpenAI's models were trained with (Hendrycks & Gimpel 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each element."""
        return x * torch.sigmoid(1.702 * x)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021, CaiT).

    Args:
        dim: C.
        init_values: initial value of each factor.
        inplace: write the result into the input.
    """

    def __init__(self, dim: int, init_values: float = 1e-5, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.gamma = nn.Parameter(init_values * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x.mul_(self.gamma) if self.inplace else x * self.gamma


class PatchDropout(nn.Module):
    """Random removal of patches in training; the class token always stays (Li et al. 2022, FLIP).

    Args:
        prob: share of patches to remove, 0 <= prob < 1.
        exclude_first_token: the first token is a class token, and stays.

    Raises:
        ConfigError: if `prob` is not in that range.
    """

    def __init__(self, prob: float = 0.5, exclude_first_token: bool = True) -> None:
        super().__init__()
        self.prob = check_share("patch dropout", prob)
        self.exclude_first_token = exclude_first_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C), or (B, 1 + N, C) with a class token; in training max(1, int(N (1 - prob))) patches stay."""
        if not self.training or self.prob == 0.0:
            return x
        first = 1 if self.exclude_first_token else 0
        class_token, patches = x[:, :first], x[:, first:]
        kept = max(1, int(patches.shape[1] * (1 - self.prob)))
        # drawn on the CPU from a normal distribution, as published, so that a seed selects the same patches
        chosen = torch.randn(patches.shape[0], patches.shape[1]).topk(kept, dim=-1).indices  # (B, kept)
        rows = torch.arange(patches.shape[0])[:, None]
        return torch.cat([class_token, patches[rows, chosen]], dim=1)


class DropPath(nn.Module):
    """Random removal of a residual branch for some samples in training (Huang et al. 2016).

    Args:
        drop_prob: share of samples, 0 <= drop_prob < 1; the other samples are scaled up to keep the mean.

    Raises:
        ConfigError: if `drop_prob` is not in that range.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = check_share("drop path", drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C), with some samples set to zero."""
        if not self.training or self.drop_prob == 0.0:
            return x
        kept = 1 - self.drop_prob
        return x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(kept) / kept)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics never change, in any mode; parameter names as in `nn.BatchNorm2d`."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), with the running statistics."""
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """timm's batch norm with an activation, its statistics frozen."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.act(self.drop(super().forward(input)))


def is_unfrozen_batch_norm(module: nn.Module) -> bool:
    """Return True if a module is a batch norm whose statistics change in training."""
    return isinstance(module, nn.BatchNorm2d) and not isinstance(module, FrozenBatchNorm2d)


def freeze_norm(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """Make a frozen batch norm that shares the tensors of another, and its activation if it has one."""
    kind = FrozenBatchNormAct2d if hasattr(norm, "act") else FrozenBatchNorm2d
    same = kind(norm.num_features, eps=norm.eps, device="meta")
    same._parameters, same._buffers, same._modules = norm._parameters, norm._buffers, norm._modules
    return same.train(norm.training)


def freeze_batch_norm(module: nn.Module, keep: Collection[nn.Module] = ()) -> None:
    """Replace every batch norm below `module`, except below `keep`, by a frozen one that shares its tensors."""
    for name, child in module.named_children():
        if child in keep:
            continue
        if is_unfrozen_batch_norm(child):
            setattr(module, name, freeze_norm(cast(nn.BatchNorm2d, child)))
        else:
            freeze_batch_norm(child, keep)


def make_activation(quick_gelu: bool, act_kwargs: dict[str, str] | None) -> nn.Module:
    """Make a QuickGELU, or a GELU with the keyword arguments of `nn.GELU` (`{"approximate": "tanh"}`)."""
    return QuickGELU() if quick_gelu else nn.GELU(**(act_kwargs or {}))


def lowest_precision(module: nn.Module) -> torch.dtype:
    """Return the lowest precision among a module's floating-point parameters, which is that of its features."""
    dtypes = {parameter.dtype for parameter in module.parameters()}
    return next((low for low in (torch.float16, torch.bfloat16) if low in dtypes), torch.float32)


def check_share(what: str, prob: float) -> float:
    """Return `prob` if it is a valid share.

    Raises:
        ConfigError: unless 0 <= prob < 1.
    """
    if not 0 <= prob < 1:
        raise ConfigError(f"{what} is {prob}; expected a share from 0 to less than 1")
    return prob
