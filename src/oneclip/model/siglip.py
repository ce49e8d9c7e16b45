"""Image tower of SigLIP and SigLIP 2 (Zhai et al. 2023; Tschannen et al. 2025).

A vision transformer without class token, whose patches are pooled by attention from one learned query. Published
weights carry timm's names of its parts, and configurations timm's name of the whole, read by `siglip_names`.

Shapes: B batch, (H, W) pixels, N patches, C width, D joint embedding, here D = C.
"""

from typing import Any

from torch import Tensor, nn

from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError, nearest
from oneclip.model.scripting import unscripted
from oneclip.model.siglip_names import TrunkCfg, own_image_size, published_names
from oneclip.model.siglip_trunk import SigLIPTrunk
from oneclip.model.vision_common import pair


class SigLIPVision(nn.Module):
    """SigLIP's image tower, with the interface of open_clip's `TimmModel`.

    What a part holds decides what the tower takes and gives: other channels after `trunk.patch_embed.proj` was
    replaced, classes after `trunk.reset_classifier`.

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
        name = cfg.timm_model_name
        own_size = own_image_size(name, self.image_size)
        self.trunk = SigLIPTrunk(trunk, own_size, cfg.patch_dropout, cfg.timm_drop_path or 0.0, name)
        self.head = nn.Sequential()
        if self.image_size != own_size:  # only now, so that the same random numbers are drawn as by timm
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
        x = self.head(self.trunk(x))
        return x

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
    ) -> dict[str, Any]:
        """Encode images and keep the tokens of chosen blocks.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: all blocks (None), the last n (int), or those listed.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" for maps (B, C, rows, columns), "NLC" for tokens (B, N, C).
            output_extra_tokens: also give the tokens before the patches, if a program has added such.

        Returns:
            `image_intermediates`, `image_intermediates_prefix` where there are such tokens, and `image_features`
            (B, D) unless left out.

        Raises:
            ConfigError: on an unknown format or block, or if patch dropout while training leaves no map.
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

    @unscripted
    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the trunk but for its last layers: embeddings, each block, pooling (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many layers stay as they are, from the end; the final norm goes with the last block.
            freeze_bn_stats: without effect, this tower has no batch norm.

        Raises:
            ConfigError: if `unlocked_groups` is negative.
        """
        if unlocked_groups < 0:
            raise ConfigError(f"{unlocked_groups} groups cannot stay unlocked; give 0 to lock all of them")
        groups = self.trunk.layer_groups()
        for group in groups[: max(len(groups) - unlocked_groups, 0)]:
            for name in group:
                self.trunk.get_parameter(name).requires_grad = False

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.trunk.set_grad_checkpointing(enable)

    @unscripted
    def set_input_size(self, image_size: int | tuple[int, int]) -> None:
        """Take images of another size from now on: the learned positions are resized, bicubic with antialiasing."""
        self.trunk.set_input_size(pair(image_size))
        self.image_size = pair(image_size)
