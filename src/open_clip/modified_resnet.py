"""`open_clip.modified_resnet`: the ResNet tower of `oneclip.model` and its parts."""

from oneclip.model import AttentionPool2d, Bottleneck, ModifiedResNet

__all__ = ["AttentionPool2d", "Bottleneck", "ModifiedResNet"]
