"""Plans of image towers: packed linear layers, with the tower's own pooling.

Shapes: B batch, (H, W) pixels, N patches, L tokens, C width, D joint embedding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine.blocks import BlockParts, Norm, PackedBlock, attend, pack_mlp, split_heads
from oneclip.engine.guards import PlanUnsupported, require_identity, require_type
from oneclip.engine.kernels import Linear, Pack
from oneclip.model import SigLIPVision, Transformer, VisionTransformer
from oneclip.model.siglip_layers import AttentionPool, Mlp, PatchEmbed
from oneclip.model.siglip_trunk import SigLIPTrunk


class VisionPlan:
    """A `VisionTransformer` with packed weights: images (B, 3, H, W) to features (B, D) in fp32.

    Args:
        tower: in evaluation mode.
        pack: makes the linear layers of the blocks.
        pack_patches: makes the linear layer of the patches, whose inputs are pixels.

    Attributes:
        tokens: L, number of tokens of an image.
        hidden: width of the widest activation.

    Raises:
        PlanUnsupported: if a part of the tower differs from the published one.
    """

    def __init__(self, tower: VisionTransformer, pack: Pack, pack_patches: Pack) -> None:
        require_type(tower, VisionTransformer)
        require_type(tower.transformer, Transformer)
        self.tower = tower
        self.patches = Patches(tower.conv1, pack_patches)
        self.class_token = tower.class_embedding.detach().float()
        self.positions = tower.positional_embedding.detach().float()
        self.norm_pre = None if isinstance(tower.ln_pre, nn.Identity) else Norm(tower.ln_pre)
        self.pools_class_token = (
            tower.attn_pool is None and tower.pool_type == "tok" and not tower.output_tokens
        )
        stack = tower.transformer
        *first, last = [BlockParts.of(block, stack.batch_first) for block in stack.resblocks]
        self.blocks = [PackedBlock(parts, pack) for parts in first]
        self.last = PackedBlock(last, pack, pooled_only=self.pools_class_token)
        self.norm_post = Norm(tower.ln_post)
        self.projection = None if tower.proj is None else tower.proj.detach().float()
        self.tokens, self.hidden = len(self.positions), self.last.hidden

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).float()  # (B, N, C)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)  # (B, L, C)
        x += self.positions
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block in self.blocks:
            block(x)
        if self.pools_class_token:
            first = torch.zeros(len(x), dtype=torch.long, device=x.device)
            pooled = self.norm_post(self.last.pooled(x, first))
        else:
            self.last(x)
            pooled, _ = self.tower._pool(x.to(self.tower.conv1.weight.dtype))
        return pooled.float() if self.projection is None else pooled.float() @ self.projection


class SigLIPPlan:
    """SigLIP's image tower with packed weights; arguments and attributes as of `VisionPlan`."""

    def __init__(self, tower: SigLIPVision, pack: Pack, pack_patches: Pack) -> None:
        require_type(tower, SigLIPVision)
        trunk = tower.trunk
        require_type(trunk, SigLIPTrunk)
        require_type(trunk.patch_embed, PatchEmbed)
        require_type(trunk.blocks, nn.Sequential)
        require_type(tower.head, nn.Sequential)
        require_identity(
            *tower.head, trunk.patch_embed.norm, trunk.pos_drop, trunk.patch_drop, trunk.norm_pre
        )
        require_identity(trunk.fc_norm, trunk.head_drop, trunk.head)
        if trunk.patch_embed.img_size != tower.image_size or trunk.num_prefix_tokens:
            raise PlanUnsupported("its trunk was changed to another image size or to prefix tokens")
        self.patches = Patches(trunk.patch_embed.proj, pack_patches)
        self.positions = trunk.pos_embed.detach().float()
        self.blocks = [PackedBlock(BlockParts.of(block), pack) for block in trunk.blocks]
        self.norm = Norm(trunk.norm)
        self.pool = PackedPool(cast(AttentionPool, trunk.attn_pool), pack)
        self.tokens, self.hidden = self.positions.shape[1], self.blocks[0].hidden

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).float() + self.positions  # (B, N, C)
        for block in self.blocks:
            block(x)
        return self.pool(self.norm(x))


class PackedPool:
    """SigLIP's attention from one learned query, and an MLP on a residual branch."""

    def __init__(self, pool: AttentionPool, pack: Pack) -> None:
        require_type(pool, AttentionPool)
        require_type(pool.mlp, Mlp)
        for linear in (pool.q, pool.kv, pool.proj, pool.mlp.fc1, pool.mlp.fc2):
            require_type(linear, nn.Linear)
        require_identity(pool.q_norm, pool.k_norm, pool.proj_drop)
        require_identity(pool.mlp.drop1, pool.mlp.norm, pool.mlp.drop2)
        if not pool.fused_attn:
            raise PlanUnsupported("its attention is not the fused one")
        self.heads = pool.num_heads
        with torch.no_grad():
            query = F.linear(pool.latent.float(), pool.q.weight.float(), pool.q.bias.float())
        (self.query,) = split_heads(query, 1, self.heads)  # (1, H, 1, E)
        self.kv = pack(pool.kv.weight, pool.kv.bias)
        self.out = pack(pool.proj.weight, pool.proj.bias)
        self.norm = Norm(pool.norm)
        fc, proj = pool.mlp.fc1, pool.mlp.fc2
        self.mlp = pack_mlp((fc.weight, fc.bias), pool.mlp.act, nn.Identity(), (proj.weight, proj.bias), pack)

    def __call__(self, x: Tensor) -> Tensor:
        """Pool tokens (B, N, C) to (B, C)."""
        k, v = split_heads(self.kv(x), 2, self.heads)
        x = self.out(attend(self.query.to(k.dtype).expand(len(x), -1, -1, -1), k, v)).float()[:, 0]
        return x + self.mlp(self.norm(x))


class Patches:
    """Embedding of the patches of images (B, 3, H, W) to (B, N, C): the convolution, computed as a linear layer."""

    def __init__(self, convolution: nn.Conv2d, pack: Pack) -> None:
        require_type(convolution, nn.Conv2d)
        if convolution.stride != convolution.kernel_size or any(cast("tuple[int, ...]", convolution.padding)):
            raise PlanUnsupported("its patches overlap")
        self.channels = convolution.in_channels
        self.height, self.width = convolution.kernel_size
        self.embed: Linear = pack(convolution.weight.flatten(1), convolution.bias)

    def __call__(self, pixels: Tensor) -> Tensor:
        batch, _, height, width = pixels.shape
        rows, columns = height // self.height, width // self.width
        x = pixels[:, :, : rows * self.height, : columns * self.width]  # as the convolution does
        x = x.reshape(batch, self.channels, rows, self.height, columns, self.width).permute(0, 2, 4, 1, 3, 5)
        return self.embed(x.reshape(batch, rows * columns, -1))
