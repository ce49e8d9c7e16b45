"""Parts of `open_clip.transformer`, built from their arguments; both sides of a comparison run this file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from parity_weights import fill, random_ids, random_images
from torch import Tensor, nn

WIDTH, HEADS, LENGTH = 32, 4, 9
SWITCHES = dict.fromkeys(("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"), True)
LAYERS = {"act_layer": partial(nn.GELU, approximate="tanh")}
NAMES = (
    "Attention",
    "AttentionalPooler",
    "CustomResidualAttentionBlock",
    "CustomTransformer",
    "LayerNorm",
    "LayerNormFp32",
    "LayerScale",
    "MultimodalTransformer",
    "PatchDropout",
    "QuickGELU",
    "ResidualAttentionBlock",
    "TextTransformer",
    "Transformer",
    "VisionTransformer",
    "lock_text_tower",
    "text_global_pool",
)
Run = Callable[[nn.Module], Any]


def tokens(seed: int = 0, length: int = LENGTH) -> Tensor:
    return torch.randn(3, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def mask() -> Tensor:
    return torch.full((LENGTH, LENGTH), float("-inf")).triu_(1)


def cases(t: Any) -> dict[str, tuple[Callable[[], nn.Module], Run]]:
    """Return functions that build and run each part, by name; `t` is the module `open_clip.transformer`."""
    plain: Run = lambda m: m(tokens())  # noqa: E731
    masked: Run = lambda m: m(tokens(), attn_mask=mask())  # noqa: E731
    image: Run = lambda m: m(random_images(2, 16))  # noqa: E731
    text: Run = lambda m: m(random_ids(3, 12, 50))  # noqa: E731
    quick = {"act_layer": t.QuickGELU, "norm_layer": partial(t.LayerNorm, eps=1e-3)}
    vit = (16, 8, WIDTH, 2, HEADS, 2.0)
    words = (12, 50, WIDTH, HEADS, 2)
    return {
        "LayerNorm": (lambda: t.LayerNorm(WIDTH), plain),
        "LayerNormFp32": (lambda: t.LayerNormFp32(WIDTH, eps=1e-3), lambda m: m(tokens().bfloat16())),
        "LayerScale": (lambda: t.LayerScale(WIDTH), plain),
        "LayerScale in place": (lambda: t.LayerScale(WIDTH, 0.1, inplace=True), plain),
        "PatchDropout": (lambda: t.PatchDropout(0.5, exclude_first_token=False), plain),
        "QuickGELU": (lambda: t.QuickGELU(), plain),
        "Attention": (lambda: t.Attention(WIDTH), masked),
        "Attention, switches": (
            lambda: t.Attention(WIDTH, HEADS, qk_norm=True, scale_heads=True, inner_norm=True),
            plain,
        ),
        "Attention, true where masked": (
            lambda: t.Attention(WIDTH, HEADS),
            lambda m: m(tokens(), mask().isinf()),
        ),
        "Attention, without bias": (lambda: t.Attention(WIDTH, HEADS, qkv_bias=False), plain),
        "Attention, a mask for each head": (
            lambda: t.Attention(WIDTH, HEADS),
            lambda m: m(tokens(), mask().repeat(3 * HEADS, 1, 1)),
        ),
        "AttentionalPooler": (
            lambda: t.AttentionalPooler(48, WIDTH, 4, 5),
            plain,
        ),
        "block": (lambda: t.ResidualAttentionBlock(WIDTH, HEADS, 2.0), masked),
        "block, its own layers": (lambda: t.ResidualAttentionBlock(WIDTH, HEADS, ls_init_value=0.1, **quick), plain),
        "block, over another input": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS, is_cross_attention=True),
            lambda m: m(tokens(), k_x=(other := tokens(1, 5)), v_x=other),
        ),
        "block, keys and values of two inputs": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS, is_cross_attention=True),
            lambda m: m(tokens(), k_x=tokens(1, 5), v_x=tokens(2, 5)),
        ),
        "block, attention alone": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS),
            lambda m: m.attention(tokens(), tokens(1, 5), tokens(2, 5)),
        ),
        "block, given another input that it passes over": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS),
            lambda m: m(tokens(), (other := tokens(1, 5)), other),
        ),
        "block, length first, over another input": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS, is_cross_attention=True, batch_first=False),
            lambda m: m(tokens().transpose(0, 1), k_x=(other := tokens(1, 5).transpose(0, 1)), v_x=other),
        ),
        "block, length first": (
            lambda: t.ResidualAttentionBlock(WIDTH, HEADS, batch_first=False),
            lambda m: m(tokens().transpose(0, 1), attn_mask=mask()),
        ),
        "custom block": (lambda: t.CustomResidualAttentionBlock(WIDTH, HEADS, **LAYERS, **SWITCHES), masked),
        "transformer": (lambda: t.Transformer(WIDTH, 2, HEADS), masked),
        "transformer, its own layers": (lambda: t.Transformer(WIDTH, 2, HEADS, 2.0, 0.1, **quick), plain),
        "transformer, switches": (lambda: t.Transformer(WIDTH, 2, HEADS, **SWITCHES), plain),
        "transformer, no switches": (
            lambda: t.Transformer(WIDTH, 2, HEADS, block_type="default", **SWITCHES),
            plain,
        ),
        "transformer, length first": (lambda: t.Transformer(WIDTH, 2, HEADS, batch_first=False), plain),
        "custom transformer": (lambda: t.CustomTransformer(WIDTH, 2, HEADS, 2.0), masked),
        "decoder": (
            lambda: t.MultimodalTransformer(WIDTH, 2, HEADS, context_length=12, output_dim=50),
            lambda m: m(tokens(1, 5), tokens()),
        ),
        "decoder, its own layers": (
            lambda: t.MultimodalTransformer(
                WIDTH, 2, HEADS, 12, 2.0, 0.1, output_dim=50, batch_first=False, **quick
            ),
            lambda m: m(tokens(1, 5), tokens()),
        ),
        "vision": (lambda: t.VisionTransformer(*vit), image),
        "vision, its own layers": (
            lambda: t.VisionTransformer(*vit, output_dim=24, ls_init_value=0.1, attentional_pool=True,
                                        attn_pooler_queries=5, attn_pooler_heads=2, pool_type="avg", **quick),
            image,
        ),
        "vision, switches": (
            lambda: t.VisionTransformer(*vit, no_ln_pre=True, output_tokens=True, **LAYERS, **SWITCHES),
            image,
        ),
        "text": (lambda: t.TextTransformer(*words), text),
        "text, its own layers": (
            lambda: t.TextTransformer(*words, 2.0, output_dim=24, no_causal_mask=True, use_pad_mask=True,
                                      pool_type="last", proj_bias=True, **quick),
            text,
        ),
        "text, class token": (
            lambda: t.TextTransformer(*words, embed_cls=True, correct_cls_mask=True, **LAYERS, **SWITCHES),
            text,
        ),
        "text, no projection": (lambda: t.TextTransformer(*words, output_dim=None), text),
    }  # fmt: skip


def observe(package: Any) -> dict[str, Any]:
    """Return names, shapes and outputs of all parts, results of pooling and locking, and arguments."""
    t = package.transformer
    seen: dict[str, Any] = {}
    for name, (build, run) in cases(t).items():
        torch.manual_seed(0)
        part = build().eval()
        fill(part)
        seen[f"{name}/state"] = sorted((key, list(v.shape)) for key, v in part.state_dict().items())
        with torch.no_grad():
            given = run(part)
        for index, tensor in enumerate(given if isinstance(given, tuple) else (given,)):
            seen[f"{name}/{index}"] = tensor.clone()
    text = random_ids(3, LENGTH, 50)
    for kind in ("argmax", "eos", "first", "last", "none"):
        seen[f"pool {kind}"] = t.text_global_pool(tokens(), text, kind, eos_token_id=49).clone()
    for count in range(5):
        tower = t.TextTransformer(12, 50, WIDTH, HEADS, 2)
        t.lock_text_tower(tower, count)
        seen[f"lock {count}"] = sorted(name for name, p in tower.named_parameters() if p.requires_grad)
    seen["arguments"] = {name: arguments(getattr(t, name)) for name in NAMES}
    return seen


def arguments(target: Any) -> list[str]:
    given = inspect.signature(target).parameters.values()
    return [p.name if p.default is p.empty else f"{p.name}={plain(p.default)}" for p in given]


def plain(default: Any) -> str:
    return default.__name__ if isinstance(default, type) else str(default)
