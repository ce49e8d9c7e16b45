"""CLIP: dual encoders whose text tower is flat in the model, or a module of its own.

Shapes: B batch, L tokens, D joint embedding.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.model import untouched
from oneclip.model.build import build_text_tower, build_visual_tower
from oneclip.model.dual_encoder import DualEncoder, as_cfg
from oneclip.model.protocols import TextTower
from oneclip.model.text import TextTransformer
from oneclip.model.text_base import TextTransformerBase
from oneclip.model.text_pooling import TextPooling


class CLIP(TextTransformerBase, DualEncoder):
    """A dual encoder whose text tower is flat in the model, as in the published checkpoints of OpenAI and OpenCLIP.

    Args:
        embed_dim: D.
        vision_cfg: the visual tower, as a configuration or a mapping of its fields.
        text_cfg: the text tower, in the same form.
        quick_gelu: use the activation of OpenAI's weights.
        init_logit_scale: logarithm of the temperature at the start of training.
        init_logit_bias: added to the logits (Zhai et al. 2023, SigLIP); None for no bias.
        nonscalar_logit_scale: give temperature and bias the shape (1,), as some sharding wrappers need.
        cast_dtype: the dtype that linear weights will have; if it has 16 bits, norms compute in fp32.
        output_dict: return a dict from `forward`.
    """

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: CLIPVisionCfg | Mapping[str, Any],
        text_cfg: CLIPTextCfg | Mapping[str, Any],
        quick_gelu: bool = False,
        init_logit_scale: float = INIT_LOGIT_SCALE,
        init_logit_bias: float | None = None,
        nonscalar_logit_scale: bool = False,
        cast_dtype: torch.dtype | None = None,
        output_dict: bool = False,
    ) -> None:
        super().__init__()
        self.output_dict = output_dict
        cfg = as_cfg(CLIPTextCfg, text_cfg)
        if cfg.hf_model_name:
            raise ConfigError(
                f"the text tower {cfg.hf_model_name!r} of Hugging Face is a module of its own: build a CustomTextCLIP"
            )
        if cfg.embed_cls:
            raise ConfigError(
                "a text tower with a class token is a module of its own: build a CustomTextCLIP"
            )
        vision = as_cfg(CLIPVisionCfg, vision_cfg)
        self.visual = build_visual_tower(embed_dim, vision, quick_gelu, cast_dtype)
        self._adopt(cast(TextTransformer, build_text_tower(embed_dim, cfg, quick_gelu, cast_dtype)))
        self._init_scale(init_logit_scale, init_logit_bias, nonscalar_logit_scale)

    def _adopt(self, text: TextTransformer) -> None:
        """Take over the parts of a text tower, in the order of the published model."""
        self.transformer = text.transformer
        self.context_length, self.vocab_size = text.context_length, text.vocab_size
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.text_pool_type, self.text_eos_id = text.pool_type, text.eos_id
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self._set_plain(text.heads, text.pad_id)

    def _set_plain(self, heads: int, pad_id: int) -> None:
        """Set the options of a text tower without class token and padding mask, which a flat one never has."""
        self.heads, self.pad_id = heads, pad_id
        self.use_pad_mask = self.correct_cls_mask = False
        self.register_parameter("cls_emb", None)

    def pool_settings(self) -> tuple[str, int]:
        return self.text_pool_type, self.text_eos_id

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        features, _ = self._encode(self.trim_unseen(text))
        return self._features(features, normalize)

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the text tower except its last groups; see `TextTransformer.lock`."""
        self._lock_text(unlocked_layers, freeze_layer_norm)

    def _set_text_grad_checkpointing(self, enable: bool) -> None:
        self.transformer.grad_checkpointing = enable

    def _text_no_weight_decay(self) -> set[str]:
        return {"positional_embedding"}

    def text_layer_groups(self) -> list[list[nn.Parameter]]:
        return self._text_layer_groups()

    def text_module(self) -> nn.Module:
        return self


class CustomTextCLIP(DualEncoder):
    """A dual encoder whose text tower is a module of its own, `text`; arguments as for `CLIP`."""

    text: nn.Module

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: CLIPVisionCfg | Mapping[str, Any],
        text_cfg: CLIPTextCfg | Mapping[str, Any],
        quick_gelu: bool = False,
        init_logit_scale: float = INIT_LOGIT_SCALE,
        init_logit_bias: float | None = None,
        nonscalar_logit_scale: bool = False,
        cast_dtype: torch.dtype | None = None,
        output_dict: bool = False,
    ) -> None:
        super().__init__()
        self.output_dict = output_dict
        vision, text = as_cfg(CLIPVisionCfg, vision_cfg), as_cfg(CLIPTextCfg, text_cfg)
        self.visual = build_visual_tower(embed_dim, vision, quick_gelu, cast_dtype)
        self.text = build_text_tower(embed_dim, text, quick_gelu, cast_dtype)
        self.context_length = self.text_tower().context_length
        self.vocab_size = self.text_tower().vocab_size
        self._init_scale(init_logit_scale, init_logit_bias, nonscalar_logit_scale)

    def text_tower(self) -> TextTower:
        """Return `text`, typed by its contract."""
        return cast(TextTower, self.text)

    def text_module(self) -> nn.Module:
        return self.text

    def text_parts(self) -> list[nn.Module]:
        return [self.text]

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return self._features(self.text(text), normalize)

    def text_pooling(self) -> TextPooling:
        return self.text_tower().text_pooling()

    def text_layer_groups(self) -> list[list[nn.Parameter]]:
        return self.text_tower().layer_groups()

    def trim(self, text: Tensor) -> Tensor:
        return text if self.text_tower().output_tokens else self.text_tower().trim(text)

    def trim_unseen(self, text: Tensor) -> Tensor:
        return self.trim(text) if not untouched.is_recorded() and untouched.is_untouched(self.text) else text

    def _text_intermediates(self, text: Tensor, *arguments: Any) -> dict[str, Any]:
        return self.text_tower().forward_intermediates(text, *arguments)

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        self.text_tower().lock(unlocked_layers, freeze_layer_norm)

    def _set_text_grad_checkpointing(self, enable: bool) -> None:
        self.text_tower().set_grad_checkpointing(enable)

    def _text_no_weight_decay(self) -> set[str]:
        return {f"text.{name}" for name in self.text_tower().no_weight_decay()}
