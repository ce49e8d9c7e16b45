"""A step number to a learning rate."""

from __future__ import annotations

import math

from oneclip.config.training import TrainCfg


def learning_rate(step: int, cfg: TrainCfg) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, then half a cosine down to `final_lr`, or constant.

    A constant rate may fall to `final_lr` in a straight line in its last steps (Zhai et al. 2022, "Scaling vision
    transformers", section 3.5): what comes before does not depend on where the training ends.

    The last warm-up step and the first after it both have `cfg.lr`; after `cfg.steps` the rate stays.
    """
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        done = min(1.0, max(0.0, (step - (cfg.steps - cfg.cooldown)) / max(1, cfg.cooldown)))
        return cfg.lr + (cfg.final_lr - cfg.lr) * done if cfg.cooldown else cfg.lr
    progress = min(1.0, (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
    return cfg.final_lr + (cfg.lr - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
