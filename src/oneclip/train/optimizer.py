"""A model to its optimizer: AdamW, with weight decay only where it belongs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.train.config import TrainCfg

NO_DECAY = re.compile(r"bn|ln|bias|logit_scale")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to norms, biases, the logit scale, nor anything one-dimensional."""
    return parameter.ndim >= 2 and NO_DECAY.search(name) is None


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, without decay and with; one that modules share counts once."""
    named = {p: name for module in modules for name, p in module.named_parameters() if p.requires_grad}
    plain = [p for p, name in named.items() if not decays(name, p)]
    decayed = [p for p, name in named.items() if decays(name, p)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    return [group for group in groups if group["params"]]


def make_optimizer(modules: Iterable[nn.Module], cfg: TrainCfg) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of the modules (Loshchilov & Hutter 2019), in its fused form."""
    groups = parameter_groups(modules, cfg.weight_decay)
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=True)
