"""Layers of SigLIP's image tower: patch embedding, transformer block, attention pooling.

Submodules, their calls and their random initial values are those of timm's `VisionTransformer`, so that hooks and
replaced parts see the same as in timm. Parts that only other models of timm have are identities.

Shapes: B batch, (H, W) pixels, N patches, L tokens, C width, A heads, E = C / A.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip.config import as_pair
from oneclip.errors import ConfigError, ShapeError
from oneclip.model.layers import DropPath, check_share, make_activation
from oneclip.model.siglip_names import TrunkCfg


class PatchEmbed(nn.Module):
    """Patches of images, each embedded; pixels at the right and bottom that fill no patch are left out.

    Args:
        image_size: height and width of the images.
        patch_size: height and width of a patch, in pixels.
        width: C.

    Attributes:
        strict_img_size: reject images of another size.
        flatten: return tokens (B, N, C); otherwise maps, (B, rows, columns, C) or as `output_fmt` "NCHW" says.
    """

    def __init__(self, image_size: tuple[int, int], patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = as_pair(patch_size)
        self.img_size: tuple[int, int] | None = image_size
        self.grid_size = self._grid(image_size, self.patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.strict_img_size = True
        self.flatten = True
        self.output_fmt = "NCHW"
        self.proj = nn.Conv2d(3, width, kernel_size=self.patch_size, stride=self.patch_size)
        self.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, C)."""
        self._check(x)
        x = self.proj(x)
        if self.flatten:
            x = x.flatten(2).transpose(1, 2)
        elif self.output_fmt == "NHWC":
            x = x.permute(0, 2, 3, 1)
        return self.norm(x)

    def _check(self, x: Tensor) -> None:
        """Raise ShapeError unless `x` has the channels and the size of the layer."""
        channels = getattr(self.proj, "in_channels", x.shape[1] if x.ndim > 1 else 3)
        size = self.img_size if self.strict_img_size else None
        if x.ndim != 4 or x.shape[1] != channels or (size is not None and tuple(x.shape[2:]) != size):
            expected = "H, W" if size is None else f"{size[0]}, {size[1]}"
            raise ShapeError(
                f"the visual tower takes images (B, {channels}, {expected}); found {tuple(x.shape)}"
            )

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Change the size of images, or of patches with resampled weights.

        Raises:
            ConfigError: if an image is smaller than a patch.
        """
        patches = self.patch_size if patch_size is None else as_pair(patch_size)
        size = self.img_size if img_size is None else as_pair(img_size)
        if size is not None:
            grid = self._grid(size, patches)
            self.img_size, self.grid_size, self.num_patches = size, grid, grid[0] * grid[1]
        if patches != self.patch_size:
            old, weight = self.proj, resample_patches(self.proj.weight.detach(), patches)
            new = nn.Conv2d(old.in_channels, old.out_channels, patches, stride=patches)
            new.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
            new.bias = old.bias
            self.proj, self.patch_size = new.train(old.training), patches

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the factor between the sides of the image and of the map of patches."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of complete patches in an image of some size."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    @staticmethod
    def _grid(image_size: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = image_size[0] // patch_size[0], image_size[1] // patch_size[1]
        if not rows or not columns:
            raise ConfigError(
                f"images of {image_size[0]} x {image_size[1]} pixels are smaller than a patch of "
                f"{' x '.join(map(str, dict.fromkeys(patch_size)))} pixels"
            )
        return rows, columns


class PatchDrop(nn.Module):
    """Random removal of patches in training (Li et al. 2022, FLIP), with the random numbers of timm.

    Args:
        prob: share of patches to remove, 0 <= prob < 1.
    """

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = check_share("patch dropout", prob)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, max(1, int(N (1 - prob))), C) in training."""
        if not self.training or self.prob == 0.0:
            return x
        kept = max(1, int(x.shape[1] * (1.0 - self.prob)))
        chosen = torch.argsort(torch.randn(x.shape[0], x.shape[1], device=x.device), dim=-1)[:, :kept]
        return x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, x.shape[2]))


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a residual branch."""

    def __init__(self, cfg: TrunkCfg, drop_path: float = 0.0) -> None:
        super().__init__()
        width = cfg.size.width
        self.norm1 = nn.LayerNorm(width, eps=cfg.eps)
        self.attn = SelfAttention(width, cfg.size.heads)
        self.ls1 = nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=cfg.eps)
        self.mlp = Mlp(cfg)
        self.ls2 = nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Transform tokens, (B, L, C) -> (B, L, C); arguments as for `SelfAttention`."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        fused_attn: compute attention in one operation; `attn_drop` is called only if this is False.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, width // heads, width
        self.scale = self.head_dim**-0.5
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.Identity()
        self.k_norm = nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend from all tokens to all tokens.

        Args:
            x: (B, L, C).
            attn_mask: added to the logits, or True where attention is allowed; broadcast to (B, A, L, L).
            is_causal: do not attend to later tokens.

        Returns:
            (B, L, C).
        """
        batch, length = x.shape[0], x.shape[1]
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, L, E) each
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            x = F.scaled_dot_product_attention(
                q, k, v, attn_mask=attn_mask, dropout_p=dropout, is_causal=is_causal
            )
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1)  # (B, A, L, L)
            if is_causal:
                logits = logits + logits.new_full((length, length), -math.inf).triu_(1)
            elif attn_mask is not None:
                logits = add_mask(logits, attn_mask)
            x = self.attn_drop(logits.softmax(dim=-1)) @ v
        x = self.norm(x.transpose(1, 2).reshape(batch, length, self.attn_dim))
        return self.proj_drop(self.proj(x))


