"""Features of each cell of an image in the joint embedding, in one pass of the image tower.

The tower's own modules are called from here; nothing is added to them, so there is nothing to undo.

Shapes: H, W pixels, R, C rows and columns of cells, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.checkpoint.interpolate_pos_embed import resize_grid
from oneclip.model.resnet import ModifiedResNet

Dense = Callable[[Any, Tensor], Tensor]


def dense_features(visual: nn.Module) -> Dense | None:
    """Return the function (tower, pixels (1, 3, H, W)) -> (R, C, D) of a tower's family; None if there is none."""
    if isinstance(visual, ModifiedResNet):
        return resnet_features
    return None


def resnet_features(tower: ModifiedResNet, pixels: Tensor) -> Tensor:
    """Return the values of the attention pool, projected per cell (Zhou et al. 2022, MaskCLIP)."""
    x = tower.stem(pixels)
    for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        x = stage(x)
    rows, columns = x.shape[2:]
    pool = tower.attnpool
    positions = resize_grid(pool.positional_embedding, (rows, columns), name="visual.attnpool")[1:]
    x = x[0].flatten(1).T + positions.to(x.dtype)  # (R C, width)
    x = F.linear(x, pool.v_proj.weight, pool.v_proj.bias)
    x = F.linear(x, pool.c_proj.weight, pool.c_proj.bias)
    return x.reshape(rows, columns, -1)
