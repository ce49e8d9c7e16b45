"""Features to a scalar: contrastive losses, on one process or across ranks."""

from oneclip.losses.clip import ClipLoss

__all__ = ["ClipLoss"]
