"""How a model learns: batches, steps, checkpoints that resume exactly.

Importing this package loads no torch: the command line reads its settings from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneclip.train.batches import Batch, BatchSource, Prefetcher, Prepare
    from oneclip.train.checkpoints import latest_checkpoint, read_checkpoint
    from oneclip.train.config import TrainCfg
    from oneclip.train.distributed import World, join, leave
    from oneclip.train.loop import Outcome, Reporter, Trainer
    from oneclip.train.metrics import Report
    from oneclip.train.objectives import Objective, make_objective
    from oneclip.train.optimizer import make_optimizer, parameter_groups
    from oneclip.train.progress import ProgressBar
    from oneclip.train.schedule import learning_rate
    from oneclip.train.settings import RunCfg
    from oneclip.train.shards import consolidate
    from oneclip.train.towers import Features

_MODULES = {
    "batches": ("Batch", "BatchSource", "Prefetcher", "Prepare"),
    "checkpoints": ("latest_checkpoint", "read_checkpoint"),
    "config": ("TrainCfg",),
    "distributed": ("World", "join", "leave"),
    "loop": ("Outcome", "Reporter", "Trainer"),
    "metrics": ("Report",),
    "objectives": ("Objective", "make_objective"),
    "optimizer": ("make_optimizer", "parameter_groups"),
    "progress": ("ProgressBar",),
    "schedule": ("learning_rate",),
    "settings": ("RunCfg",),
    "shards": ("consolidate",),
    "towers": ("Features",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Batch",
    "BatchSource",
    "Features",
    "Objective",
    "Outcome",
    "Prefetcher",
    "Prepare",
    "ProgressBar",
    "Report",
    "Reporter",
    "RunCfg",
    "TrainCfg",
    "Trainer",
    "World",
    "consolidate",
    "join",
    "latest_checkpoint",
    "learning_rate",
    "leave",
    "make_objective",
    "make_optimizer",
    "parameter_groups",
    "read_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
