"""Fine-tuning that does not forget: a model and a table to the model with a new task learned, and the old ones kept."""

from oneclip.train.finetune.before import CHOICES, before_task, has_a_sample
from oneclip.train.finetune.config import WAYS, FinetuneCfg
from oneclip.train.finetune.lora import Lora
from oneclip.train.finetune.run import FinetuneResult, finetune
from oneclip.train.finetune.section import gained_and_forgotten
from oneclip.train.finetune.wise import Path, Point, choose, interpolate, walk

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
