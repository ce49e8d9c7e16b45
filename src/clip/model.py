"""`clip.model`: OpenAI's classes on those of `oneclip.model`, with their arguments, parts and layout of tensors.

Each class inherits what is done with its parts, and registers them as OpenAI's does: the same names, in the same order.

Shapes: B batch, L tokens, C width, D joint embedding. Transformers and blocks take and return (L, B, C) and know their
own mask.
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
from oneclip.model.attention import check_heads, is_unseen, self_attention
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

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # what OpenAI's archives keep beside them
HEAD_WIDTH = 64  # of OpenAI's models, in both towers


class Bottleneck(oneclip.model.Bottleneck):
    """A residual block of `ModifiedResNet`.

    Args:
        inplanes: channels of the input.
        planes: a quarter of the channels of the output.
        stride: 1 or 2.
    """

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__(inplanes, planes, stride)
        _rename(self, {"act1": "relu1", "act2": "relu2", "act3": "relu3"})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        if self.downsample is not None:
            x = self.downsample(x)
        out += x  # in place, as there
        out = self.relu3(out)
        return out


class ModifiedResNet(oneclip.model.ModifiedResNet):
    """The visual tower of OpenAI's ResNet models.

    Args:
        layers: blocks in each of the four stages.
        output_dim: D.
        heads: heads of the attention pool.
        input_resolution: side of the images, in pixels.
        width: channels after the stem.
    """

    block = Bottleneck

    def __init__(
        self, layers: Any, output_dim: int, heads: int, input_resolution: int = 224, width: int = 64
    ) -> None:
        super().__init__(layers, output_dim, heads, input_resolution, width)
        self.input_resolution = input_resolution
        _rename(self, {"act1": "relu1", "act2": "relu2", "act3": "relu3"})

    def init_parameters(self) -> None:
        """Do nothing: `CLIP.initialize_parameters` draws these weights."""

    def stem(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) of any dtype -> (B, width, H / 4, W / 4)."""
        x = x.to(self.conv1.weight.dtype)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        x = self.avgpool(x)
        return x


class ResidualAttentionBlock(oneclip.model.ResidualAttentionBlock):
    """A block with QuickGELU that knows its mask.

    Args:
        d_model: C.
        n_head: heads.
        attn_mask: (L, L) added to the attention logits; a shorter sequence takes its last rows and columns.
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
        """Attend from normalised tokens (L, B, C) to themselves, under the block's mask: (L, B, C)."""
        mask = self.attn_mask
        if mask is not None:
            mask = mask[-x.shape[0] :, -x.shape[0] :].to(dtype=x.dtype, device=x.device)
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves out what this condition alone guards
            if is_unseen(self.attn):
                return self_attention(self.attn, x, mask)
        out: Tensor = self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(L, B, C) -> (L, B, C)."""
        x = x + self.attention(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class Transformer(oneclip.model.Transformer):
    """A stack of such blocks.

    Args:
        width: C.
        layers: how many.
        heads: heads of each.
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
        """(L, B, C) -> (L, B, C)."""
        if torch.jit.is_scripting() or not self.grad_checkpointing:
            x = self.resblocks(x)
        else:
            for block in self.resblocks:
                x = checkpoint(block, x, use_reentrant=False)
        return x

    @torch.jit.ignore
    def run_block(self, block: nn.Module, x: Tensor, attn_mask: Tensor | None) -> Tensor:
        """One block of `forward_intermediates`, which knows its mask."""
        out: Tensor = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return out


class VisionTransformer(oneclip.model.VisionTransformer):
    """The visual tower of OpenAI's ViT models.

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
        self.pool_type, self.final_ln_after_pool = "tok", True  # the class token, normalised by itself
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
        """Images (B, 3, H, W) to tokens (B, L, C)."""
        x = self.ln_pre(self._embed_patches(x))
        return x

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return x


class CLIP(oneclip.model.CLIP):
    """OpenAI's CLIP: `oneclip.model.CLIP` whose forward gives logits, with OpenAI's ten arguments.

    Args:
        embed_dim: D.
        image_resolution: side of the images, in pixels.
        vision_layers: blocks of a vision transformer, or those of the four stages of a ResNet.
        vision_width: width of the visual tower.
        vision_patch_size: side of a patch, in pixels; a ResNet has none.
        context_length: the longest text, in tokens.
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
        self.projects_by_layer = False
        self.text_pool_type, self.text_eos_id = "argmax", vocab_size - 1
        self.register_buffer("attn_mask", mask.clone(), persistent=False)
        self._set_plain(transformer_heads, pad_id=0)
        self._init_scale(INIT_LOGIT_SCALE, None, False)
        self.initialize_parameters()

    __jit_unused_properties__ = ("dtype",)  # TorchScript would give a number for it

    @property
    def dtype(self) -> torch.dtype:
        """What images and tokens are cast to: the dtype of the convolutions and linear layers."""
        return self.visual.conv1.weight.dtype

    @torch.jit.export
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Encode images (B, 3, H, W) of any dtype to (B, D)."""
        return self._features(self.visual(image.to(self.visual.conv1.weight.dtype)), normalize)

    @torch.jit.ignore
    def _cast(self, image: Tensor) -> Tensor:
        return image.to(self.dtype)

    @torch.jit.ignore
    def initialize_parameters(self) -> None:
        """Draw the weights anew, as training begins with them (Radford et al. 2021, section 2.5)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if isinstance(self.visual, ModifiedResNet):
            oneclip.model.ModifiedResNet.init_parameters(self.visual)
        width = self.transformer.width
        init_blocks(self.transformer.resblocks, width, self.transformer.layers)
        if self.text_projection is not None:
            nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Compare images with texts.

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
        """(B, L, C) -> (B, L, C); the blocks know their mask."""
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return x


def convert_weights(model: nn.Module) -> None:
    """Make convolutions, linear layers, attention and projections fp16, in place; norms and embeddings stay."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
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
    model = from_config(infer_openai_config(weights))
    convert_weights(model)
    load_into(model, weights, source="the state dict")
    return model.eval()


def from_config(cfg: ModelCfg) -> CLIP:
    """A model with random weights from the configuration of an OpenAI checkpoint.

    They are drawn, though weights will replace them: random numbers that a program draws afterwards are then those
    that it draws with OpenAI's package.
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
    """Register children under other names, in their places."""
    module._modules = {names.get(name, name): child for name, child in module._modules.items()}
