"""SigLIP's models, small and at full size; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cases_model
import numpy as np
import torch
from install import PACKAGES
from parity_weights import fill, random_ids, random_images, without_initial_values
from torch import nn

SIZES = {"none": 32, "tanh": 40}  # image size by the kind of GELU of the small tower
PATCH, WIDTH, LAYERS, HEADS, MLP_RATIO = 8, 48, 3, 2, 2.5  # the width is the embed_dim of `cases_model`

TEXT = {
    **cases_model.TEXT,
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6},
}
OPTIONS = {"init_logit_bias": -10, "init_logit_scale": 1.5}


def vision(gelu: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration of a small tower."""
    return {
        "image_size": SIZES[gelu],
        "patch_size": PATCH,
        "width": WIDTH,
        "layers": LAYERS,
        "head_width": WIDTH // HEADS,
        "mlp_ratio": MLP_RATIO,
        "pool_type": "map",
        "act_kwargs": {"approximate": gelu},
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


def case_for(package: Any, name: str) -> cases_model.Case:
    """Build a case. For the published package, the tower is first registered in timm."""
    case = CASES[name]
    if PACKAGES not in Path(package.__file__).parents:
        return case
    gelu = case.vision["act_kwargs"]["approximate"]
    by_name = {"timm_model_name": name_in_timm(gelu), "timm_pool": "map", "timm_proj": "none"}
    kept = ("image_size", "layers", "patch_dropout", "timm_drop_path")  # "layers" is for `cases_model` only
    return replace(case, vision={**{k: v for k, v in case.vision.items() if k in kept}, **by_name})


@cache
def name_in_timm(gelu: str) -> str:
    """Add the small trunk to timm's models."""
    from timm.models import register_model
    from timm.models.vision_transformer import VisionTransformer

    def make(
        pretrained: bool = False, num_classes: int = 0, global_pool: str = "", **options: Any
    ) -> nn.Module:
        dropout = {
            key: value for key, value in options.items() if key.endswith("_drop_rate") or "path" in key
        }
        return VisionTransformer(
            SIZES[gelu],
            PATCH,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=WIDTH,
            depth=LAYERS,
            num_heads=HEADS,
            mlp_ratio=MLP_RATIO,
            act_layer={"none": None, "tanh": "gelu_tanh"}[gelu],  # the GELU in the names of timm
            class_token=False,
            **dropout,
        )

    make.__name__ = f"vit_small_patch{PATCH}_siglip_{SIZES[gelu]}"
    make.__module__ = __name__
    register_model(make)
    return make.__name__


def of_open_clip(package: Any) -> dict[str, Any]:
    """Return all results of the published package."""
    seen: dict[str, Any] = {name: observe(package, name) for name in CASES}
    converted = {form: big_vision(package, is_stacked) for form, is_stacked in FORMS.items()}
    return {**seen, "beginnings": beginnings(package), "full": full(package), "big_vision": converted}


def observe(package: Any, name: str) -> dict[str, Any]:
    """Return the results of `cases_model` for a small model, and SigLIP's own."""
    case = case_for(package, name)
    seen = cases_model.observe(package, case)
    torch.manual_seed(0)
    model = cases_model.build(package, case)
    fill(model)
    with torch.no_grad():
        seen["trunk"] = model.visual.trunk(random_images(2, case.vision["image_size"]))
        model.visual.set_input_size((48, 24))
        seen["resized"] = model.visual(random_images(2, (48, 24)))
        seen["resized positions"] = model.visual.trunk.pos_embed.detach().clone()
    seen["resized size"] = list(model.visual.image_size)
    return seen


def full(package: Any) -> dict[str, Any]:
    """Return a published architecture with a smaller vocabulary, which does not change the computation."""
    cfg = package.get_model_config(FULL) if hasattr(package, "get_model_config") else _config()
    text = {**cfg["text_cfg"], "vocab_size": 500}
    with without_initial_values():
        model = package.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], text, init_logit_bias=-10).eval()
    fill(model)
    with torch.no_grad():
        return {
            "image": model.encode_image(random_images(1, 256)),
            "text": model.encode_text(random_ids(2, 64, 500)),
        }


