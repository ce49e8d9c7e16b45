"""`open_clip.hf_model`: text towers based on Hugging Face models, and their poolers."""

from typing import Any

from torch import Tensor

from oneclip.config import CLIPTextCfg
from oneclip.model.hf_poolers import POOLERS as _POOLERS
from oneclip.model.hf_poolers import (
    ClsLastHiddenStatePooler,
    ClsPooler,
    MaxPooler,
    MeanPooler,
    register_pooler,
)
from oneclip.model.hf_poolers import camel_to_snake as _camel2snake
from oneclip.model.hf_tower import HFTextTower
from open_clip.hf_configs import arch_dict

__all__ = [
    "ClsLastHiddenStatePooler",
    "ClsPooler",
    "HFTextEncoder",
    "MaxPooler",
    "MeanPooler",
    "arch_dict",
    "register_pooler",
]


class _AcceptHFTextTower(type):
    """Metaclass that makes every `HFTextTower` an instance of `HFTextEncoder`."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, HFTextTower)


class HFTextEncoder(HFTextTower, metaclass=_AcceptHFTextTower):
    """Hugging Face text tower with the published arguments.

    Args:
        model_name_or_path: a repository on the Hugging Face hub, or a folder.
        output_dim: D, the width of the features.
        config: a `PretrainedConfig`; the encoder then has random weights, and BERT-like models have their pooling
            layer.
        pooler_type: "mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler", or the name of a
            registered pooler; None for the default of the model.
        proj_type: "linear", "mlp", or None if the model is as wide as its features.
        pretrained: download the published weights and start from them.
        output_tokens: also return the tokens.
    """

    def __init__(
        self,
        model_name_or_path: str,
        output_dim: int,
        config: Any = None,
        pooler_type: str | None = None,
        proj_type: str | None = None,
        pretrained: bool = True,
        output_tokens: bool = False,
    ) -> None:
        cfg = CLIPTextCfg(
            hf_model_name=model_name_or_path,
            hf_pooler_type=pooler_type,
            hf_proj_type=proj_type,
            hf_model_pretrained=pretrained and config is None,
            output_tokens=output_tokens,
        )
        super().__init__(cfg, output_dim, config, pooling_layer=None if config is None else True)
        self.context_length = getattr(self.config, "max_position_embeddings", 0)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode (B, L) token ids as (B, D) features; with `output_tokens` also return the tokens (B, L, C)."""
        return super().forward(x)

    def init_parameters(self) -> None:
        """Do nothing: transformers has initialized the encoder."""
