"""`open_clip.loss`: the losses of `oneclip.losses` under their published import path."""

from oneclip.losses import ClipLoss

__all__ = ["ClipLoss"]
