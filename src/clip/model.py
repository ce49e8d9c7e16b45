"""`clip.model`: OpenAI's classes on `oneclip.model`, with their arguments and their layout of tensors.

Shapes: B batch, L tokens, C width, D joint embedding. Transformers and blocks take and give (L, B, C) and know their
own mask. In memory the batch stays first: what turns the axes are views.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import oneclip.model
from oneclip.checkpoint import build_blank, infer_openai_config, load_into
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.model import Attention, AttentionPool2d, BlockCfg, Bottleneck, LayerNorm, QuickGELU

__all__ = [
    "CLIP",
    "AttentionPool2d",
    "Bottleneck",
    "LayerNorm",
    "ModifiedResNet",
    "QuickGELU",
    "ResidualAttentionBlock",
    "Transformer",
    "VisionTransformer",
    "build_model",
    "convert_weights",
]

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # what OpenAI's archives keep beside them
HEAD_WIDTH = 64  # of OpenAI's models, in both towers


class ResidualAttentionBlock(oneclip.model.ResidualAttentionBlock):
    """A block with QuickGELU that knows its mask.

    Args:
        d_model: C.
        n_head: heads.
        attn_mask: (L, L) added to the attention logits; a shorter sequence takes its first rows and columns.
    """

    def __init__(self, d_model: int, n_head: int, attn_mask: Tensor | None = None) -> None:
        super().__init__(BlockCfg(width=d_model, heads=n_head, quick_gelu=True))
        self.register_buffer("attn_mask", attn_mask, persistent=False)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(L, B, C) -> (L, B, C); `attn_mask` in place of the block's own."""
        mask = attn_mask
        if mask is None and self.attn_mask is not None:
            mask = self.attn_mask[: x.shape[0], : x.shape[0]]
        y = self.attend(x.transpose(0, 1), mask)
        return self.feed_forward(y).transpose(0, 1)


