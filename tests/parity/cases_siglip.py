"""SigLIP's models, small and at full size; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cases_model
import numpy as np
import torch
from install import PACKAGES
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
    if PACKAGES not in Path(package.__file__).parents:
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
    converted = {form: big_vision(package, is_stacked) for form, is_stacked in FORMS.items()}
    return {**seen, "beginnings": beginnings(package), "full": full(package), "big_vision": converted}


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


FORMS = {"a block a tensor": False, "all blocks in one tensor": True}


def big_vision(package: Any, is_stacked: bool) -> dict[str, Any]:
    """The state dict that open_clip_torch makes of big_vision's arrays."""
    prepare(package)
    model = cases_model.build(package, CASES["SigLIP 2"])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "weights.npz"))
        np.savez(path, **{f"params/{name}": a for name, a in big_vision_arrays(is_stacked).items()})
        package.convert.load_big_vision_weights(model, path)
    return dict(model.state_dict())


def big_vision_arrays(is_stacked: bool) -> dict[str, np.ndarray]:
    """Random arrays under big_vision's names, in the shapes of the small model "SigLIP 2"."""
    width, layers, heads, mlp_ratio = SIZE
    vocabulary, context = TEXT["vocab_size"], TEXT["context_length"]
    shapes: dict[str, tuple[int, ...]] = {
        "img/embedding/kernel": (8, 8, 3, width),
        "img/embedding/bias": (width,),
        "img/pos_embedding": (1, 25, width),
        "img/MAPHead_0/probe": (1, 1, width),
        "txt/Embed_0/embedding": (vocabulary, TEXT["width"]),
        "txt/pos_embedding": (1, context, TEXT["width"]),
        "txt/head/kernel": (TEXT["width"], width),
        "txt/head/bias": (width,),
        "b": (1,),
        "t": (1,),
        **_mlp_and_attention("img/MAPHead_0", width, heads, int(width * mlp_ratio), norms=1),
    }
    for tower, (c, depth, a, hidden) in {
        "img/Transformer": (width, layers, heads, int(width * mlp_ratio)),
        "txt/Encoder_0": (TEXT["width"], TEXT["layers"], TEXT["heads"], 4 * TEXT["width"]),
    }.items():
        shapes |= {f"{tower}/encoder_norm/scale": (c,), f"{tower}/encoder_norm/bias": (c,)}
        for name, shape in _mlp_and_attention("", c, a, hidden, norms=2).items():
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
