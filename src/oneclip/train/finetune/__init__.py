"""Fine-tuning that does not forget: a model and a table to the model with a new task learned, and the old ones kept.

Importing this package loads no torch: the command line reads its settings from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneclip.train.finetune.before import CHOICES, before_task, has_a_sample
    from oneclip.train.finetune.config import WAYS, FinetuneCfg
    from oneclip.train.finetune.lora import Lora
    from oneclip.train.finetune.run import FinetuneResult, finetune
    from oneclip.train.finetune.section import gained_and_forgotten
    from oneclip.train.finetune.wise import Path, Point, choose, interpolate, walk

_MODULES = {
    "before": ("CHOICES", "before_task", "has_a_sample"),
    "config": ("WAYS", "FinetuneCfg"),
    "lora": ("Lora",),
    "run": ("FinetuneResult", "finetune"),
    "section": ("gained_and_forgotten",),
    "wise": ("Path", "Point", "choose", "interpolate", "walk"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CHOICES",
    "WAYS",
    "FinetuneCfg",
    "FinetuneResult",
    "Lora",
    "Path",
    "Point",
    "before_task",
    "choose",
    "finetune",
    "gained_and_forgotten",
    "has_a_sample",
    "interpolate",
    "walk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
