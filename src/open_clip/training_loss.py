"""Create the loss for the arguments of `open_clip_train`."""

from __future__ import annotations

from typing import Any

from torch import nn

from oneclip.errors import ConfigError
from open_clip.loss import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss

__all__ = ["create_loss"]


def create_loss(args: Any) -> nn.Module:
    """Create the training loss.

    Args:
        args: parsed arguments of `open_clip_train`: `distill`, `model`, `siglip`, and those of the loss.

    Raises:
        ConfigError: if the sigmoid loss is used with Horovod.
    """
    ranks = {"rank": args.rank, "world_size": args.world_size}
    if args.siglip and not args.distill and not _is_coca(args):
        if args.horovod:
            raise ConfigError("the sigmoid loss does not support Horovod; use torch.distributed")
        return SigLipLoss(**ranks, dist_impl=args.loss_dist_impl)
    softmax = {
        **ranks,
        "local_loss": args.local_loss,
        "gather_with_grad": args.gather_with_grad,
        "cache_labels": True,
        "use_horovod": args.horovod,
    }
    if args.distill:
        return DistillClipLoss(**softmax)
    if _is_coca(args):
        weights = args.coca_caption_loss_weight, args.coca_contrastive_loss_weight
        return CoCaLoss(*weights, **softmax)
    return ClipLoss(**softmax)


def _is_coca(args: Any) -> bool:
    return "coca" in args.model.lower()
