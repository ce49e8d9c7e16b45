"""`open_clip.loss`: losses, and the exchange of features between ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from oneclip.errors import ConfigError
from oneclip.losses import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss
from oneclip.losses.gather import gather_rows
from oneclip.losses.neighbour_exchange import (
    NeighbourExchange,
    NeighbourExchangeBidir,
    neighbour_exchange,
    neighbour_exchange_bidir,
    neighbour_exchange_bidir_with_grad,
    neighbour_exchange_with_grad,
)

__all__ = [
    "ClipLoss",
    "CoCaLoss",
    "DistillClipLoss",
    "NeighbourExchange",
    "NeighbourExchangeBidir",
    "SigLipLoss",
    "gather_features",
    "neighbour_exchange",
    "neighbour_exchange_bidir",
    "neighbour_exchange_bidir_with_grad",
    "neighbour_exchange_with_grad",
]


has_distributed = torch.distributed.is_available()
hvd = None  # Horovod is not supported


def gather_features(
    image_features: Tensor,
    text_features: Tensor,
    local_loss: bool = False,
    gather_with_grad: bool = False,
    rank: int = 0,
    world_size: int = 1,
    use_horovod: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gather the features of all ranks: from (B, D) each to (world_size * B, D).

    Args:
        local_loss: without `gather_with_grad`, detach this rank's own rows as well.
        gather_with_grad: send gradients back to the ranks that the rows came from.

    Raises:
        ConfigError: on `use_horovod`, or if torch.distributed is not initialized with `world_size` ranks.
    """
    if use_horovod:
        raise ConfigError(
            "gather_features uses torch.distributed and does not support Horovod; leave use_horovod out"
        )
    images, texts = (
        gather_rows(
            features,
            rank=rank,
            world_size=world_size,
            with_grad=gather_with_grad,
            keep_local=not local_loss,
        )
        for features in (image_features, text_features)
    )
    return images, texts
