"""`open_clip.loss`: the losses of `oneclip.losses`, and how features travel between ranks, under published names."""

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
    """The features of one rank, (B, D) each, to those of all ranks, (world_size * B, D).

    Args:
        local_loss: without `gather_with_grad`, let this rank's own rows go in without their gradient, too.
        gather_with_grad: let gradients flow to the ranks that the rows came from.

    Raises:
        ConfigError: on `use_horovod`, or if torch.distributed is not initialised with that number of ranks.
    """
    if use_horovod:
        raise ConfigError("features are gathered through torch.distributed; Horovod is not supported")
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
