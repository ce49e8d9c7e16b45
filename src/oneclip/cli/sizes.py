"""Configurations to numbers of parameters, by arithmetic: listing a hundred models must not build them."""

from __future__ import annotations

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg

# Options that change the count and that no published architecture of ours has: their models are not counted.
_CUSTOM = (
    "block_type",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
    "act_kwargs",
    "norm_kwargs",
    "embed_cls",
    "proj_bias",
    "attentional_pool",
)


def is_buildable(cfg: ModelCfg) -> bool:
    """Whether both towers are of this library's own, and so can be loaded by this version."""
    text = cfg.text_cfg
    foreign = (
        cfg.vision_cfg.timm_model_name or text.hf_model_name or text.hf_tokenizer_name or cfg.multimodal_cfg
    )
    return not foreign


def count_parameters(cfg: ModelCfg) -> int | None:
    """The number of parameters of an architecture, temperature included; None if its options are unusual."""
    vision, text = cfg.vision_cfg, cfg.text_cfg
    defaults = vars(CLIPVisionCfg()) | vars(CLIPTextCfg())
    unusual = any(
        getattr(part, name, defaults[name]) != defaults[name] for part in (vision, text) for name in _CUSTOM
    )
    if unusual or not is_buildable(cfg):
        return None
    visual = (
        _resnet(vision, cfg.embed_dim) if not isinstance(vision.layers, int) else _vit(vision, cfg.embed_dim)
    )
    scalars = 1 + (cfg.init_logit_bias is not None)
    return visual + _text(text, cfg.embed_dim) + scalars


def _blocks(width: int, layers: int, mlp_ratio: float, layer_scale: bool) -> int:
    hidden = int(width * mlp_ratio)
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + hidden + width
    return layers * (attention + mlp + 4 * width + (2 * width if layer_scale else 0))


def _vit(cfg: CLIPVisionCfg, embed_dim: int) -> int:
    height, width = _pair(cfg.image_size)
    patch_height, patch_width = _pair(cfg.patch_size)
    tokens = (height // patch_height) * (width // patch_width) + 1
    stem = 3 * patch_height * patch_width * cfg.width + cfg.width + tokens * cfg.width
    norms = 2 * cfg.width * (1 if cfg.no_ln_pre else 2)
    assert isinstance(cfg.layers, int)
    blocks = _blocks(cfg.width, cfg.layers, cfg.mlp_ratio, cfg.ls_init_value is not None)
    return stem + norms + blocks + cfg.width * embed_dim


def _resnet(cfg: CLIPVisionCfg, embed_dim: int) -> int:
    assert not isinstance(cfg.layers, int)
    width, half = cfg.width, cfg.width // 2
    total = 9 * (3 * half + half * half + half * width) + 2 * (half + half + width)
    incoming = width
    for stage, depth in enumerate(cfg.layers):
        planes = width * 2**stage
        for block in range(depth):
            total += (
                incoming * planes
                + 9 * planes * planes
                + planes * 4 * planes
                + 2 * (planes + planes + 4 * planes)
            )
            if block == 0:
                total += incoming * 4 * planes + 8 * planes
            incoming = 4 * planes
    pixels = _pair(cfg.image_size)
    positions = (pixels[0] // 32) * (pixels[1] // 32) + 1
    return (
        total + positions * incoming + 3 * (incoming * incoming + incoming) + incoming * embed_dim + embed_dim
    )


def _text(cfg: CLIPTextCfg, embed_dim: int) -> int:
    table = (cfg.vocab_size + cfg.context_length) * cfg.width
    blocks = _blocks(cfg.width, cfg.layers, cfg.mlp_ratio, cfg.ls_init_value is not None)
    projection = cfg.width * embed_dim if cfg.proj_type == "linear" else 0
    return table + blocks + 2 * cfg.width + projection


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
