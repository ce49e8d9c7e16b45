"""Visual towers to their plans: packed linear layers under the towers' own pooling.

Shapes: B batch, (H, W) pixels, N patches, L = 1 + N tokens, C width, D joint embedding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.engine.blocks import BlockParts, Norm, PackedBlock, mix, pack_mlp, split
from oneclip.engine.guards import Unplanned, must_be, must_pass_through
from oneclip.engine.kernels import Linear, Pack
from oneclip.engine.thread_groups import in_slices
from oneclip.model import SigLIPVision, Transformer, VisionTransformer
from oneclip.model.siglip_layers import AttentionPool, Mlp, PatchEmbed
from oneclip.model.siglip_trunk import SigLIPTrunk


class VisionPlan:
    """A `VisionTransformer`, packed: pictures (B, 3, H, W) to features (B, D) in fp32.

    Args:
        tower: in evaluation mode.
        pack: makes the linear layers of the blocks.
        pack_patches: makes that of the patches, whose inputs are pixels.

    Raises:
        Unplanned: if a part of it is not what it was published as.
    """

    def __init__(self, tower: VisionTransformer, pack: Pack, pack_patches: Pack) -> None:
        must_be(tower, VisionTransformer)
        must_be(tower.transformer, Transformer)
        self.tower = tower
        self.patches = Patches(tower.conv1, pack_patches)
        self.class_token = tower.class_embedding.detach().float()
        self.positions = tower.positional_embedding.detach().float()
        self.norm_pre = None if isinstance(tower.ln_pre, nn.Identity) else Norm(tower.ln_pre)
        pools_class_token = tower.attn_pool is None and tower.pool_type == "tok" and not tower.output_tokens
        stack = tower.transformer
        *first, last = [BlockParts.of(block, stack.batch_first) for block in stack.resblocks]
        self.blocks = [PackedBlock(parts, pack) for parts in first]
        self.last = PackedBlock(last, pack, pooled_only=pools_class_token)
        self.pools_class_token = pools_class_token
        self.norm_post = Norm(tower.ln_post)
        self.projection = None if tower.proj is None else tower.proj.detach().float()

    @property
    def tokens(self) -> int:
        """L, that a picture becomes."""
        return len(self.positions)

    def __call__(self, pixels: Tensor) -> Tensor:
        return in_slices(self._compute, pixels, self.tokens, self.last.hidden)

    def _compute(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).float()  # (B, N, C)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)  # (B, L, C)
        x += self.positions
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        if self.pools_class_token:
            first = torch.zeros(len(x), dtype=torch.long, device=x.device)
            pooled = self.norm_post(self.last.at(x, first))
        else:
            pooled, _ = self.tower._pool(self.last(x).to(self.tower.conv1.weight.dtype))
        return pooled.float() if self.projection is None else pooled.float() @ self.projection


class SigLIPPlan:
    """SigLIP's image tower, packed: pictures (B, 3, H, W) to features (B, D) in fp32; arguments as for `VisionPlan`."""

    def __init__(self, tower: SigLIPVision, pack: Pack, pack_patches: Pack) -> None:
        must_be(tower, SigLIPVision)
        trunk = tower.trunk
        must_be(trunk, SigLIPTrunk)
        must_be(trunk.patch_embed, PatchEmbed)
        must_be(trunk.blocks, nn.Sequential)
        must_be(tower.head, nn.Sequential)
        must_pass_through(
            *tower.head, trunk.patch_embed.norm, trunk.pos_drop, trunk.patch_drop, trunk.norm_pre
        )
        must_pass_through(trunk.fc_norm, trunk.head_drop, trunk.head)
        if trunk.patch_embed.img_size != tower.image_size or trunk.num_prefix_tokens:
            raise Unplanned("the trunk takes other images or tokens than the tower was made for")
        self.patches = Patches(trunk.patch_embed.proj, pack_patches)
        self.positions = trunk.pos_embed.detach().float()
        self.blocks = [PackedBlock(BlockParts.of(block), pack) for block in trunk.blocks]
        self.norm = Norm(trunk.norm)
        self.pool = PackedPool(cast(AttentionPool, trunk.attn_pool), pack)

    @property
    def tokens(self) -> int:
        """N, that a picture becomes."""
        return self.positions.shape[1]

    def __call__(self, pixels: Tensor) -> Tensor:
        return in_slices(self._compute, pixels, self.tokens, self.blocks[0].hidden)

    def _compute(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).float() + self.positions  # (B, N, C)
        for block in self.blocks:
            x = block(x)
        return self.pool(self.norm(x))


class PackedPool:
    """SigLIP's attention from one learned query, then an MLP on a residual branch."""

    def __init__(self, pool: AttentionPool, pack: Pack) -> None:
        must_be(pool, AttentionPool)
        must_be(pool.mlp, Mlp)
        for linear in (pool.q, pool.kv, pool.proj, pool.mlp.fc1, pool.mlp.fc2):
            must_be(linear, nn.Linear)
        must_pass_through(pool.q_norm, pool.k_norm, pool.proj_drop)
        must_pass_through(pool.mlp.drop1, pool.mlp.norm, pool.mlp.drop2)
        if not pool.fused_attn:
            raise Unplanned("attention is computed in steps")
        self.heads = pool.num_heads
        with torch.no_grad():
            query = F.linear(pool.latent.float(), pool.q.weight.float(), pool.q.bias.float())
        (self.query,) = split(query, 1, self.heads)  # (1, H, 1, E)
        self.kv = pack(pool.kv.weight, pool.kv.bias)
        self.out = pack(pool.proj.weight, pool.proj.bias)
        self.norm = Norm(pool.norm)
        fc, proj = pool.mlp.fc1, pool.mlp.fc2
        self.mlp = pack_mlp((fc.weight, fc.bias), pool.mlp.act, nn.Identity(), (proj.weight, proj.bias), pack)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, C)."""
        k, v = split(self.kv(x), 2, self.heads)
        x = self.out(mix(self.query.to(k.dtype).expand(len(x), -1, -1, -1), k, v)).float()[:, 0]
        return x + self.mlp(self.norm(x))


class Patches:
    """Pictures (B, 3, H, W) to embedded patches (B, N, C): the convolution, as the linear layer that it is."""

    def __init__(self, convolution: nn.Conv2d, pack: Pack) -> None:
        must_be(convolution, nn.Conv2d)
        if convolution.stride != convolution.kernel_size or any(cast("tuple[int, ...]", convolution.padding)):
            raise Unplanned("patches overlap")
        self.channels = convolution.in_channels
        self.height, self.width = convolution.kernel_size
        self.embed: Linear = pack(convolution.weight.flatten(1), convolution.bias)

    def __call__(self, pixels: Tensor) -> Tensor:
        batch, _, height, width = pixels.shape
        rows, columns = height // self.height, width // self.width
        x = pixels[:, :, : rows * self.height, : columns * self.width]  # what fills no patch is left out
        x = x.reshape(batch, self.channels, rows, self.height, columns, self.width).permute(0, 2, 4, 1, 3, 5)
        return self.embed(x.reshape(batch, rows * columns, -1))
