"""Small random models of every option that has a plan, inputs for them, and comparisons with the plain module."""

from typing import Any

import pytest
import torch
from torch import Tensor

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.engine.plan import make_image_plan, make_text_plan
from oneclip.model import DualEncoder, build_model
from oneclip.model.siglip_names import TrunkCfg

PIXELS, CONTEXT, WORDS = 32, 12, 60
END = WORDS - 1  # the greatest id, where "argmax" pools
EXACT = 1e-5  # relative error of fp32; lower precisions have bounds for random weights, which are harder
COSINE = {"bf16": 0.9995, "int8": 0.99}

VISION: dict[str, dict[str, Any]] = {
    "published": {},
    "no_ln_pre": {"no_ln_pre": True},
    "average": {"pool_type": "avg"},
    "average_then_norm": {"pool_type": "avg", "final_ln_after_pool": True},
    "norm_after_pool": {"final_ln_after_pool": True},
    "layer_scale": {"ls_init_value": 0.3},
    "attentional": {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "parallel": {"attentional_pool": "parallel", "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "cascade": {"attentional_pool": "cascade", "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "tanh": {"act_kwargs": {"approximate": "tanh"}},
    "eps": {"norm_kwargs": {"eps": 1e-3}},
    "uneven_patches": {"patch_size": 12},
    "oblong": {"image_size": (32, 48)},
    "one_layer": {"layers": 1},
    "qk_norm": {"qk_norm": True},
    "cosine": {"scaled_cosine_attn": True},
    "scale_heads": {"scale_heads": True},
    "inner_norm": {"scale_attn_inner": True},
    "attention_norm": {"scale_attn": True},
    "mlp_norm": {"scale_fc": True},
}
TEXT: dict[str, dict[str, Any]] = {
    "published": {},
    "first": {"pool_type": "first"},
    "last": {"pool_type": "last"},
    "eos": {"pool_type": "eos", "eos_id": END},
    "no_causal_mask": {"no_causal_mask": True},
    "projection_bias": {"proj_bias": True},
    "no_projection": {"proj_type": "none"},
    "class_token": {"embed_cls": True, "pad_id": 0},
    "one_layer": {"layers": 1},
    "mlp_norm": {"scale_fc": True},
    "all_switches": {
        "scaled_cosine_attn": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
        "ls_init_value": 0.5,
    },
}


def small_model(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """Build a small model whose weights are all random, also those of norms and scales."""
    torch.manual_seed(0)
    vision_cfg = CLIPVisionCfg(
        **{
            "layers": 3,
            "width": 64,
            "head_width": 16,
            "patch_size": 8,
            "image_size": PIXELS,
            **(vision or {}),
        }
    )
    text_cfg = CLIPTextCfg(
        **{
            "context_length": CONTEXT,
            "vocab_size": WORDS,
            "width": 64,
            "heads": 4,
            "layers": 3,
            **(text or {}),
        }
    )
    model = build_model(
        ModelCfg(**{"embed_dim": 64, "vision_cfg": vision_cfg, "text_cfg": text_cfg, **changes})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(
                "in_proj_weight"
            ):  # custom blocks start with larger weights, close to one-hot attention
                torch.nn.init.xavier_uniform_(parameter)
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embedding" not in name and "scale" not in name:
                parameter.mul_(2)
    return model.eval()


def random_images(batch: int = 3, size: tuple[int, int] = (PIXELS, PIXELS)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def random_texts(batch: int = 5, length: int = CONTEXT) -> Tensor:
    """Make token ids of different lengths: words, the end of text, padding."""
    ids = torch.randint(1, END, (batch, length), generator=torch.Generator().manual_seed(2))
    for row in range(batch):
        end = max(length - 1 - row, 0)
        ids[row, end], ids[row, end + 1 :] = END, 0
    return ids


def assert_same(found: Tensor | None, expected: Tensor, precision: str = "fp32") -> None:
    assert found is not None, "the plain module computed it"
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    cosine = torch.cosine_similarity(found, expected, dim=-1)
    if precision == "fp32":
        assert error.max() < EXACT, f"relative error {error.max():.1e}"
    else:
        assert cosine.min() > COSINE[precision], f"cosine {cosine.min():.5f}"


def compare(
    model: DualEncoder, precision: str, images: Tensor | None = None, ids: Tensor | None = None
) -> None:
    with torch.inference_mode():
        if images is not None:
            expected = model.encode_image(images, normalize=False)
            assert_same(make_image_plan(model, precision)(images), expected, precision)
        if ids is not None:
            assert_same(
                make_text_plan(model, precision)(ids), model.encode_text(ids, normalize=False), precision
            )


def small_siglip(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build SigLIP's towers with a small width; the name determines the activation."""
    whole = TrunkCfg.of_cfg.__func__  # type: ignore[attr-defined]

    def narrow(cls: Any, cfg: CLIPVisionCfg) -> Any:
        trunk = whole(cls, cfg)
        size = trunk.size._replace(width=64, layers=2, heads=4, mlp_ratio=2.0)
        return trunk._replace(patch_size=8, size=size)

    monkeypatch.setattr(TrunkCfg, "of_cfg", classmethod(narrow))
    return small_model(
        {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        custom_text=True,
    )
