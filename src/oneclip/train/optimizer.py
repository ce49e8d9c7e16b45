"""Optimizer of a training, with parameter groups for weight decay and layer-wise learning rates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError
from oneclip.train.distributed.parallel import is_dtensor
from oneclip.train.layer_depth import layers_above, tower_parameters

NO_DECAY = re.compile(r"bn|ln|bias|logit_scale")


def has_weight_decay(name: str, parameter: Tensor) -> bool:
    """Return False for norms, biases, the logit scale and other one-dimensional parameters."""
    return parameter.ndim >= 2 and NO_DECAY.search(name) is None


def parameter_groups(
    modules: Iterable[nn.Module],
    weight_decay: float,
    layer_decay: float = 1.0,
    image_scale: float = 1.0,
    text_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Group the trainable parameters for an optimizer. Shared parameters appear once.

    Full tensors and shards are in separate groups, because a fused update cannot take both.

    Args:
        modules: modules to train.
        weight_decay: weight decay of parameters with `has_weight_decay`.
        layer_decay: factor of the learning rate for each layer above a parameter (Bao et al. 2022, BEiT); see
            `layers_above`. 1.0: one rate for all.
        image_scale, text_scale: factors of the learning rate of each tower.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`, a factor of the learning rate. Groups without weight decay
        come first, then lower layers before upper ones.

    Raises:
        ConfigError: if the layers of a tower are unknown.
    """
    modules = list(modules)
    named = {p: name for module in modules for name, p in module.named_parameters() if p.requires_grad}
    above = layers_above(modules) if layer_decay != 1.0 else {}
    scales: dict[Tensor, float] = {}
    for side, scale in zip(tower_parameters(modules), (image_scale, text_scale), strict=True):
        scales |= dict.fromkeys(side, scale)
    groups: dict[tuple[float, float, bool], list[Tensor]] = {}
    for p, name in named.items():
        decay = weight_decay if has_weight_decay(name, p) else 0.0
        scale = scales.get(p, 1.0) * layer_decay ** above.get(p, 0)
        groups.setdefault((decay, scale, is_dtensor(p)), []).append(p)
    return [{"params": groups[key], "weight_decay": key[0], "lr_scale": key[1]} for key in sorted(groups)]


def lock_towers(model: nn.Module, cfg: TrainCfg) -> None:
    """Freeze towers with a learning rate of 0.

    Raises:
        ConfigError: if a tower has its own learning rate, but the model has no such tower.
    """
    for side, name in zip(tower_parameters([model]), ("image_lr", "text_lr"), strict=True):
        lr = getattr(cfg, name)
        if lr is not None and not side:
            raise ConfigError(
                f"{name} is set, but the towers of {type(model).__name__} are unknown; do not set it"
            )
        if lr == 0:
            for parameter in side:
                parameter.requires_grad_(False)


def make_optimizer(modules: Iterable[nn.Module], cfg: TrainCfg) -> torch.optim.Optimizer:
    """Make the fused optimizer of the settings for the trainable parameters of the modules.

    Raises:
        ConfigError: if `layer_decay` is set and the layers of a tower are unknown.
    """
    modules = list(modules)
    scales = [1.0 if lr is None else lr / cfg.lr for lr in (cfg.image_lr, cfg.text_lr)]
    groups = parameter_groups(modules, cfg.weight_decay, cfg.layer_decay, *scales)
    for group in groups:
        group["lr"] = cfg.lr * group["lr_scale"]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True)
