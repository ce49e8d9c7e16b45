"""Vision transformer tower (Dosovitskiy et al. 2021; Radford et al. 2021, section 2.4).

Shapes: B batch, (H, W) pixels, N patches, L = 1 + N tokens, C width, D joint embedding.
"""

from functools import partial

import torch
from torch import Tensor, nn

from oneclip.config import as_pair
from oneclip.errors import ConfigError
from oneclip.model.attention import AttentionalPooler, Norm
from oneclip.model.freeze import Part, parameters_of, unlock_last
from oneclip.model.layers import LayerNorm, PatchDropout
from oneclip.model.transformer import Activation, Transformer
from oneclip.model.vision_common import (
    as_maps,
    channels_of,
    check_images,
    check_output_format,
    check_patches,
)


class VisionTransformer(nn.Module):
    """Patches and a class token through a transformer, pooled and projected.

    Args:
        image_size: side of the images, or (height, width), in pixels.
        patch_size: side of the patches, or (height, width), in pixels.
        width: C.
        layers, heads, mlp_ratio, ls_init_value: of the transformer.
        attentional_pool: pool by attention: True, or "parallel" or "cascade" for CoCa's two poolers.
        attn_pooler_queries: how many vectors the pooler returns.
        attn_pooler_heads: heads of the pooler.
        output_dim: D.
        patch_dropout: share of the patches left out in training.
        no_ln_pre: leave out the norm before the transformer.
        pos_embed_type: "learnable" or "sin_cos_2d".
        pool_type: "tok", "avg" or "none".
        final_ln_after_pool: normalize the pooled token instead of all tokens.
        act_layer, norm_layer: make the activations and the norms.
        output_tokens: also return the tokens.
        block_type: as in `Transformer`, and so are the options that follow it.

    Raises:
        ConfigError: if the arguments contradict each other.
    """

    extra: str | None = None

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        ls_init_value: float | None = None,
        attentional_pool: bool | str = False,
        attn_pooler_queries: int = 256,
        attn_pooler_heads: int = 8,
        output_dim: int = 512,
        patch_dropout: float = 0.0,
        no_ln_pre: bool = False,
        pos_embed_type: str = "learnable",
        pool_type: str = "tok",
        final_ln_after_pool: bool = False,
        act_layer: Activation = nn.GELU,
        norm_layer: Norm = LayerNorm,
        output_tokens: bool = False,
        block_type: str | None = None,
        qk_norm: bool = False,
        scaled_cosine_attn: bool = False,
        scale_heads: bool = False,
        scale_attn_inner: bool = False,
        scale_attn: bool = False,
        scale_fc: bool = False,
    ) -> None:
        super().__init__()
        if pool_type not in ("tok", "avg", "none"):
            raise ConfigError(
                f"pool_type of the visual tower is {pool_type!r}; expected 'tok', 'avg' or 'none'"
            )
        if attentional_pool not in (False, True, "parallel", "cascade"):
            raise ConfigError(
                f"attentional_pool is {attentional_pool!r}; expected a boolean, 'parallel' or 'cascade'"
            )
        self.output_tokens = output_tokens
        self.image_size = as_pair(image_size)
        self.patch_size = as_pair(patch_size)
        self.grid_size = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.final_ln_after_pool = final_ln_after_pool
        self.output_dim = output_dim
        self.pool_type = pool_type if not isinstance(attentional_pool, str) else "none"
        self.attn_pool_type = attentional_pool if isinstance(attentional_pool, str) else ""

        self.conv1 = nn.Conv2d(3, width, kernel_size=self.patch_size, stride=self.patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.learns_positions = pos_embed_type == "learnable"
        self.positional_embedding = _init_positions(pos_embed_type, width, self.grid_size)
        self.patch_dropout = PatchDropout(patch_dropout) if patch_dropout > 0 else nn.Identity()
        self.ln_pre = nn.Identity() if no_ln_pre else norm_layer(width)
        self.transformer = Transformer(
            width,
            layers,
            heads,
            mlp_ratio,
            ls_init_value=ls_init_value,
            act_layer=act_layer,
            norm_layer=norm_layer,
            block_type=block_type,
            qk_norm=qk_norm,
            scaled_cosine_attn=scaled_cosine_attn,
            scale_heads=scale_heads,
            scale_attn_inner=scale_attn_inner,
            scale_attn=scale_attn,
            scale_fc=scale_fc,
        )
        pooler = partial(AttentionalPooler, output_dim, n_head=attn_pooler_heads)
        self.attn_pool: nn.Module | None = (
            pooler(width, n_queries=attn_pooler_queries) if attentional_pool else None
        )
        # in a cascade its input is the output of the first pooler, which has another width
        source = output_dim if self.attn_pool_type == "cascade" else width
        self.attn_pool_contrastive: nn.Module | None = (
            pooler(source, n_queries=1) if self.attn_pool_type else None
        )
        self.ln_post = norm_layer(output_dim if attentional_pool and not self.attn_pool_type else width)
        pooled = output_dim if attentional_pool else width
        self.proj = nn.Parameter(scale * torch.randn(pooled, output_dim))
        self.init_parameters()

    @property
    def pooling(self) -> str:
        """Kind of pooling, see `ImageTower`."""
        if self.attn_pool is not None:
            return "attention"
        return {"tok": "token", "avg": "mean"}.get(self.pool_type, self.pool_type)

    def init_parameters(self) -> None:
        """Do nothing: the weights keep torch's initial values, as in the published models. Subclasses may differ."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalized; with `output_tokens` also the tokens (B, N, C or D).

        Raises:
            ShapeError: if the images do not fit the tower.
        """
        pooled, tokens = self._pool(self.run_blocks(self._embeds(x)))
        if self.proj is not None:
            pooled = pooled @ self.proj
        if self.output_tokens:
            return pooled, tokens
        return pooled

    def _embeds(self, x: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, L, C)."""
        return self.ln_pre(self.patch_dropout(self._embed_patches(x)))

    def _embed_patches(self, x: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as a class token and patches, with their positions: (B, L, C)."""
        self._check_images(x)
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, N, C)
        check_patches(x.shape[1], self.positional_embedding.shape[0] - 1)
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)  # (B, L, C)

    def run_blocks(self, x: Tensor) -> Tensor:
        """Run the blocks, (B, L, C) -> (B, L, C)."""
        return self.transformer(x)

    def _check_images(self, x: Tensor) -> None:
        """Raise ShapeError unless images fit the convolution and the positions, which a program may have replaced."""
        as_built = len(self.positional_embedding) == 1 + self.grid_size[0] * self.grid_size[1]
        check_images(x, self.image_size if as_built else None, channels_of(self.conv1))

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pool tokens (B, L, C) to (B, C or D); also return the tokens of the patches."""
        if self.attn_pool is not None:
            if self.attn_pool_contrastive is not None:
                x = self.ln_post(x)
                tokens = self.attn_pool(x)
                source = x if self.attn_pool_type == "parallel" else tokens
                return self.attn_pool_contrastive(source), tokens
            return self._global_pool(self.ln_post(self.attn_pool(x)))
        if self.final_ln_after_pool:
            pooled, tokens = self._global_pool(x)
            return self.ln_post(pooled), tokens
        return self._global_pool(self.ln_post(x))

    def _global_pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled token and the tokens of the patches, by `pool_type`."""
        if self.pool_type == "avg":
            return x[:, 1:].mean(dim=1), x[:, 1:]
        if self.pool_type == "tok":
            return x[:, 0], x[:, 1:]
        return x, x

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
        """Encode images and return the tokens of chosen blocks.

        Args:
            x: (B, 3, H, W), preprocessed.
            indices: which blocks, see `take_indices`.
            stop_early: with `intermediates_only`, compute nothing past the last block chosen.
            normalize_intermediates: apply the tower's final norm to them.
            intermediates_only: leave out `image_features`.
            output_fmt: "NCHW" maps (B, C, rows, columns), or "NLC" tokens (B, N, C).
            output_extra_tokens: also return the class tokens (B, 1, C).

        Returns:
            `image_intermediates`, `image_intermediates_prefix` if requested, and `image_features` (B, D) unless left
            out.

        Raises:
            ConfigError: on an unknown format, or if patch dropout in training leaves no complete map.
        """
        check_output_format(output_fmt, ("NCHW", "NLC"))
        grid = (x.shape[2] // self.patch_size[0], x.shape[3] // self.patch_size[1])
        tokens = self._embeds(x)
        if output_fmt == "NCHW" and tokens.shape[1] != 1 + grid[0] * grid[1]:
            raise ConfigError(
                "patch dropout removed patches, so there is no complete map: call eval() first, or request 'NLC'"
            )
        last, kept = self.transformer.forward_intermediates(
            tokens, indices=indices, stop_early=stop_early and intermediates_only
        )
        if normalize_intermediates:
            if isinstance(self.ln_post, nn.LayerNorm) and self.ln_post.normalized_shape[0] != tokens.shape[2]:
                raise ConfigError(
                    "the final norm of this tower follows its attentional pool and does not fit the tokens of a block"
                )
            kept = [self.ln_post(y) for y in kept]
        patches = [y[:, 1:] for y in kept]
        if output_fmt == "NCHW":
            patches = [as_maps(y, grid) for y in patches]
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": patches}
        if output_extra_tokens:
            output["image_intermediates_prefix"] = [y[:, :1] for y in kept]
        if not intermediates_only:
            pooled, _ = self._pool(last)
            output["image_features"] = pooled @ self.proj if self.proj is not None else pooled
        return output

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the intermediates of chosen blocks do not need.

        Args:
            indices: which blocks, see `take_indices`; the blocks behind the last one are removed.
            prune_norm: also replace the final norm by an identity.
            prune_head: also remove the projection.

        Returns:
            The chosen indices, from the start.
        """
        chosen = self.transformer.prune_intermediate_layers(indices)
        if prune_norm:
            self.ln_post = nn.Identity()
        if prune_head:
            self.register_parameter("proj", None)
        return chosen

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the tower except its last groups: embeddings, each block, projection (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many groups stay trainable, from the end; the pooling belongs to the last block.
            freeze_bn_stats: without effect, this tower has no batch norm.
        """
        groups = self.layer_groups()
        groups[-1] += parameters_of([self.attn_pool, self.attn_pool_contrastive, self.ln_post])
        unlock_last([*groups, parameters_of([self.proj])], unlocked_groups)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Group the parameters by layer: embeddings, each block; pooling, final norm and projection are left out."""
        positions = self.positional_embedding if self.learns_positions else None
        embeddings: list[Part] = [self.conv1, self.class_embedding, positions, self.ln_pre]
        return [
            parameters_of(embeddings),
            *(list(block.parameters()) for block in self.transformer.resblocks),
        ]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.transformer.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Name the parameters that weight decay should skip, in addition to vectors and scalars."""
        return {"positional_embedding", "class_embedding"}


def _init_positions(kind: str, width: int, grid: tuple[int, int]) -> nn.Parameter:
    """Make the table of positions, (1 + rows columns, C); only learnable ones are trained."""
    if kind == "learnable":
        return nn.Parameter(width**-0.5 * torch.randn(1 + grid[0] * grid[1], width))
    if kind == "sin_cos_2d":
        return nn.Parameter(sin_cos_2d(width, grid), requires_grad=False)
    raise ConfigError(f"pos_embed_type is {kind!r}; expected 'learnable' or 'sin_cos_2d'")


def sin_cos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """Compute fixed two-dimensional positions (Vaswani et al. 2017 per axis, as in He et al. 2022, MAE).

    Args:
        width: C, a multiple of four.
        grid: rows and columns of patches.

    Returns:
        (1 + rows columns, C) float32; the class token's row is zero, then column waves before row waves.
    """
    if width % 4:
        raise ConfigError(f"sin-cos positions need a width that is a multiple of 4; found {width}")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1])
    columns = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0])
    waves = [axis[:, None] * frequencies for axis in (columns, rows)]
    table = torch.cat([torch.cat([wave.sin(), wave.cos()], dim=1) for wave in waves], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()
