"""A model to its optimizer: weight decay only where it belongs, lower layers at lower rates if that is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.config.training import TrainCfg
from oneclip.errors import ConfigError
from oneclip.train.distributed.parallel import is_shard
from oneclip.train.layer_depth import layers_above, tower_parameters

NO_DECAY = re.compile(r"bn|ln|bias|logit_scale")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to norms, biases, the logit scale, nor anything one-dimensional."""
    return parameter.ndim >= 2 and NO_DECAY.search(name) is None


def parameter_groups(
    modules: Iterable[nn.Module],
    weight_decay: float,
    layer_decay: float = 1.0,
    image_scale: float = 1.0,
    text_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups for an optimizer; one that modules share counts once.

    Whole parameters and shards are in groups of their own, because no fused update takes both.

    Args:
        modules: whose parameters are trained.
        weight_decay: of the parameters that have any, see `decays`.
        layer_decay: of the learning rate, for each layer that lies above a parameter's (Bao et al. 2022, BEiT); see
            `layers_above`. 1.0: all learn at the same rate.
        image_scale, text_scale: what the learning rate of each tower is multiplied by.

    Returns:
        Groups with `params`, `weight_decay` and `lr_scale`, which the learning rate of the group is to be multiplied
        by; those without weight decay first, then from the lowest layer up.

    Raises:
        ConfigError: if the layers of a tower are not known.
    """
    modules = list(modules)
    named = {p: name for module in modules for name, p in module.named_parameters() if p.requires_grad}
    above = layers_above(modules) if layer_decay != 1.0 else {}
    scales: dict[Tensor, float] = {}
    for side, scale in zip(tower_parameters(modules), (image_scale, text_scale), strict=True):
        scales |= dict.fromkeys(side, scale)
    groups: dict[tuple[float, float, bool], list[Tensor]] = {}
    for p, name in named.items():
        decay = weight_decay if decays(name, p) else 0.0
        scale = scales.get(p, 1.0) * layer_decay ** above.get(p, 0)
        groups.setdefault((decay, scale, is_shard(p)), []).append(p)
    return [{"params": groups[key], "weight_decay": key[0], "lr_scale": key[1]} for key in sorted(groups)]


def lock_towers(model: nn.Module, cfg: TrainCfg) -> None:
    """Lock the towers whose learning rate is 0.

    Raises:
        ConfigError: if a tower has a rate of its own, and the model has no such tower.
    """
    for side, name in zip(tower_parameters([model]), ("image_lr", "text_lr"), strict=True):
        lr = getattr(cfg, name)
        if lr is not None and not side:
            raise ConfigError(
                f"{name} is set, and {type(model).__name__} has no towers that are known; leave it out"
            )
        if lr == 0:
            for parameter in side:
                parameter.requires_grad_(False)


def make_optimizer(modules: Iterable[nn.Module], cfg: TrainCfg) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over the trainable parameters of the modules, in its fused form.

    Raises:
        ConfigError: if `layer_decay` is set and the layers of a tower are not known.
    """
    modules = list(modules)
    scales = [1.0 if lr is None else lr / cfg.lr for lr in (cfg.image_lr, cfg.text_lr)]
    groups = parameter_groups(modules, cfg.weight_decay, cfg.layer_decay, *scales)
    for group in groups:
        group["lr"] = cfg.lr * group["lr_scale"]
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True)
