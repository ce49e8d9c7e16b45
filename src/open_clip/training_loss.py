"""What `create_loss` reads of the arguments of a training to its loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from oneclip.errors import ConfigError
from open_clip.loss import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss

__all__ = ["create_loss"]


def create_loss(args: Any) -> nn.Module:
    """The loss of a training.

    Args:
        args: what `open_clip_train` has parsed: `distill`, `model`, `siglip`, then those of the loss itself.

    Raises:
        ConfigError: for the sigmoid loss with Horovod.
    """
    ranks = {"rank": args.rank, "world_size": args.world_size}
    if args.siglip and not args.distill and not _is_coca(args):
        if args.horovod:
            raise ConfigError("the sigmoid loss does not run under Horovod: use torch.distributed")
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