class Transformer(oneclip.model.Transformer):
    """A stack of such blocks.

    Args:
        width: C.
        layers: how many.
        heads: heads of each.
        attn_mask: as in `ResidualAttentionBlock`.
    """

    def __init__(self, width: int, layers: int, heads: int, attn_mask: Tensor | None = None) -> None:
        super().__init__(BlockCfg(width=width, heads=heads, quick_gelu=True), layers=0)
        self.layers = layers
        blocks = [ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(L, B, C) -> (L, B, C)."""
        for block in self.resblocks:
            if not torch.jit.is_scripting() and self.grad_checkpointing:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        indices: int | list[int] | None = None,
        stop_early: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """As in `oneclip.model.Transformer`: this one takes and gives (B, L, C), whatever `forward` does."""
        x, kept = super().forward_intermediates(x.transpose(0, 1), attn_mask, indices, stop_early)
        return x.transpose(0, 1), [y.transpose(0, 1) for y in kept]


class VisionTransformer(oneclip.model.VisionTransformer):
    """The visual tower of OpenAI's ViT models.

    Args:
        input_resolution: side of the pictures, in pixels.
        patch_size: side of a patch, in pixels.
        width: C.
        layers: blocks.
        heads: heads of each block.
        output_dim: D.
    """

    def __init__(
        self, input_resolution: int, patch_size: int, width: int, layers: int, heads: int, output_dim: int
    ) -> None:
        cfg = CLIPVisionCfg(
            layers, width, head_width=width // heads, patch_size=patch_size, image_size=input_resolution
        )
        super().__init__(cfg, output_dim, quick_gelu=True)
        self.input_resolution = input_resolution

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return x

    @torch.jit.ignore
    def _make_transformer(self, blocks: BlockCfg, layers: int) -> Transformer:
        return Transformer(blocks.width, layers, blocks.heads)


class ModifiedResNet(oneclip.model.ModifiedResNet):
    """The visual tower of OpenAI's ResNet models.

    Args:
        layers: blocks in each of the four stages.
        output_dim: D.
        heads: heads of the attention pool.
        input_resolution: side of the pictures, in pixels.
        width: channels after the stem.
    """

    def __init__(
        self, layers: Any, output_dim: int, heads: int, input_resolution: int = 224, width: int = 64
    ) -> None:
        super().__init__(layers, output_dim, heads, input_resolution, width)
        self.input_resolution = input_resolution


class CLIP(oneclip.model.CLIP):
    """OpenAI's CLIP: `oneclip.model.CLIP` whose forward gives logits, with OpenAI's ten arguments.

    Args:
        embed_dim: D.
        image_resolution: side of the pictures, in pixels.
        vision_layers: blocks of a vision transformer, or those of the four stages of a ResNet.
        vision_width: width of the visual tower.
        vision_patch_size: side of a patch, in pixels; a ResNet has none.
        context_length: the longest caption, in tokens.
        vocab_size: token ids.
        transformer_width: width of the text tower.
        transformer_heads: heads of its blocks.
        transformer_layers: its blocks.
    """

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: tuple[int, int, int, int] | int,
        vision_width: int,
        vision_patch_size: int | None,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int,
        transformer_layers: int,
    ) -> None:
        vision = CLIPVisionCfg(
            vision_layers, vision_width, head_width=HEAD_WIDTH, image_size=image_resolution
        )
        if vision_patch_size is not None:
            vision.patch_size = vision_patch_size
        text = CLIPTextCfg(
            context_length,
            vocab_size,
            width=transformer_width,
            heads=transformer_heads,
            layers=transformer_layers,
        )
        super().__init__(embed_dim, vision, text, quick_gelu=True)

    __jit_unused_properties__ = ("dtype",)  # TorchScript would give a number for it

    @property
    def dtype(self) -> torch.dtype:
        """What pictures and tokens are cast to: the dtype of the convolutions and linear layers."""
        return self.visual.conv1.weight.dtype

    @torch.jit.export
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Encode pictures (B, 3, H, W) of any dtype to (B, D)."""
        return self._features(self.visual(image.to(self.visual.conv1.weight.dtype)), normalize)

    @torch.jit.ignore
    def _cast(self, image: Tensor) -> Tensor:
        return image.to(self.dtype)

    @torch.jit.ignore
    def initialize_parameters(self) -> None:
        """Draw the weights anew, as training begins with them (Radford et al. 2021, section 2.5)."""
        self._init_text_parameters()
        if isinstance(self.visual, ModifiedResNet):
            self.visual.init_parameters()

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Compare pictures with captions.

        Args:
            image: (N, 3, H, W), preprocessed.
            text: (M, L) token ids.

        Returns:
            `logits_per_image` (N, M), the cosine similarities times the temperature, and their transpose
            `logits_per_text`.
        """
        return self.get_logits(image, text)

    @torch.jit.ignore
    def build_attention_mask(self) -> Tensor:
        """The causal mask of the text tower: (L, L), minus infinity above the diagonal."""
        return causal_mask(self.context_length)

    def _run_text_blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, L, C); the transformer knows its mask."""
        x = self.transformer(x.transpose(0, 1)).transpose(0, 1)
        return x

    @torch.jit.ignore
    def _make_visual(self, embed_dim: int, cfg: CLIPVisionCfg, quick_gelu: bool) -> nn.Module:
        heads = cfg.width // HEAD_WIDTH
        if isinstance(cfg.layers, int):
            return VisionTransformer(cfg.image_size, cfg.patch_size, cfg.width, cfg.layers, heads, embed_dim)
        return ModifiedResNet(cfg.layers, embed_dim, cfg.width * 32 // HEAD_WIDTH, cfg.image_size, cfg.width)

    @torch.jit.ignore
    def _make_text_transformer(self, blocks: BlockCfg, layers: int) -> Transformer:
        return Transformer(blocks.width, layers, blocks.heads, self.build_attention_mask())


def causal_mask(length: int) -> Tensor:
    """(L, L): zero where a token may look, minus infinity where it may not."""
    return torch.full((length, length), float("-inf")).triu_(1)


def convert_weights(model: nn.Module) -> None:
    """Make convolutions, linear layers, attention and projections fp16, in place; norms and embeddings stay."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, Attention, nn.MultiheadAttention)):
            halved = list(module.parameters(recurse=False))
        else:
            halved = [getattr(module, name, None) for name in ("text_projection", "proj")]
        for parameter in halved:
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.half()


def build_model(state_dict: Mapping[str, Tensor]) -> CLIP:
    """A model in fp16 from the state dict of an OpenAI checkpoint, whose shapes say what it is.

    Raises:
        CheckpointError: if it is no such state dict.
    """
    weights = {key: value for key, value in state_dict.items() if key not in NOT_WEIGHTS}
    model = build_blank(infer_openai_config(weights), from_config)
    convert_weights(model)
    load_into(model, weights, source="the state dict")
    return model.eval()


def from_config(cfg: ModelCfg) -> CLIP:
    """A model with random weights from the configuration of an OpenAI checkpoint."""
    vision, text = cfg.vision_cfg, cfg.text_cfg
    return CLIP(
        cfg.embed_dim,
        vision.image_size,
        vision.layers,
        vision.width,
        vision.patch_size if isinstance(vision.layers, int) else None,
        text.context_length,
        text.vocab_size,
        text.width,
        text.heads,
        text.layers,
    )
