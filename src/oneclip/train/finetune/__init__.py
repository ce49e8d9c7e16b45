"""Fine-tuning that keeps what a model could do: methods, LoRA, a teacher, and WiSE-FT afterwards."""

from oneclip.config.finetune import WAYS, FinetuneCfg
from oneclip.train.finetune.lora import Lora
from oneclip.train.finetune.reference_task import CHOICES, before_task, has_a_sample
from oneclip.train.finetune.report_section import gained_and_forgotten
from oneclip.train.finetune.run import FinetuneResult, finetune
from oneclip.train.finetune.wise_ft import Path, Point, choose, interpolate, walk

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
