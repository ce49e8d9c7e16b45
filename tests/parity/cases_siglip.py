"""SigLIP's models, small and at full size; both sides of a comparison run this file."""

from __future__ import annotations

import sys
from typing import Any

import cases_model
import torch
from parity_weights import captions, fill, pictures
from torch import nn

SMALL = {"none": "vit_small_patch8_siglip_32", "tanh": "vit_small_patch8_siglip_40"}  # by their kind of GELU
SIZE = (48, 3, 2, 2.5)  # width, which is the embed_dim of `cases_model`, layers, heads, mlp_ratio

TEXT = {
    **cases_model.TEXT,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
}
OPTIONS = {"init_logit_bias": -10, "init_logit_scale": 1.5}


def vision(gelu: str, **changes: Any) -> dict[str, Any]:
    size = int(SMALL[gelu].rpartition("_")[2])
    kept = {"image_size": size, "layers": SIZE[1]}  # the second is said for `cases_model` only
    return {
        **kept,
        "timm_model_name": SMALL[gelu],
        "timm_pool": "map",
        "timm_proj": "none",
        **changes,
    }


TANH = {"act_kwargs": {"approximate": "tanh"}}
CASES = {
    name: cases_model.Case(name, "CustomTextCLIP", of_image, {**TEXT, **of_text}, OPTIONS)
    for name, of_image, of_text in (
        ("SigLIP", vision("none"), {}),
        ("SigLIP, multilingual", vision("none"), {"proj_bias": False, "proj_type": "none", "width": 48}),
        ("SigLIP 2", vision("tanh"), TANH),
        ("SigLIP 2, other GELU", vision("none"), TANH),
        ("SigLIP 2, dropout", vision("tanh", patch_dropout=0.5, timm_drop_path=0.2), TANH),
    )
}
FULL = "ViT-B-16-SigLIP2-256"


def prepare(package: Any) -> None:
    """Make the small names mean something: in timm for the published package, in our table for ours."""
    if "oneclip" in sys.modules:
        from oneclip.model import siglip_names

        siglip_names.SIZES["small"] = siglip_names.Size(*SIZE)
        siglip_names.GELUS["small", 8] = {32: "none", 40: "tanh"}
        return
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    def entry(name: str, gelu: str) -> None:
        def make(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
            options = {key: value for key, value in options.items() if not key.startswith("pretrained_")}
            width, layers, heads, mlp_ratio = SIZE
            side = int(name.rpartition("_")[2])
            options.pop("cache_dir", None)
            act = {"none": "gelu", "tanh": "gelu_tanh"}[gelu]
            return VisionTransformer(
                side, 8, embed_dim=width, depth=layers, num_heads=heads, mlp_ratio=mlp_ratio, act_layer=act,
                class_token=False, **options,
            )  # fmt: skip

        make.__name__ = name
        make.__module__ = __name__
        register_model(make)

    for gelu, name in SMALL.items():
        entry(name, gelu)


def of_open_clip(package: Any) -> dict[str, Any]:
    """All that this file compares, of the published package."""
    seen: dict[str, Any] = {name: observe(package, name) for name in CASES}
    return {**seen, "beginnings": beginnings(package), "full": full(package)}


def observe(package: Any, name: str) -> dict[str, Any]:
    """What `cases_model` sees of a small model, and what is SigLIP's own."""
    prepare(package)
    case = CASES[name]
    seen = cases_model.observe(package, case)
    torch.manual_seed(0)
    model = cases_model.build(package, case)
    fill(model)
    with torch.no_grad():
        seen["trunk"] = model.visual.trunk(pictures(2, case.vision["image_size"]))
        model.visual.set_input_size((48, 24))
        seen["resized"] = model.visual(pictures(2, (48, 24)))
        seen["resized positions"] = model.visual.trunk.pos_embed.detach().clone()
    seen["resized size"] = list(model.visual.image_size)
    return seen


def full(package: Any) -> dict[str, Any]:
    """A published architecture with fewer words; the token table makes no difference to what is computed."""
    cfg = package.get_model_config(FULL) if hasattr(package, "get_model_config") else _config()
    text = {**cfg["text_cfg"], "vocab_size": 500}
    torch.manual_seed(0)
    model = package.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], text, init_logit_bias=-10).eval()
    fill(model)
    with torch.no_grad():
        return {
            "image": model.encode_image(pictures(1, 256)),
            "text": model.encode_text(captions(2, 64, 500)),
        }


def _config() -> dict[str, Any]:
    from oneclip import zoo

    return zoo.architecture(FULL).to_dict()


def beginnings(package: Any) -> dict[str, list[float]]:
    """Mean and deviation of the larger tensors of a trunk as it is initialised, the one value of constant ones."""
    prepare(package)
    torch.manual_seed(0)
    model = cases_model.build(package, CASES["SigLIP"])
    seen = {}
    for name, tensor in model.visual.state_dict().items():
        values = tensor.double().flatten()
        if bool((values == values[0]).all()):
            seen[name] = [values[0].item()]
        elif values.numel() >= 1000:
            seen[name] = [values.mean().item(), values.std().item()]
    return seen
