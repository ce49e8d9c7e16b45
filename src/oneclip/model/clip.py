"""Pictures and captions into one space, by a dual encoder with its text tower flat in it or as a module of its own.

Shapes: B batch, L tokens, D joint embedding.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.model import untouched
from oneclip.model.build import build_text_tower, build_visual_tower, check_text_is_native
from oneclip.model.dual_encoder import DualEncoder, as_cfg
from oneclip.model.scripting import unscripted
from oneclip.model.text import TextTower, TextTransformer
from oneclip.model.token_checks import may_trim

if TYPE_CHECKING:
    from oneclip.model.hf_tower import HFTextTower


class CLIP(DualEncoder, TextTower):
    """A dual encoder whose text tower lies flat in it, as in the published checkpoints of OpenAI and OpenCLIP.

    Args:
        embed_dim: D.
        vision_cfg: the visual tower, as a configuration or a mapping of its fields.
        text_cfg: the text tower, likewise.
        quick_gelu: the activation of OpenAI's weights.
        init_logit_scale: logarithm of the temperature at the start of training.
        init_logit_bias: added to the logits (Zhai et al. 2023, SigLIP); None for none.
        nonscalar_logit_scale: give temperature and bias the shape (1,), as some sharding wrappers need.
        cast_dtype: of the linear weights later on; norms compute in fp32 if it is a 16-bit one.
        output_dict: whether `forward` gives a dict.
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
        check_text_is_native(cfg)
        if cfg.embed_cls:
            raise ConfigError(
                "a text tower with a class token is a module of its own: build a CustomTextCLIP"
            )
        vision = as_cfg(CLIPVisionCfg, vision_cfg)
        self.visual = build_visual_tower(embed_dim, vision, quick_gelu, cast_dtype)
        text: Any = build_text_tower(embed_dim, cfg, quick_gelu, cast_dtype)
        self._adopt(text)
        self._init_scale(init_logit_scale, init_logit_bias, nonscalar_logit_scale)

    @unscripted
    def _adopt(self, text: TextTransformer) -> None:
        """Take over the parts of a text tower, in the order of the published model."""
        self.transformer = text.transformer
        self.context_length, self.vocab_size = text.context_length, text.vocab_size
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.projects_by_layer = text.projects_by_layer
        self.text_pool_type, self.text_eos_id = text.pool_type, text.eos_id
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self._set_plain(text.heads, text.pad_id)

    @unscripted
    def _set_plain(self, heads: int, pad_id: int) -> None:
        """Say that there is no class token and no mask of padding, which a flat text tower never has."""
        self.heads, self.pad_id = heads, pad_id
        self.use_pad_mask = self.correct_cls_mask = False
        self.register_parameter("cls_emb", None)

    def pooling(self) -> tuple[str, int]:
        """Which token is pooled, see `pool_text`, and the end-of-text id that "eos" looks for."""
        return self.text_pool_type, self.text_eos_id

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        if not torch.jit.is_scripting():
            text = self.trim_unseen(text)
        features, _ = self._encode(text)
        return self._features(features, normalize)

    @unscripted
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {"positional_embedding"}

    @unscripted
    def _text_tower(self) -> TextTower:
        return self


class CustomTextCLIP(DualEncoder):
    """A dual encoder whose text tower is a module of its own, `text`; arguments as for `CLIP`."""

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
        self.context_length = self.text.context_length
        self.vocab_size = self.text.vocab_size
        self._init_scale(init_logit_scale, init_logit_bias, nonscalar_logit_scale)

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return self._features(self.text(text), normalize)

    @unscripted
    def trim(self, text: Tensor) -> Tensor:
        """Cut off the token ids that cannot change the features, see `TextTower.trim`."""
        return text if self.text.output_tokens else self.text.trim(text)

    @unscripted
    def trim_unseen(self, text: Tensor) -> Tensor:
        """`trim`, where no hook, patch or replaced part could see the difference; else the ids as they are."""
        return self.trim(text) if may_trim() and untouched.is_untouched(self.text) else text

    @unscripted
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {f"text.{name}" for name in self.text.no_weight_decay()}

    @unscripted
    def _text_tower(self) -> "TextTower | HFTextTower":
        return self.text
