"""Fine-tuning with less forgetting: methods, LoRA, distillation and WiSE-FT."""

from oneclip.config.finetune import METHODS, FinetuneCfg
from oneclip.train.finetune.lora import Lora
from oneclip.train.finetune.reference_task import (
    REFERENCE_CHOICES,
    has_bundled_reference,
    open_reference_task,
)
from oneclip.train.finetune.report_section import gained_and_forgotten
from oneclip.train.finetune.run import FinetuneResult, finetune
from oneclip.train.finetune.wise_ft import (
    AlphaPoint,
    AlphaSweep,
    evaluate_alphas,
    interpolate,
    select_alpha,
)

__all__ = [
    "METHODS",
    "REFERENCE_CHOICES",
    "AlphaPoint",
    "AlphaSweep",
    "FinetuneCfg",
    "FinetuneResult",
    "Lora",
    "evaluate_alphas",
    "finetune",
    "gained_and_forgotten",
    "has_bundled_reference",
    "interpolate",
    "open_reference_task",
    "select_alpha",
]