def _config() -> dict[str, Any]:
    from oneclip import zoo

    return zoo.architecture(FULL).to_dict()


def beginnings(package: Any) -> dict[str, list[float]]:
    """Return mean and standard deviation of the larger initial tensors of a trunk, or the value of constant ones."""
    torch.manual_seed(0)
    model = cases_model.build(package, case_for(package, "SigLIP"))
    seen = {}
    for name, tensor in model.visual.state_dict().items():
        values = tensor.double().flatten()
        if bool((values == values[0]).all()):
            seen[name] = [values[0].item()]
        elif values.numel() >= 1000:
            seen[name] = [values.mean().item(), values.std().item()]
    return seen


FORMS = {"a block a tensor": False, "all blocks in one tensor": True}


def big_vision(package: Any, is_stacked: bool) -> dict[str, Any]:
    """Convert big_vision's arrays with open_clip_torch."""
    model = cases_model.build(package, case_for(package, "SigLIP 2"))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "weights.npz"))
        np.savez(path, **{f"params/{name}": a for name, a in big_vision_arrays(is_stacked).items()})
        package.convert.load_big_vision_weights(model, path)
    return dict(model.state_dict())


def big_vision_arrays(is_stacked: bool) -> dict[str, np.ndarray]:
    """Make random arrays with big_vision's names, in the shapes of the small model "SigLIP 2"."""
    width, hidden = WIDTH, int(WIDTH * MLP_RATIO)
    vocabulary, context = TEXT["vocab_size"], TEXT["context_length"]
    shapes: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (PATCH, PATCH, 3, width),
        "img/embedding/bias": (width,),
        "img/pos_embedding": (1, 25, width),
        "img/MAPHead_0/probe": (1, 1, width),
        "txt/Embed_0/embedding": (vocabulary, TEXT["width"]),
        "txt/pos_embedding": (1, context, TEXT["width"]),
        "txt/head/kernel": (TEXT["width"], width),
        "txt/head/bias": (width,),
        "b": (1,),
        "t": (1,),
        **_mlp_and_attention("img/MAPHead_0", width, HEADS, hidden, norms=1),
    }
    for tower, (c, depth, a, inner) in {
        "img/Transformer": (width, LAYERS, HEADS, hidden),
        "txt/Encoder_0": (TEXT["width"], TEXT["layers"], TEXT["heads"], 4 * TEXT["width"]),
    }.items():
        shapes |= {f"{tower}/encoder_norm/scale": (c,), f"{tower}/encoder_norm/bias": (c,)}
        for name, shape in _mlp_and_attention("", c, a, inner, norms=2).items():
            if is_stacked:
                shapes[f"{tower}/encoderblock{name}"] = (depth, *shape)
            else:
                shapes |= {f"{tower}/encoderblock_{block}{name}": shape for block in range(depth)}
    random = np.random.default_rng(5)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def _mlp_and_attention(
    before: str, width: int, heads: int, hidden: int, norms: int
) -> dict[str, tuple[int, ...]]:
    attention, per_head = f"{before}/MultiHeadDotProductAttention_0", (heads, width // heads)
    return {
        **{f"{attention}/{part}/kernel": (width, *per_head) for part in ("query", "key", "value")},
        **{f"{attention}/{part}/bias": per_head for part in ("query", "key", "value")},
        f"{attention}/out/kernel": (*per_head, width),
        f"{attention}/out/bias": (width,),
        f"{before}/MlpBlock_0/Dense_0/kernel": (width, hidden),
        f"{before}/MlpBlock_0/Dense_0/bias": (hidden,),
        f"{before}/MlpBlock_0/Dense_1/kernel": (hidden, width),
        f"{before}/MlpBlock_0/Dense_1/bias": (width,),
        **{f"{before}/LayerNorm_{n}/{kind}": (width,) for n in range(norms) for kind in ("scale", "bias")},
    }
