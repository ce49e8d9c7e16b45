"""LeGrad: how much attention to each patch would add to the similarity of image and text (Bousselham et al. 2024).

For each block, the tokens behind it are pooled and projected as behind the last one, and compared with the text. The
gradient of this similarity with respect to the attention weights, where it is positive, is averaged over heads, queries
and blocks. A weight multiplies the value of a patch, so the gradient is the product of that value with the gradient of
the attention's output, and the weights themselves are not needed.

Shapes: T texts, L tokens, H heads, E width of a head, D joint embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.explain.towers import TokenTower


def legrad(tower: TokenTower, pixels: Tensor, directions: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Compute the sensitivity of each patch.

    Args:
        tower: of the model, in evaluation mode.
        pixels: (1, 3, H, W).
        directions: (T, D), what the features are multiplied with: a text embedding, or a difference of several.

    Returns:
        (T, N) float32, 0 and above, and the rows and columns of the N patches.
    """
    layers = list(range(len(tower.blocks)))
    with torch.no_grad():
        inputs, grid = tower.embed(pixels, layers)
    shares = [
        _block_sensitivity(tower, index, x, directions) for index, x in zip(layers, inputs, strict=True)
    ]
    return torch.stack(shares).mean(dim=0), grid


def _block_sensitivity(tower: TokenTower, index: int, x: Tensor, directions: Tensor) -> Tensor:
    """Return the sensitivity of each patch (T, N) to the attention of one block with the input x (1, L, C)."""
    block, count = tower.blocks[index], len(directions)
    # the class token behind a block depends on no other query of that block
    queries = slice(0, 1) if tower.pooling == "token" else slice(None)
    with torch.no_grad():
        q, k, v = block.split(x)
        heads = F.scaled_dot_product_attention(q[:, :, queries], k, v)  # (1, H, queries, E)
    with torch.enable_grad():
        heads = heads.expand(count, -1, -1, -1).clone().requires_grad_()  # one for each text
        tokens = block.finish(x[:, queries] + block.merge(heads))
        features = tower.project(tokens[:, 0]) if tower.pooling == "token" else tower.pool(tokens)
        similarity = (F.normalize(features.float(), dim=-1) * directions).sum()
        (gradient,) = torch.autograd.grad(similarity, heads)
    sensitivity = (gradient @ v.transpose(-2, -1)).clamp(min=0)  # (T, H, queries, L)
    return sensitivity.float().mean(dim=(1, 2))[:, tower.prefix :]
