"""Pictures and captions into one space, by a dual encoder with its text tower flat in it or as a module of its own.

Shapes: B batch, L tokens, D joint embedding.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oneclip.config import INIT_LOGIT_SCALE, CLIPTextCfg, CLIPVisionCfg
from oneclip.errors import ConfigError
from oneclip.model.build import build_text_tower, check_text_is_native
from oneclip.model.captions import may_trim
from oneclip.model.dual import DualEncoder, as_cfg
from oneclip.model.scripting import unscripted
from oneclip.model.text import TextTower

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
        cast_dtype: accepted for older programs; norms here always compute in the precision of their own weights.
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
        text = as_cfg(CLIPTextCfg, text_cfg)
        check_text_is_native(text)
        if text.embed_cls:
            raise ConfigError(
                "a text tower with a class token is a module of its own: build a CustomTextCLIP"
            )
        self._init_dual(
            embed_dim,
            vision_cfg,
            quick_gelu,
            init_logit_scale,
            init_logit_bias,
            nonscalar_logit_scale,
            output_dict,
        )
        self._init_text(text, embed_dim, quick_gelu)

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        if not torch.jit.is_scripting() and may_trim():
            text = self.trim(text)
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
        self._init_dual(
            embed_dim,
            vision_cfg,
            quick_gelu,
            init_logit_scale,
            init_logit_bias,
            nonscalar_logit_scale,
            output_dict,
        )
        self.text = build_text_tower(embed_dim, as_cfg(CLIPTextCfg, text_cfg), quick_gelu)
        self.context_length = self.text.context_length
        self.vocab_size = self.text.vocab_size

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return self._features(self.text(text), normalize)

    @unscripted
    def trim(self, text: Tensor) -> Tensor:
        """Cut off the token ids that cannot change the features, see `TextTower.trim`."""
        return text if self.text.output_tokens else self.text.trim(text)

    @unscripted
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {f"text.{name}" for name in self.text.no_weight_decay()}

    @unscripted
    def _text_tower(self) -> "TextTower | HFTextTower":
        return self.text
