"""Image towers as heat maps see them: tokens on a grid, the last block, and the way from a token to an embedding.

The tower's own modules are called from here. Nothing is added to them, so there is nothing to undo afterwards.

Shapes: H, W pixels, N patches, L tokens (prefix and patches), R, C rows and columns of cells, D joint embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.checkpoint.interpolate_pos_embed import resize_grid
from oneclip.config import as_pair
from oneclip.errors import ConfigError
from oneclip.explain.blocks import BlockView, attend_to_similar, view_block
from oneclip.model.resnet import AttentionPool2d, ModifiedResNet
from oneclip.model.siglip import SigLIPVision
from oneclip.model.timm_tower import TimmTower
from oneclip.model.vision import VisionTransformer

POOLINGS = ("token", "mean", "attention")


class DenseTower(Protocol):
    """Image tower whose cells can be compared with texts."""

    def cells(self, pixels: Tensor) -> Tensor:
        """Encode each cell of an image (1, 3, H, W) in the joint embedding: (R, C, D), not normalized."""
        ...


@dataclass(frozen=True)
class ResNetTower:
    """A ResNet: the values of its attention pool, projected for each cell (Zhou et al. 2022, MaskCLIP)."""

    tower: ModifiedResNet

    def cells(self, pixels: Tensor) -> Tensor:
        """See `DenseTower`."""
        tower, pool = self.tower, self.tower.attnpool
        x = tower.stem(pixels)
        for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            x = stage(x)
        rows, columns = x.shape[2:]
        positions = resize_grid(pool.positional_embedding, (rows, columns), name="the attention pool")[1:]
        x = x[0].flatten(1).T + positions.to(x.dtype)  # (N, width)
        x = F.linear(x, pool.v_proj.weight, pool.v_proj.bias)
        x = F.linear(x, pool.c_proj.weight, pool.c_proj.bias)
        return x.reshape(rows, columns, -1)


@dataclass(frozen=True)
class TokenTower:
    """A vision transformer.

    Attributes:
        blocks: its blocks.
        prefix: number of tokens before the patches.
        pooling: "token", "mean" or "attention".
        embed: images (1, 3, H, W) to the tokens (1, L, width) before each of some blocks, by their rising indices, and
            the grid; the index after the last block is that of the tokens behind it.
        project: tokens (..., width) behind the last block to embeddings (..., D), each as if it were pooled alone.
        pool: tokens (B, L, width) behind a block to embeddings (B, D), as the tower does.
    """

    blocks: tuple[BlockView, ...]
    prefix: int
    pooling: str
    embed: Callable[[Tensor, list[int]], tuple[list[Tensor], tuple[int, int]]]
    project: Callable[[Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]

    def cells(self, pixels: Tensor) -> Tensor:
        """See `DenseTower`."""
        last = len(self.blocks) - 1
        if (
            self.pooling == "attention"
        ):  # the pool has values of its own, and its tokens were trained to be local
            (x,), grid = self.embed(pixels, [last + 1])
            patches = x[:, self.prefix :]
        else:
            (x,), grid = self.embed(pixels, [last])
            patches = attend_to_similar(self.blocks[last], x, self.prefix)
        return self.project(patches[0]).reshape(*grid, -1)


def dense_tower(visual: nn.Module, image_size: tuple[int, int] | None = None) -> DenseTower | None:
    """Return the view of an image tower for images of a size, (height, width); None if its cells have no embedding.

    Positions are interpolated for another size than the tower's own; `visual` itself does not change.

    Raises:
        ConfigError: if the tower does not take images of that size.
    """
    if isinstance(visual, ModifiedResNet) and isinstance(visual.attnpool, AttentionPool2d):
        _check_multiple(image_size, 32)
        return ResNetTower(visual)
    if isinstance(visual, VisionTransformer):
        return _own_tower(visual, image_size)
    if isinstance(visual, (SigLIPVision, TimmTower)):
        return _trunk_tower(visual, image_size)
    return None


def _own_tower(visual: VisionTransformer, image_size: tuple[int, int] | None) -> TokenTower | None:
    views = [view_block(block) for block in visual.transformer.resblocks]
    blocks = tuple(view for view in views if view is not None)
    if len(blocks) < len(views) or not blocks or visual.pooling not in POOLINGS:
        return None
    if visual.attn_pool_contrastive is not None or visual.pool_type == "none":
        return None  # it returns several vectors per image
    _check_multiple(image_size, visual.patch_size)

    def embed(pixels: Tensor, before: list[int]) -> tuple[list[Tensor], tuple[int, int]]:
        x = visual.conv1(pixels)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        positions = resize_grid(visual.positional_embedding, grid, name="visual.positional_embedding")
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = visual.ln_pre(x + positions.to(x.dtype))
        kept = [x]
        if max(before):
            kept += visual.transformer.forward_intermediates(
                x, indices=list(range(max(before))), stop_early=True
            )[1]
        return [kept[index] for index in before], grid

    def project(x: Tensor) -> Tensor:
        x = visual.ln_post(x if visual.attn_pool is None else _pooler_values(visual.attn_pool, x))
        return x if visual.proj is None else x @ visual.proj

    def pool(x: Tensor) -> Tensor:
        pooled = visual._pool(x)[0]
        return pooled if visual.proj is None else pooled @ visual.proj

    return TokenTower(blocks, 1, visual.pooling, embed, project, pool)


def _trunk_tower(visual: SigLIPVision | TimmTower, image_size: tuple[int, int] | None) -> TokenTower | None:
    trunk: Any = visual.trunk
    if image_size is not None and image_size != as_pair(visual.image_size):
        trunk = _resized_copy(trunk, image_size)
    views = [view_block(block) for block in getattr(trunk, "blocks", ())]
    blocks = tuple(view for view in views if view is not None)
    if len(blocks) < len(views) or not blocks or visual.grid_size is None:
        return None
    attention_pool = getattr(trunk, "attn_pool", None)
    if visual.pooling not in POOLINGS or not hasattr(trunk, "forward_intermediates"):
        return None
    if attention_pool is not None and not hasattr(attention_pool, "latent"):
        return None  # it does not attend from one learned query
    if visual.pooling == "attention" and attention_pool is None:
        return None
    prefix = int(getattr(trunk, "num_prefix_tokens", 0))

    def embed(pixels: Tensor, before: list[int]) -> tuple[list[Tensor], tuple[int, int]]:
        tokens = []
        if 0 in before:
            x = trunk._pos_embed(trunk.patch_embed(pixels))
            tokens.append(
                trunk.norm_pre(x[0] if isinstance(x, tuple) else x)
            )  # EVA also returns its rotations
        if after := [index - 1 for index in before if index]:
            found = trunk.forward_intermediates(
                pixels,
                indices=after,
                return_prefix_tokens=True,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
            tokens += [torch.cat(part[::-1], dim=1) if isinstance(part, tuple) else part for part in found]
        rows, columns = trunk.patch_embed.grid_size
        return tokens, (int(rows), int(columns))

    def head(x: Tensor) -> Tensor:
        x = trunk.head(trunk.head_drop(trunk.fc_norm(x)))
        return visual.head(x)  # type: ignore[no-any-return]

    def project(x: Tensor) -> Tensor:
        x = trunk.norm(x)
        if attention_pool is not None:
            x = trunk.attn_pool(x.reshape(-1, 1, x.shape[-1])).reshape(
                x.shape
            )  # the only token has all attention
        return head(x)

    def pool(x: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(x)))  # type: ignore[no-any-return]

    return TokenTower(blocks, prefix, visual.pooling, embed, project, pool)


def _pooler_values(pooler: Any, x: Tensor) -> Tensor:
    """Return what a CoCa pooler makes of each token that has all attention: (..., width) to (..., its width)."""
    attention, x = pooler.attn, pooler.ln_k(x)
    width = attention.embed_dim
    weight = (
        attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight[2 * width :]
    )
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    return F.linear(F.linear(x, weight, bias), attention.out_proj.weight, attention.out_proj.bias)


def _resized_copy(trunk: Any, image_size: tuple[int, int]) -> Any:
    """Return a copy of a trunk for another image size.

    Raises:
        ConfigError: if its size cannot change.
    """
    resized = shared_copy(trunk)
    try:
        resized.set_input_size(img_size=image_size)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(trunk).__name__} does not take images of {image_size[0]} x {image_size[1]} pixels: {error}; leave "
            "out image_size, or use method='windows'"
        ) from error
    return resized


def shared_copy(module: nn.Module) -> Any:
    """Copy a module with buffers of its own, whose parameters are those of the original."""
    return copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def _check_multiple(image_size: tuple[int, int] | None, patch: int | tuple[int, int]) -> None:
    """Raise ConfigError unless an image size is a multiple of the patches."""
    height, width = as_pair(patch)
    if image_size is not None and (
        image_size[0] % height or image_size[1] % width or not all(side > 0 for side in image_size)
    ):
        raise ConfigError(
            f"image_size is {image_size[0]} x {image_size[1]}; expected multiples of the patches of {height} x {width}"
        )
