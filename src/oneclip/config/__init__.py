"""Configurations of models, preprocessing, augmentation, training and fine-tuning. Importing them loads no torch."""

from oneclip.config.augment import AugmentCfg
from oneclip.config.finetune import FinetuneCfg
from oneclip.config.model import (
    INIT_LOGIT_SCALE,
    OPENAI_MEAN,
    OPENAI_STD,
    CLIPTextCfg,
    CLIPVisionCfg,
    ModelCfg,
    MultimodalCfg,
    PreprocessCfg,
    as_pair,
)
from oneclip.config.run import RunCfg
from oneclip.config.training import TrainCfg

__all__ = [
    "INIT_LOGIT_SCALE",
    "OPENAI_MEAN",
    "OPENAI_STD",
    "AugmentCfg",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "FinetuneCfg",
    "ModelCfg",
    "MultimodalCfg",
    "PreprocessCfg",
    "RunCfg",
    "TrainCfg",
    "as_pair",
]
