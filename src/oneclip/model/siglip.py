"""SigLIP's and SigLIP 2's image tower: pictures to feature vectors (Zhai et al. 2023; Tschannen et al. 2025).

A vision transformer without class token, whose patches are pooled by attention from one learned query. Published
weights carry timm's names of its parts, and configurations timm's name of the whole, read by `siglip_names`.

Shapes: B batch, (H, W) pixels, N patches, C width, A heads, D joint embedding, here D = C.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError, nearest
from oneclip.model.layers import DropPath, LayerNorm, PatchDropout, make_activation
from oneclip.model.locking import Part, unlock_last
from oneclip.model.pictures import as_maps, check_output_format, check_pictures, pair
from oneclip.model.scripting import unscripted
from oneclip.model.siglip_names import TrunkCfg, published_names
from oneclip.model.transformer import take_indices


class SigLIPVision(nn.Module):
    """SigLIP's image tower.

    Args:
        cfg: the tower by timm's name or by numbers, see `TrunkCfg.of_cfg`; `image_size`, `patch_dropout` and
            `timm_drop_path` are taken too.
        embed_dim: D, the width of that trunk.

    Raises:
        ConfigError: if the name is not one of these, or `embed_dim` is not its width.
    """

    def __init__(self, cfg: CLIPVisionCfg, embed_dim: int) -> None:
        super().__init__()
        trunk = TrunkCfg.of_cfg(cfg)
        if trunk is None:
            near = nearest(cfg.timm_model_name or "", published_names())
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"{cfg.timm_model_name!r} is not the name of a SigLIP image tower{hint}")
        if embed_dim != trunk.size.width:
            raise ConfigError(
                f"embed_dim is {embed_dim}; this tower gives features of its width, {trunk.size.width}"
            )
        self.image_size = pair(cfg.image_size)
        self.output_dim = embed_dim
        self.trunk = SigLIPTrunk(trunk, self.image_size, cfg.patch_dropout, cfg.timm_drop_path or 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalised.

        Raises:
            ShapeError: if the pictures are not of the tower's size.
        """
        if not torch.jit.is_scripting():
            check_pictures(x, self.image_size)
        features: Tensor = self.trunk(x)
        return features

    @unscripted
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """Encode pictures and keep the tokens of chosen blocks.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: which blocks, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" maps (B, C, rows, columns), or "NLC" tokens (B, N, C).
            output_extra_tokens: without effect, this tower has none.

        Returns:
            `image_intermediates`, and `image_features` (B, D) unless left out.

        Raises:
            ConfigError: on an unknown format, or patch dropout while training, which leaves no map.
        """
        check_output_format(output_fmt, ("NCHW", "NLC"))
        check_pictures(x, self.image_size)
        trunk = self.trunk
        x = trunk.embed(x)
        if output_fmt == "NCHW" and x.shape[1] != trunk.pos_embed.shape[1]:
            raise ConfigError(
                "patch dropout leaves no whole map of patches: call eval() first, or ask for 'NLC'"
            )
        chosen = take_indices(len(trunk.blocks), indices)
        last = max(chosen) if stop_early and intermediates_only else len(trunk.blocks) - 1
        kept: list[Tensor] = []
        for index, block in enumerate(list(trunk.blocks)[: last + 1]):
            x = checkpoint(block, x, use_reentrant=False) if trunk.grad_checkpointing else block(x)
            if index in chosen:
                kept.append(trunk.norm(x) if normalize_intermediates else x)
        if output_fmt == "NCHW":
            kept = [as_maps(y, trunk.grid_size) for y in kept]
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": kept}
        if not intermediates_only:
            output["image_features"] = trunk.attn_pool(trunk.norm(x))
        return output

    @unscripted
    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the tower but for its last groups: embeddings, each block, pooling (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many groups stay trainable, from the end; the last block goes with the final norm.
            freeze_bn_stats: without effect, this tower has no batch norm.
        """
        blocks: list[Part] = list(self.trunk.blocks)
        groups: list[list[Part]] = [
            [self.trunk.patch_embed, self.trunk.pos_embed],
            *([block] for block in blocks[:-1]),
            [blocks[-1], self.trunk.norm],
            [self.trunk.attn_pool],
        ]
        unlock_last(groups, unlocked_groups)

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.trunk.set_grad_checkpointing(enable)

    @unscripted
    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Take pictures of another size from now on: the learned positions are resized, bicubic with antialiasing."""
        self.trunk.set_input_size(pair(image_size))
        self.image_size = pair(image_size)


class SigLIPTrunk(nn.Module):
    """What the published weights call `trunk`: the whole tower, with timm's names of its parts."""

    def __init__(
        self, cfg: TrunkCfg, image_size: tuple[int, int], patch_dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        size = cfg.size
        self.embed_dim = self.num_features = size.width
        self.patch_size = cfg.patch_size
        self.grid_size = _grid(image_size, cfg.patch_size)
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(size.width, cfg.patch_size)
        patches = self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.empty(1, patches, size.width))
        self.patch_drop = PatchDropout(patch_dropout, exclude_first_token=False)
        paths = torch.linspace(0, drop_path, size.layers, device="cpu").tolist()  # the deeper, the more
        self.blocks = nn.Sequential(*[Block(cfg, path) for path in paths])
        self.norm = LayerNorm(size.width, eps=cfg.eps)
        self.attn_pool = AttentionPool(cfg)
        self.init_parameters()

    @unscripted
    def init_parameters(self) -> None:
        """Small normal weights, as timm begins with."""
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to features (B, C)."""
        features: Tensor = self.attn_pool(self.forward_features(x))
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to the tokens that are pooled (B, N, C)."""
        tokens: Tensor = self.norm(self.run_blocks(self.embed(x)))
        return tokens

    def embed(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to tokens (B, N, C)."""
        x = self.patch_embed(x)
        x = self.patch_drop(x + self.pos_embed.to(x.dtype))
        return x

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        for block in self.blocks:
            if not torch.jit.is_scripting() and self.grad_checkpointing:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @unscripted
    def set_input_size(self, image_size: tuple[int, int]) -> None:
        """Resize the learned positions to another grid, bicubic with antialiasing, in fp32."""
        grid = _grid(image_size, self.patch_size)
        if grid != self.grid_size:
            old = self.pos_embed.detach()
            table = old.float().reshape(1, *self.grid_size, -1).permute(0, 3, 1, 2)
            table = F.interpolate(table, grid, mode="bicubic", antialias=True)  # (1, C, rows, columns)
            table = table.flatten(2).transpose(1, 2).contiguous().to(old.dtype)
            self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)
            self.grid_size = grid

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars."""
        return {"pos_embed"}


class PatchEmbed(nn.Module):
    """Pictures (B, 3, H, W) to patches (B, N, C); what fills no patch at the right and the bottom is left out."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)
        return x


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a residual branch."""

    def __init__(self, cfg: TrunkCfg, drop_path: float = 0.0) -> None:
        super().__init__()
        size = cfg.size
        self.norm1 = LayerNorm(size.width, eps=cfg.eps)
        self.attn = SelfAttention(size.width, size.heads)
        self.norm2 = LayerNorm(size.width, eps=cfg.eps)
        self.mlp = Mlp(cfg)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class SelfAttention(nn.Module):
    """Multi-head attention with timm's names; the numbers are those of `oneclip.model.Attention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, N, C / A) each
        x = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return x


class AttentionPool(nn.Module):
    """Attention from one learned query, then an MLP on a residual branch ("MAP", Zhai et al. 2022)."""

    def __init__(self, cfg: TrunkCfg) -> None:
        super().__init__()
        size = cfg.size
        self.num_heads, self.head_dim = size.heads, size.width // size.heads
        std = size.width**-0.5
        self.latent = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, 1, size.width), 0.0, std, -2 * std, 2 * std)
        )
        self.q = nn.Linear(size.width, size.width)
        self.kv = nn.Linear(size.width, 2 * size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.norm = LayerNorm(size.width, eps=cfg.eps)
        self.mlp = Mlp(cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, C)."""
        q = self.q(self.latent.to(x.dtype)).reshape(1, 1, self.num_heads, self.head_dim)
        kv = self.kv(x).reshape(x.shape[0], x.shape[1], 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, N, C / A) each
        q = q.transpose(1, 2).expand(x.shape[0], -1, -1, -1)
        x = self.proj(F.scaled_dot_product_attention(q, k, v).flatten(1))  # (B, C)
        x = x + self.mlp(self.norm(x))
        return x


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, cfg: TrunkCfg) -> None:
        super().__init__()
        width, hidden = cfg.size.width, int(cfg.size.width * cfg.size.mlp_ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.act = make_activation(False, {"approximate": cfg.gelu})
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self.fc2(self.act(self.fc1(x)))
        return x


def _grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of whole patches in a picture."""
    rows, columns = image_size[0] // patch_size, image_size[1] // patch_size
    if not rows or not columns:
        raise ConfigError(
            f"pictures of {image_size[0]} x {image_size[1]} hold no patch of {patch_size} pixels"
        )
    return rows, columns
