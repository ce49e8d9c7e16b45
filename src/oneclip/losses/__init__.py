"""Training losses: contrastive, captioning and distillation, on one process or across ranks."""

from oneclip.losses.clip import ClipLoss
from oneclip.losses.coca import CoCaLoss
from oneclip.losses.distill import DistillClipLoss
from oneclip.losses.siglip import SigLipLoss

__all__ = ["ClipLoss", "CoCaLoss", "DistillClipLoss", "SigLipLoss"]