class AttentionPool(nn.Module):
    """Attention from one learned query, then an MLP on a residual branch ("MAP", Zhai et al. 2022).

    Attributes:
        fused_attn: compute attention in one operation.
    """

    def __init__(self, cfg: TrunkCfg) -> None:
        super().__init__()
        width = cfg.size.width
        self.num_heads, self.head_dim = cfg.size.heads, width // cfg.size.heads
        self.scale = self.head_dim**-0.5
        self.fused_attn = True
        self.latent_len, self.latent_dim, self.out_features = 1, width, width
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = nn.Identity()
        self.k_norm = nn.Identity()
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(0.0)
        self.norm = nn.LayerNorm(width, eps=cfg.eps)
        self.mlp = Mlp(cfg)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize the query from a normal distribution with deviation C^-1/2, truncated at two deviations."""
        trunc_normal_(self.latent, 1.0)
        with torch.no_grad():
            self.latent.mul_(self.latent_dim**-0.5)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, N, C) -> (B, C); `attn_mask` as for `SelfAttention`, broadcast to (B, A, 1, N)."""
        batch, length = x.shape[0], x.shape[1]
        q = self.q(self.latent.expand(batch, -1, -1))  # (B, 1, C)
        q = q.reshape(batch, self.latent_len, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x).reshape(batch, length, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, A, N, E) each
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1)  # (B, A, 1, N)
            if attn_mask is not None:
                logits = logits + attn_mask
            y = logits.softmax(dim=-1) @ v
        y = self.proj_drop(self.proj(y.transpose(1, 2).reshape(batch, self.latent_len, -1)))
        y = y + self.mlp(self.norm(y))
        return y[:, 0]


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, cfg: TrunkCfg) -> None:
        super().__init__()
        width, hidden = cfg.size.width, int(cfg.size.width * cfg.size.mlp_ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.act = make_activation(False, {"approximate": cfg.gelu})
        self.drop1 = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.fc2 = nn.Linear(hidden, width)
        self.drop2 = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self.norm(self.drop1(self.act(self.fc1(x))))
        return self.drop2(self.fc2(x))


def add_mask(logits: Tensor, mask: Tensor) -> Tensor:
    """Add a mask to attention logits; a boolean mask adds minus infinity where it is False."""
    if mask.dtype == torch.bool:
        return logits + torch.zeros_like(mask, dtype=logits.dtype).masked_fill(~mask, -math.inf)
    return logits + mask


def trunc_normal_(tensor: Tensor, std: float) -> None:
    """Fill with normal numbers truncated at -2 and 2, made from the same uniform numbers as in timm.

    torch's own function of this name draws different numbers.
    """
    bound = math.erf(2 / std / math.sqrt(2))
    with torch.no_grad():
        tensor.uniform_((1 - bound) - 1, (1 + bound) - 1)  # rounded as there
        tensor.erfinv_().mul_(std * math.sqrt(2)).clamp_(-2.0, 2.0)


def resample_patches(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample the weights of patches so that resized patches get the same embeddings (Beyer et al. 2023, FlexiViT).

    Args:
        weight: (C, channels, height, width).
        size: the new height and width.

    Returns:
        (C, channels, *size).
    """
    old = (weight.shape[2], weight.shape[3])
    pixels = torch.eye(old[0] * old[1], device=weight.device).reshape(-1, 1, *old)
    resize = F.interpolate(pixels, size, mode="bicubic", antialias=True).flatten(1)  # (old, new) pixels
    resampled: Tensor = weight.float().flatten(2) @ torch.linalg.pinv(resize).T
    return resampled.reshape(*weight.shape[:2], *size).to(weight.dtype)
