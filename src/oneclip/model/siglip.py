"""Image tower of SigLIP and SigLIP 2 (Zhai et al. 2023; Tschannen et al. 2025).

A vision transformer without class token, whose patches are pooled by attention from one learned query. Published
weights have timm's names of its parts, and configurations have timm's name of the tower, see `siglip_names`.

Shapes: B batch, (H, W) pixels, N patches, C width, D joint embedding, here D = C.
"""

from typing import Any

from torch import Tensor, nn

from oneclip.config import CLIPVisionCfg, as_pair
from oneclip.errors import ConfigError, nearest_names
from oneclip.model.freeze import check_count, parameters_of
from oneclip.model.siglip_names import TrunkCfg, own_image_size, published_names
from oneclip.model.siglip_trunk import SigLIPTrunk


class SigLIPVision(nn.Module):
    """SigLIP's image tower, with the interface of open_clip's `TimmModel`.

    Its parts decide its inputs and outputs: other channels after `trunk.patch_embed.proj` was replaced, classes after
    `trunk.reset_classifier`.

    Args:
        cfg: the tower by timm's name or by numbers, see `TrunkCfg.of_cfg`; `image_size`, `patch_dropout` and
            `timm_drop_path` are used too.
        embed_dim: D, the width of that trunk.

    Raises:
        ConfigError: if the name is not one of these, or `embed_dim` is not its width.
    """

    extra: str | None = None
    output_tokens = False

    def __init__(self, cfg: CLIPVisionCfg, embed_dim: int) -> None:
        super().__init__()
        trunk = TrunkCfg.of_cfg(cfg)
        if trunk is None:
            near = nearest_names(cfg.timm_model_name or "", published_names())
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"{cfg.timm_model_name!r} is not the name of a SigLIP image tower{hint}")
        if embed_dim != trunk.size.width:
            raise ConfigError(
                f"embed_dim is {embed_dim}; the features of this tower have its width, {trunk.size.width}"
            )
        self.image_size = as_pair(cfg.image_size)
        self.output_dim = embed_dim
        name = cfg.timm_model_name
        own_size = own_image_size(name, self.image_size)
        self.trunk = SigLIPTrunk(trunk, own_size, cfg.patch_dropout, cfg.timm_drop_path or 0.0, name)
        self.head = nn.Sequential()
        if (
            self.image_size != own_size
        ):  # after the trunk, so that the same random numbers are drawn as in timm
            self.trunk.set_input_size(self.image_size)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalized.

        Raises:
            ShapeError: if the images are not of the tower's size.
        """
        return self.head(self.trunk(x))

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return self.trunk.patch_embed.grid_size

    @property
    def pooling(self) -> str:
        """Kind of pooling, see `ImageTower`."""
        if self.trunk.attn_pool is not None:
            return "attention"
        return {"": "none", "avg": "mean"}.get(self.trunk.global_pool, "other")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Any]:
        """Encode images and return the tokens of chosen blocks.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: all blocks (None), the last n (int), or those listed.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" for maps (B, C, rows, columns), "NLC" for tokens (B, N, C).
            output_extra_tokens: also return the tokens before the patches, if a program has added any.

        Returns:
            `image_intermediates`, `image_intermediates_prefix` if there are such tokens, and `image_features`
            (B, D) unless left out.

        Raises:
            ConfigError: on an unknown format or block, or if patch dropout in training leaves no complete map.
            ShapeError: if the images are not of the tower's size.
        """
        output: dict[str, Any] = self.trunk.forward_intermediates(
            x,
            indices=indices,
            return_prefix_tokens=output_extra_tokens,
            norm=normalize_intermediates,
            stop_early=stop_early and intermediates_only,  # else the features would lack the last blocks
            output_fmt=output_fmt,
            intermediates_only=intermediates_only,
            output_dict=True,
        )
        if not intermediates_only:
            output["image_features"] = self.head(self.trunk.forward_head(output["image_features"]))
        return output

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the trunk except its last layers: embeddings, each block, pooling (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many layers are unchanged, from the end; the final norm belongs to the last block.
            freeze_bn_stats: without effect, this tower has no batch norm.

        Raises:
            ConfigError: if `unlocked_groups` is negative.
        """
        check_count(unlocked_groups, "groups")
        groups = self.trunk.parameter_groups()
        for group in groups[: max(len(groups) - unlocked_groups, 0)]:
            for name in group:
                self.trunk.get_parameter(name).requires_grad = False

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer: embeddings, each block; final norm and pooling are left out."""
        embeddings = parameters_of([self.trunk.patch_embed, self.trunk.pos_embed])
        return [embeddings, *(list(block.parameters()) for block in self.trunk.blocks)]

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars: none, as published."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.trunk.set_grad_checkpointing(enable)

    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Change the image size: the learned positions are resized, bicubic with antialiasing."""
        self.trunk.set_input_size(as_pair(image_size))
        self.image_size = as_pair(image_size)
