"""Learning rate schedules."""

from __future__ import annotations

import math

from oneclip.config.training import TrainCfg


def learning_rate(step: int, cfg: TrainCfg) -> float:
    """Compute the learning rate of a step: linear warm-up, then half a cosine down to `final_lr`, or constant.

    With `cooldown`, a constant rate falls linearly to `final_lr` in the last steps (Zhai et al. 2022, "Scaling vision
    transformers", section 3.5). Earlier steps then do not depend on the length of the training.

    The last warm-up step and the next step both have `cfg.lr`. After `cfg.steps` the rate stays the same.
    """
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        done = min(1.0, max(0.0, (step - (cfg.steps - cfg.cooldown)) / max(1, cfg.cooldown)))
        return cfg.lr + (cfg.final_lr - cfg.lr) * done if cfg.cooldown else cfg.lr
    progress = min(1.0, (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
    return cfg.final_lr + (cfg.lr - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
