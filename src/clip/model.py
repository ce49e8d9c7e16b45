"""`clip.model`: OpenAI's classes, with their arguments, submodules and tensor layouts, based on `oneclip.model`.

Each class inherits its methods, and registers submodules with the same names and in the same order as OpenAI's class.

Shapes: B batch, L tokens, C width, D joint embedding. Transformers and blocks take and return (L, B, C), and store
their attention mask.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import oneclip.model
from oneclip.checkpoint import infer_openai_config, load_into
from oneclip.config import INIT_LOGIT_SCALE, ModelCfg
from oneclip.model import AttentionPool2d, LayerNorm, QuickGELU
from oneclip.model.attention import check_heads, is_replaceable, self_attention
from oneclip.model.text import causal_mask
from oneclip.model.transformer import init_blocks

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

METADATA_KEYS = (
    "input_resolution",
    "context_length",
    "vocab_size",
)  # numbers that OpenAI's archives store with the weights
HEAD_WIDTH = 64  # of both towers in OpenAI's models


class Bottleneck(oneclip.model.Bottleneck):
    """Residual block of `ModifiedResNet`.

    Args:
        inplanes: channels of the input.
        planes: channels of the output, divided by four.
        stride: 1 or 2.
    """

    relu1: nn.Module
    relu2: nn.Module
    relu3: nn.Module

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__(inplanes, planes, stride)
        _rename(self, {"act1": "relu1", "act2": "relu2", "act3": "relu3"})

    def forward(self, x: Tensor) -> Tensor:
        """Compute (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        if self.downsample is not None:
            x = self.downsample(x)
        out += x  # in place, as in OpenAI's code
        activated: Tensor = self.relu3(out)
        return activated


class ModifiedResNet(oneclip.model.ModifiedResNet):
    """Visual tower of OpenAI's ResNet models.

    Args:
        layers: blocks in each of the four stages.
        output_dim: D.
        heads: heads of the attention pool.
        input_resolution: side of the images, in pixels.
        width: channels after the stem.
    """

    block = Bottleneck
    relu1: nn.Module
    relu2: nn.Module
    relu3: nn.Module

    def __init__(
        self, layers: Any, output_dim: int, heads: int, input_resolution: int = 224, width: int = 64
    ) -> None:
        super().__init__(layers, output_dim, heads, input_resolution, width)
        self.input_resolution = input_resolution
        _rename(self, {"act1": "relu1", "act2": "relu2", "act3": "relu3"})

    def init_parameters(self) -> None:
        """Do nothing: `CLIP.initialize_parameters` initializes these weights."""

    def stem(self, x: Tensor) -> Tensor:
        """Compute (B, 3, H, W) of any dtype -> (B, width, H / 4, W / 4)."""
        x = x.to(self.conv1.weight.dtype)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        pooled: Tensor = self.avgpool(x)
        return pooled


class ResidualAttentionBlock(oneclip.model.ResidualAttentionBlock):
    """Transformer block with QuickGELU and a stored attention mask.

    Args:
        d_model: C.
        n_head: number of attention heads.
        attn_mask: (L, L) added to the attention logits; a shorter sequence uses its last rows and columns.
    """

    def __init__(self, d_model: int, n_head: int, attn_mask: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        check_heads(d_model, n_head)
        self.attn = nn.MultiheadAttention(d_model, n_head)
        self.ln_1 = LayerNorm(d_model)
        self.mlp = nn.Sequential(
            OrderedDict[str, nn.Module](
                c_fc=nn.Linear(d_model, d_model * 4), gelu=QuickGELU(), c_proj=nn.Linear(d_model * 4, d_model)
            )
        )
        self.ln_2 = LayerNorm(d_model)
        self.attn_mask = attn_mask

    def attention(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute masked self-attention of normalized tokens: (L, B, C) -> (L, B, C)."""
        mask = self.attn_mask
        if mask is not None:
            mask = mask[-x.shape[0] :, -x.shape[0] :].to(dtype=x.dtype, device=x.device)
        if is_replaceable(self.attn):
            return self_attention(self.attn, x, mask)
        out: Tensor = self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute (L, B, C) -> (L, B, C)."""
        x = x + self.attention(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class Transformer(oneclip.model.Transformer):
    """Stack of `ResidualAttentionBlock`.

    Args:
        width: C.
        layers: number of blocks.
        heads: heads of each block.
        attn_mask: as in `ResidualAttentionBlock`.
    """

    batch_first = False

    def __init__(self, width: int, layers: int, heads: int, attn_mask: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.width = width
        self.layers = layers
        self.grad_checkpointing = False
        blocks = [ResidualAttentionBlock(width, heads, attn_mask) for _ in range(layers)]
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute (L, B, C) -> (L, B, C)."""
        if not self.grad_checkpointing:
            out: Tensor = self.resblocks(x)
            return out
        for block in self.resblocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    def run_block(self, block: nn.Module, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """Run one block for `forward_intermediates`. The block has its own mask, so `attn_mask` is ignored."""
        out: Tensor = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return out


class VisionTransformer(oneclip.model.VisionTransformer):
    """Visual tower of OpenAI's ViT models.

    Args:
        input_resolution: side of the images, in pixels.
        patch_size: side of a patch, in pixels.
        width: C.
        layers: blocks.
        heads: heads of each block.
        output_dim: D.
    """

    def __init__(
        self, input_resolution: int, patch_size: int, width: int, layers: int, heads: int, output_dim: int
    ) -> None:
        nn.Module.__init__(self)
        self.input_resolution = input_resolution
        self.output_dim = output_dim
        self.image_size = (input_resolution, input_resolution)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (input_resolution // patch_size, input_resolution // patch_size)
        self.pool_type, self.final_ln_after_pool = (
            "tok",
            True,
        )  # pool the class token first, then normalize it
        self.output_tokens, self.learns_positions, self.attn_pool_type = False, True, ""
        self.attn_pool = self.attn_pool_contrastive = None

        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        positions = torch.randn((input_resolution // patch_size) ** 2 + 1, width)
        self.positional_embedding = nn.Parameter(scale * positions)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def _embeds(self, x: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, L, C)."""
        x = self.ln_pre(self._embed_patches(x))
        return x

    def run_blocks(self, x: Tensor) -> Tensor:
        """Run the blocks: (B, L, C) -> (B, L, C)."""
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return x


class CLIP(oneclip.model.CLIP):
    """OpenAI's CLIP: `oneclip.model.CLIP` with OpenAI's ten arguments and a `forward` that returns logits.

    Args:
        embed_dim: D.
        image_resolution: side of the images, in pixels.
        vision_layers: number of blocks of a vision transformer, or of each of the four stages of a ResNet.
        vision_width: width of the visual tower.
        vision_patch_size: side of a patch, in pixels; None for a ResNet.
        context_length: maximum number of tokens of a text.
        vocab_size: number of token ids.
        transformer_width: width of the text tower.
        transformer_heads: attention heads of the text tower.
        transformer_layers: number of blocks of the text tower.
    """

    visual: Any  # a VisionTransformer or a ModifiedResNet

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
        nn.Module.__init__(self)
        self.context_length, self.vocab_size = context_length, vocab_size
        self.output_dict = False
        if isinstance(vision_layers, int):
            size, patch, heads = image_resolution, vision_patch_size or 16, vision_width // HEAD_WIDTH
            self.visual = VisionTransformer(size, patch, vision_width, vision_layers, heads, embed_dim)
        else:
            heads = vision_width * 32 // HEAD_WIDTH
            self.visual = ModifiedResNet(vision_layers, embed_dim, heads, image_resolution, vision_width)
        mask = self.build_attention_mask()
        self.transformer = Transformer(transformer_width, transformer_layers, transformer_heads, mask)
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.text_pool_type, self.text_eos_id = "argmax", vocab_size - 1
        self.register_buffer("attn_mask", mask.clone(), persistent=False)
        self._set_plain(transformer_heads, pad_id=0)
        self._init_scale(INIT_LOGIT_SCALE, None, False)
        self.initialize_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the convolutions and linear layers; images and tokens are cast to it."""
        weight: Tensor = self.visual.conv1.weight
        return weight.dtype

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Encode images (B, 3, H, W) of any dtype to (B, D)."""
        return self._features(self.visual(image.to(self.visual.conv1.weight.dtype)), normalize)

    def _cast(self, image: Tensor) -> Tensor:
        return image.to(self.dtype)

    def initialize_parameters(self) -> None:
        """Initialize the weights for training (Radford et al. 2021, section 2.5)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if isinstance(self.visual, ModifiedResNet):
            oneclip.model.ModifiedResNet.init_parameters(self.visual)
        width = self.transformer.width
        init_blocks(self.transformer.resblocks, width, self.transformer.layers)
        if self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # OpenAI's
        """Compare images with texts.

        Args:
            image: (N, 3, H, W), preprocessed.
            text: (M, L) token ids.

        Returns:
            `logits_per_image` (N, M), the cosine similarities times the temperature, and its transpose
            `logits_per_text`.
        """
        return self.get_logits(image, text)

    def build_attention_mask(self) -> Tensor:
        """Build the causal mask of the text tower: (L, L), minus infinity above the diagonal."""
        return causal_mask(self.context_length)

    def _run_text_blocks(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run the blocks, which store their own mask: (B, L, C) -> (B, L, C)."""
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return x


def convert_weights(model: nn.Module) -> None:
    """Convert convolutions, linear layers, attention and projections to fp16 in place; norms and embeddings stay."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            halved: list[Any] = list(module.parameters(recurse=False))
        else:
            halved = [getattr(module, name, None) for name in ("text_projection", "proj")]
        for parameter in halved:
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.half()


def build_model(state_dict: Mapping[str, Tensor]) -> CLIP:
    """Build an fp16 model from the state dict of an OpenAI checkpoint; its shapes determine the architecture.

    Raises:
        CheckpointError: if it is not such a state dict.
    """
    weights = {key: value for key, value in state_dict.items() if key not in METADATA_KEYS}
    model = from_config(infer_openai_config(weights))
    convert_weights(model)
    load_into(model, weights, source="the state dict")
    return model.eval()


def from_config(cfg: ModelCfg) -> CLIP:
    """Build a model with random weights from the configuration of an OpenAI checkpoint.

    Weights are drawn even if others will replace them: random numbers that a program draws later are then the same as
    with OpenAI's package.
    """
    vision, text = cfg.vision_cfg, cfg.text_cfg
    patch: Any = vision.patch_size if isinstance(vision.layers, int) else None
    size: Any = vision.image_size
    return CLIP(
        cfg.embed_dim,
        size,
        vision.layers,
        vision.width,
        patch,
        text.context_length,
        text.vocab_size,
        text.width,
        text.heads,
        text.layers,
    )


def _rename(module: nn.Module, names: Mapping[str, str]) -> None:
    """Rename submodules and keep their order."""
    module._modules = {names.get(name, name): child for name, child in module._modules.items()}
