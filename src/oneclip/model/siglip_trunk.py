"""Trunk of SigLIP's image tower, with the interface of timm's `VisionTransformer`.

Shapes: B batch, (H, W) pixels, N patches, C width, K classes.
"""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from oneclip.errors import ConfigError
from oneclip.model.siglip_layers import AttentionPool, Block, PatchDrop, PatchEmbed, trunc_normal_
from oneclip.model.siglip_names import TrunkCfg, pretrained_cfg
from oneclip.model.transformer import take_indices
from oneclip.model.vision_common import as_maps, check_output_format

POOLS = ("", "avg", "avgmax", "max", "map")
PREVIOUS = (99999,)  # in `group_matcher`, timm's mark for parameters that belong to the previous group


class SigLIPTrunk(nn.Module):
    """Vision transformer without class token, pooled by attention.

    Args:
        cfg: its sizes.
        image_size: height and width of images.
        patch_dropout: share of patches removed in training.
        drop_path: share of residual branches removed in training, in the last block; it rises from 0 in the first.
        name: timm's name of the trunk, if there is one.

    Attributes:
        dynamic_img_size: interpolate positions for images of any size, with a `patch_embed` that returns maps
            (`flatten` False, `output_fmt` "NHWC") and is not strict.
        grad_checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        cfg: TrunkCfg,
        image_size: tuple[int, int],
        patch_dropout: float = 0.0,
        drop_path: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        width, layers = cfg.size.width, cfg.size.layers
        self.num_classes, self.in_chans, self.global_pool = 0, 3, "map"
        self.num_features = self.head_hidden_size = self.embed_dim = width
        self.num_prefix_tokens = self.num_reg_tokens = 0
        self.has_class_token = self.no_embed_class = self.pool_include_prefix = False
        self.cls_token = self.reg_token = None
        self.dynamic_img_size = False
        self.grad_checkpointing = False
        self.pretrained_cfg = self.default_cfg = pretrained_cfg(name, image_size)
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": width, "reduction": cfg.patch_size} for i in range(layers)
        ]

        self.patch_embed = PatchEmbed(image_size, cfg.patch_size, width)
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, width))
        self.pos_drop = nn.Dropout(0.0)
        self.patch_drop = PatchDrop(patch_dropout) if patch_dropout else nn.Identity()
        self.norm_pre = nn.Identity()
        paths = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.blocks = nn.Sequential(*[Block(cfg, path) for path in paths])
        self.norm = nn.LayerNorm(width, eps=cfg.eps)
        self.attn_pool: AttentionPool | None = AttentionPool(cfg)
        self.fc_norm = nn.Identity()
        self.head_drop = nn.Dropout(0.0)
        self.head: nn.Module = nn.Identity()
        self.init_weights(needs_reset=False)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initialize the weights, with the same random numbers in the same order as timm.

        Args:
            mode: "" for truncated normal weights of linear layers, "reset" for torch's initial values of all layers.
            needs_reset: also reset layers that are not linear.

        Raises:
            ConfigError: for another mode of timm.
        """
        if mode not in ("", "reset"):
            raise ConfigError(f"mode is {mode!r}; expected '' or 'reset'")
        trunc_normal_(self.pos_embed, 0.02)
        _init_children(self, mode, needs_reset)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Encode images (B, 3, H, W) as features (B, C), or as (B, K) with a classifier."""
        return self.forward_head(self.forward_features(x, attn_mask=attn_mask, is_causal=is_causal))

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Encode images as tokens.

        Args:
            x: (B, 3, H, W).
            attn_mask: added to the attention logits of every block, or True where attention is allowed.
            is_causal: do not attend to later patches.

        Returns:
            (B, N, C), after the final norm.
        """
        x = self._embed(x)
        if attn_mask is not None or is_causal:
            for block in self.blocks:
                x = block(x, attn_mask=attn_mask, is_causal=is_causal)
        elif self.grad_checkpointing:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False)
        else:
            x = self.blocks(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens (B, N, C) to (B, C), and classify to (B, K) unless `pre_logits`."""
        x = self.head_drop(self.fc_norm(self.pool(x)))
        return x if pre_logits else self.head(x)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Pool tokens (B, N, C) to (B, C); `pool_type` is used only without attention pooling."""
        kind = self.global_pool if pool_type is None else pool_type
        if not self.pool_include_prefix and (self.attn_pool is not None or kind):
            x = x[:, self.num_prefix_tokens :]
        if self.attn_pool is not None:
            return self.attn_pool(x)
        if kind == "avg":
            return x.mean(dim=1)
        if kind == "max":
            return x.amax(dim=1)
        if kind == "avgmax":
            return 0.5 * (x.amax(dim=1) + x.mean(dim=1))
        return x

    def _embed(self, x: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, N, C)."""
        return self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches (B, N, C), or (B, rows, columns, C) if the size is dynamic: (B, N, C)."""
        positions: Tensor = self.pos_embed
        if self.dynamic_img_size:
            positions = resize_positions(positions, self.patch_embed.grid_size, (x.shape[1], x.shape[2]))
            x = x.flatten(1, 2)
        return self.pos_drop(x + positions)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """Encode images and return the tokens of chosen blocks.

        Args:
            x: (B, 3, H, W).
            indices: all blocks (None), the last n (int), or those listed.
            return_prefix_tokens: also return the tokens before the patches, if `num_prefix_tokens` is not 0.
            norm: apply the final norm to them.
            stop_early: do not run the blocks after the last one chosen, not even for the final tokens.
            output_fmt: "NCHW" for maps (B, C, rows, columns), "NLC" for tokens (B, N, C).
            intermediates_only: leave out the final tokens.
            output_dict: return a dict.
            attn_mask, is_causal: as for `forward_features`.

        Returns:
            The final tokens (B, N, C) and a list; or the list alone; or a dict with `image_intermediates`, and
            `image_features` and `image_intermediates_prefix` if requested.

        Raises:
            ConfigError: on an unknown format or block, or if patch dropout leaves no complete map.
        """
        check_output_format(output_fmt, ("NCHW", "NLC"))
        chosen = take_indices(len(self.blocks), indices)
        size = (x.shape[-2], x.shape[-1])
        x = self._embed(x)
        kept: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if stop_early and index > max(chosen):
                break
            if attn_mask is not None or is_causal:
                x = block(x, attn_mask=attn_mask, is_causal=is_causal)
            else:
                x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
            if index in chosen:
                kept.append(self.norm(x) if norm else x)
        prefixes = [y[:, : self.num_prefix_tokens] for y in kept]
        kept = [y[:, self.num_prefix_tokens :] for y in kept]
        if output_fmt == "NCHW":
            grid = self.patch_embed.dynamic_feat_size(size)
            if kept[0].shape[1] != grid[0] * grid[1]:
                raise ConfigError(
                    "patch dropout removed patches, so there is no complete map: call eval() first, or request 'NLC'"
                )
            kept = [as_maps(y, grid) for y in kept]
        with_prefixes = return_prefix_tokens and self.num_prefix_tokens > 0
        if output_dict:
            output: dict[str, Any] = {"image_intermediates": kept}
            if with_prefixes:
                output["image_intermediates_prefix"] = prefixes
            if not intermediates_only:
                output["image_features"] = self.norm(x)
            return output
        given = list(zip(kept, prefixes, strict=True)) if with_prefixes else kept
        return given if intermediates_only else (self.norm(x), given)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | list[int] | tuple[int, ...] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Return the tokens of the last `n` blocks, or of those listed, as DINO's models do; maps with `reshape`."""
        return self.forward_intermediates(
            x,
            n if isinstance(n, int) else list(n),
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
            attn_mask=attn_mask,
        )

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the tokens of chosen blocks do not need, and return the numbers of those blocks.

        Args:
            indices: as for `forward_intermediates`.
            prune_norm: remove the final norm.
            prune_head: remove pooling and classifier.
        """
        chosen = take_indices(len(self.blocks), indices)
        self.blocks = nn.Sequential(*list(self.blocks)[: max(chosen) + 1])
        if prune_norm:
            self.norm = nn.Identity()  # type: ignore[assignment]
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> nn.Module:
        """Return the last layer: an identity, or the classifier that `reset_classifier` made."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier behind the pooling.

        Args:
            num_classes: K; 0 for no classifier.
            global_pool: "avg", "max" or "avgmax" of the tokens, "" for all of them, "map" to keep attention pooling;
                None for no change.

        Raises:
            ConfigError: for an unknown pooling, or attention pooling that was removed before.
        """
        if global_pool is not None:
            if global_pool not in POOLS or (global_pool == "map" and self.attn_pool is None):
                known = POOLS if self.attn_pool is not None else POOLS[:-1]
                raise ConfigError(f"global_pool is {global_pool!r}; expected one of {known}")
            if global_pool != "map":
                self.attn_pool = None
            self.global_pool = global_pool
        self.num_classes = num_classes
        if num_classes > 0:
            like = next(self.parameters())
            self.head = nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype)
        else:
            self.head = nn.Identity()
        self.head.train(self.training)

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Change the size of images or patches: positions and patch weights are resampled.

        Raises:
            ConfigError: if an image is smaller than a patch.
        """
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size, patch_size)
        new = self.patch_embed.grid_size
        if new != old or self.pos_embed.shape[1] != new[0] * new[1]:
            table = resize_positions(self.pos_embed.detach(), old, new)
            self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        return {"pos_embed", "cls_token", "reg_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of the names of layers, lowest first; `coarse` has no effect."""
        return {
            "stem": r"^cls_token|reg_token|pos_embed|patch_embed|norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", PREVIOUS)],
        }

    def parameter_groups(self) -> list[list[str]]:
        """Group the names of the parameters by layer: embeddings, each block, then pooling and classifier.

        The final norm belongs to the last block, as in `group_matcher`.
        """
        matcher = self.group_matcher()
        groups: dict[float, list[str]] = {}
        for name, _ in self.named_parameters():
            block, norm = (re.match(pattern, name) for pattern, _ in matcher["blocks"])
            if re.match(matcher["stem"], name):
                place = -1.0
            elif block:
                place = int(block[1])
            else:
                place = len(self.blocks) - 1 if norm else math.inf
            groups.setdefault(place, []).append(name)
        return [groups[place] for place in sorted(groups)]


def _init_children(module: nn.Module, mode: str, needs_reset: bool) -> None:
    """Initialize all modules below one, the lowest first."""
    for child in module.children():
        _init_children(child, mode, needs_reset)
        if mode == "" and isinstance(child, nn.Linear):
            trunc_normal_(child.weight, 0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif mode == "" and isinstance(child, AttentionPool):
            child.init_weights()
        elif needs_reset and callable(reset := getattr(child, "reset_parameters", None)):
            reset()


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize a table of positions to another grid, bicubic with antialiasing, in fp32.

    Args:
        table: (1, rows * columns, C).
        old: its rows and columns.
        new: the rows and columns of the result.

    Returns:
        (1, rows * columns, C), in the dtype of the table.
    """
    if new == old:
        return table
    maps = table.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, C, rows, columns)
    maps = F.interpolate(maps, new, mode="bicubic", antialias=True)
    return maps.flatten(2).transpose(1, 2).contiguous().to(table.dtype)
