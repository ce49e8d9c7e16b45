"""`open_clip.hf_configs`: names of configuration fields of Hugging Face text models, by model type."""

from typing import Any

__all__ = ["arch_dict"]

_BERT = {
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
}
_ROBERTA = {**_BERT, "layer_attr": "layer", "token_embeddings_attr": "embeddings"}
_MT5 = {
    "context_length": "",
    "vocab_size": "vocab_size",
    "width": "d_model",
    "heads": "num_heads",
    "layers": "num_layers",
    "layer_attr": "block",
    "token_embeddings_attr": "embed_tokens",
}
_M2M100 = {
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "width": "d_model",
    "heads": "encoder_attention_heads",
    "layers": "encoder_layers",
}

arch_dict: dict[str, dict[str, Any]] = {
    "roberta": {"config_names": _ROBERTA, "pooler": "mean_pooler"},
    "xlm-roberta": {"config_names": _ROBERTA, "pooler": "mean_pooler"},
    "mt5": {"config_names": _MT5, "pooler": "mean_pooler"},
    "bert": {"config_names": _BERT, "pooler": "cls_pooler"},
    "m2m_100": {"config_names": _M2M100, "pooler": "cls_pooler"},
}
