"""`open_clip.modified_resnet`: the ResNet tower and its parts."""

from oneclip.model import AttentionPool2d, Bottleneck, ModifiedResNet
from open_clip.utils import feature_take_indices, freeze_batch_norm_2d

__all__ = [
    "AttentionPool2d",
    "Bottleneck",
    "ModifiedResNet",
    "feature_take_indices",
    "freeze_batch_norm_2d",
]
