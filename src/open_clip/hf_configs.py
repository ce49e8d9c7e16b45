"""`open_clip.hf_configs`: how transformers' configurations of text models name what towers are built of."""

from __future__ import annotations

from typing import Any

__all__ = ["arch_dict"]

FIELDS = ("context_length", "vocab_size", "width", "heads", "layers")
BERT = ("max_position_embeddings", "vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers")
MT5 = ("", "vocab_size", "d_model", "num_heads", "num_layers")  # positions are relative: of any length
M2M = ("max_position_embeddings", "vocab_size", "d_model", "encoder_attention_heads", "encoder_layers")
PARTS = ("layer_attr", "token_embeddings_attr")

arch_dict: dict[str, dict[str, Any]] = {
    kind: {
        "config_names": {**dict(zip(FIELDS, names, strict=True)), **dict(zip(PARTS, parts, strict=False))},
        "pooler": pooler,
    }
    for kind, names, parts, pooler in (
        ("roberta", BERT, ("layer", "embeddings"), "mean_pooler"),
        ("xlm-roberta", BERT, ("layer", "embeddings"), "mean_pooler"),
        ("mt5", MT5, ("block", "embed_tokens"), "mean_pooler"),
        ("bert", BERT, (), "cls_pooler"),
        ("m2m_100", M2M, (), "cls_pooler"),
    )
}
