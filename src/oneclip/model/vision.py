"""Vision transformer tower: pictures to feature vectors (Dosovitskiy et al. 2021; Radford et al. 2021, section 2.4).

Shapes: B batch, (H, W) pixels, N patches, L = 1 + N tokens, C width, D joint embedding.
"""

import torch
from torch import Tensor, nn

from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.model.attention import AttentionalPooler
from oneclip.model.layers import PatchDropout
from oneclip.model.locking import Part, unlock_last
from oneclip.model.pictures import as_maps, check_output_format, check_pictures, pair
from oneclip.model.scripting import unscripted
from oneclip.model.transformer import BlockCfg, Transformer


class VisionTransformer(nn.Module):
    """Patches and a class token through a transformer, pooled and projected.

    Args:
        cfg: widths, depth and pooling of the tower.
        embed_dim: D.
        quick_gelu: the activation of OpenAI's weights.

    Raises:
        ConfigError: if the configuration contradicts itself.
    """

    def __init__(self, cfg: CLIPVisionCfg, embed_dim: int, quick_gelu: bool = False) -> None:
        super().__init__()
        if not isinstance(cfg.layers, int):
            raise ConfigError(f"a vision transformer's layers is one number; found {cfg.layers}")
        if cfg.pool_type not in ("tok", "avg", "none"):
            raise ConfigError(
                f"pool_type of the visual tower is {cfg.pool_type!r}; expected 'tok', 'avg' or 'none'"
            )
        if cfg.attentional_pool not in (False, True, "parallel", "cascade"):
            raise ConfigError(
                f"attentional_pool is {cfg.attentional_pool!r}; expected a boolean, 'parallel' or 'cascade'"
            )
        if cfg.patch_size is None:
            raise ConfigError("patch_size is None, which only a ResNet may have")
        blocks = BlockCfg.of_tower(cfg, heads=cfg.width // cfg.head_width, quick_gelu=quick_gelu)
        width = cfg.width
        self.image_size = pair(cfg.image_size)
        self.patch_size = pair(cfg.patch_size)
        self.grid_size = (self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1])
        self.output_dim = embed_dim
        self.output_tokens = cfg.output_tokens
        self.final_ln_after_pool = cfg.final_ln_after_pool
        self.pool_type = cfg.pool_type if not isinstance(cfg.attentional_pool, str) else "none"
        self.attn_pool_type = cfg.attentional_pool if isinstance(cfg.attentional_pool, str) else ""

        self.conv1 = nn.Conv2d(3, width, kernel_size=self.patch_size, stride=self.patch_size, bias=False)
        self.learns_positions = cfg.pos_embed_type == "learnable"
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        if self.learns_positions:
            positions = self.grid_size[0] * self.grid_size[1] + 1
            self.positional_embedding = nn.Parameter(scale * torch.randn(positions, width))
        elif cfg.pos_embed_type == "sin_cos_2d":
            table = sin_cos_2d(width, self.grid_size)
            self.positional_embedding = nn.Parameter(table, requires_grad=False)
        else:
            raise ConfigError(
                f"pos_embed_type is {cfg.pos_embed_type!r}; expected 'learnable' or 'sin_cos_2d'"
            )
        self.patch_dropout = PatchDropout(cfg.patch_dropout) if cfg.patch_dropout > 0 else nn.Identity()
        self.ln_pre = nn.Identity() if cfg.no_ln_pre else blocks.norm_layer(width)
        self.transformer = self._make_transformer(blocks, cfg.layers)

        self.attn_pool: nn.Module | None = None
        self.attn_pool_contrastive: nn.Module | None = None
        if cfg.attentional_pool:
            heads, queries = cfg.attn_pooler_heads, cfg.attn_pooler_queries
            self.attn_pool = AttentionalPooler(embed_dim, width, heads, queries)
            if self.attn_pool_type:
                # in cascade it pools what the first pooler gave, which has another width
                source = embed_dim if self.attn_pool_type == "cascade" else width
                self.attn_pool_contrastive = AttentionalPooler(embed_dim, source, heads, 1)
        pooled_width = embed_dim if cfg.attentional_pool and not self.attn_pool_type else width
        self.ln_post = blocks.norm_layer(pooled_width)
        self.proj = nn.Parameter(scale * torch.randn(embed_dim if cfg.attentional_pool else width, embed_dim))

    @unscripted
    def _make_transformer(self, blocks: BlockCfg, layers: int) -> Transformer:
        return Transformer(blocks, layers)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode pictures.

        Args:
            x: (B, 3, H, W), preprocessed.

        Returns:
            (B, D) features, not normalised; with `output_tokens` also the tokens (B, N, C or D).

        Raises:
            ShapeError: if the pictures are not of the tower's size.
        """
        pooled, tokens = self.pool(self.run_blocks(self.embed(x)))
        if self.proj is not None:
            pooled = pooled @ self.proj
        if self.output_tokens:
            return pooled, tokens
        return pooled

    def embed(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) to tokens (B, L, C)."""
        if not torch.jit.is_scripting():
            check_pictures(x, self.image_size)
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, N, C)
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)  # (B, L, C)
        x = self.ln_pre(self.patch_dropout(x))
        return x

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = self.transformer(x)
        return x

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, C) to what is projected (B, C or D), and the tokens that go with it."""
        if self.attn_pool is not None:
            if self.attn_pool_contrastive is not None:
                x = self.ln_post(x)
                tokens = self.attn_pool(x)
                source = x if self.attn_pool_type == "parallel" else tokens
                return self.attn_pool_contrastive(source), tokens
            return self.select(self.ln_post(self.attn_pool(x)))
        if self.final_ln_after_pool:
            pooled, tokens = self.select(x)
            return self.ln_post(pooled), tokens
        return self.select(self.ln_post(x))

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled token and the others, by `pool_type`."""
        if self.pool_type == "avg":
            return x[:, 1:].mean(dim=1), x[:, 1:]
        if self.pool_type == "tok":
            return x[:, 0], x[:, 1:]
        return x, x

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
            output_extra_tokens: also give the class tokens (B, 1, C).

        Returns:
            `image_intermediates`, `image_intermediates_prefix` if asked for, and `image_features` (B, D) unless left
            out.

        Raises:
            ConfigError: on an unknown format, or patch dropout while training, which leaves no map.
        """
        check_output_format(output_fmt, ("NCHW", "NLC"))
        tokens = self.embed(x)
        rows, columns = self.grid_size
        if output_fmt == "NCHW" and tokens.shape[1] != 1 + rows * columns:
            raise ConfigError(
                "patch dropout leaves no whole map of patches: call eval() first, or ask for 'NLC'"
            )
        last, kept = self.transformer.forward_intermediates(
            tokens, indices=indices, stop_early=stop_early and intermediates_only
        )
        if normalize_intermediates:
            if self.ln_post.get_parameter("weight").shape[0] != tokens.shape[2]:
                raise ConfigError(
                    "the final norm of this tower follows its attentional pool, it fits no block's tokens"
                )
            kept = [self.ln_post(y) for y in kept]
        patches = [y[:, 1:] for y in kept]
        if output_fmt == "NCHW":
            patches = [as_maps(y, self.grid_size) for y in patches]
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": patches}
        if output_extra_tokens:
            output["image_intermediates_prefix"] = [y[:, :1] for y in kept]
        if not intermediates_only:
            pooled, _ = self.pool(last)
            output["image_features"] = pooled @ self.proj if self.proj is not None else pooled
        return output

    @unscripted
    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the tower but for its last groups: embeddings, each block, projection (Zhai et al. 2022, LiT).

        Args:
            unlocked_groups: how many groups stay trainable, from the end; the last block goes with the pooling.
            freeze_bn_stats: without effect, this tower has no batch norm.
        """
        blocks: list[Part] = list(self.transformer.resblocks)
        positions = self.positional_embedding if self.learns_positions else None
        groups: list[list[Part]] = [
            [self.conv1, self.class_embedding, positions, self.ln_pre],
            *([block] for block in blocks[:-1]),
            [blocks[-1], self.attn_pool, self.attn_pool_contrastive, self.ln_post],
            [self.proj],
        ]
        unlock_last(groups, unlocked_groups)

    @unscripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.transformer.grad_checkpointing = enable

    @unscripted
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should pass over, besides vectors and scalars."""
        return {"positional_embedding", "class_embedding"}


def sin_cos_2d(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed two-dimensional positions (Vaswani et al. 2017 per axis, as in He et al. 2022, MAE).

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
