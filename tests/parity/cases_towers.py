"""timm and transformers towers in dual encoders; both sides of a comparison run this file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_towers
import torch
from cases_model import TEXT, VIT, Observed, _arguments, _gradients, _locked, _record, _sampled
from parity_weights import fill, random_ids, random_images
from torch import Tensor, nn

LINEAR: dict[str, Any] = {"timm_pool": "", "timm_proj": "linear"}
OWN: dict[str, Any] = {"timm_pool": "token", "timm_proj": None}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "EVA01": ("eva01", OWN),
    "EVA02": ("eva02", OWN),
    "EVA02 large": ("eva02_large", OWN),
    "EVA02 enormous": ("eva02_enormous", OWN),
    "PE-Core": ("pe_core", {"timm_pool": "map", "timm_proj": None}),
    "PE-Core large": ("pe_core_large", {"timm_pool": "map", "timm_proj": None}),
    "vit_relpos": ("vit_relpos", LINEAR),
    "vit_relpos, mean": ("vit_relpos", {**LINEAR, "timm_pool": "avg"}),
    "ViT gap": ("vit_gap", LINEAR),
    "MobileCLIP2-L": ("vit_clip", {**OWN, "timm_drop_path": 0.1}),
    "ViT, no projection": ("vit_clip", {"timm_pool": "token", "timm_proj": "none"}),
    "ViT, not square": ("vit_clip", {**OWN, "image_size": (48, 32)}),
    "ViT, patch dropout": ("vit_clip", {**OWN, "patch_dropout": 0.5}),
    "EVA02, another size": ("eva02", {**OWN, "image_size": 48}),
    "ConvNeXt": ("convnext", {**LINEAR, "timm_drop": 0.1, "timm_drop_path": 0.1}),
    "ConvNeXt, mlp": ("convnext", {"timm_pool": "", "timm_proj": "mlp"}),
    "ConvNeXt, mlp with bias": ("convnext", {"timm_pool": "avg", "timm_proj": "mlp", "timm_proj_bias": True}),
    "ConvNeXt, bias": ("convnext", {"timm_pool": "max", "timm_proj": "linear", "timm_proj_bias": True}),
    "ConvNeXt, its own": ("convnext", {"timm_pool": "avg", "timm_proj": ""}),
    "ConvNeXt XXL": ("convnext_xxlarge", {**LINEAR, "image_size": (64, 32)}),
    "ResNet, attention": ("resnet", {"timm_pool": "abs_attn", "timm_proj": None, "image_size": 64}),
    "ResNet, rotary attention": ("resnet", {"timm_pool": "rot_attn", "timm_proj": None, "image_size": 64}),
    "ResNet, attention and linear": (
        "resnet",
        {"timm_pool": "abs_attn", "timm_proj": "linear", "image_size": 64},
    ),
    "MobileCLIP-S": ("fastvit", {"timm_pool": "avg", "timm_proj": None, "image_size": 64}),
    "MobileCLIP2-S3": ("fastvit_five", {"timm_pool": "avg", "timm_proj": None, "image_size": 64}),
    "MobileCLIP-B": ("mobileclip_b", OWN),
    "Swin": ("swin", LINEAR),
    "ViTamin": ("vitamin", {**LINEAR, "timm_drop_path": 0.1}),
    "ViTamin XL": ("vitamin_xlarge", LINEAR),
}

RESIZED = ("ViT, not square", "EVA02, another size")
POOLERS = ("mean_pooler", "max_pooler", "cls_pooler", "cls_last_hidden_state_pooler")
HF: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{kind}, {pooler}": (kind, {"hf_pooler_type": pooler})
        for kind in small_towers.TEXT
        for pooler in POOLERS
    },
    **{f"{kind}, linear": (kind, {"hf_proj_type": "linear"}) for kind in small_towers.TEXT},
    "usual pooler": ("roberta", {"hf_pooler_type": None}),
    "usual pooler of BERT": ("bert", {"hf_pooler_type": None}),
    "with tokens": ("roberta", {"output_tokens": True, "hf_proj_type": "linear"}),
    "tokens but the first": ("bert", {"output_tokens": True, "hf_pooler_type": "cls_pooler"}),
    "no projection": ("xlm-roberta", {"hf_proj_type": None}),
}

INTERMEDIATES: dict[str, dict[str, Any]] = {
    "default": {},
    "last, normed": {"image_indices": 1, "normalize_intermediates": True},
    "stop early": {"image_indices": [0], "stop_early": True, "intermediates_only": True},
    "prefix": {"image_output_extra_tokens": True},
    "tokens": {"image_output_fmt": "NLC", "intermediates_only": True},
}


@dataclass(frozen=True)
class Case:
    """Configuration of one model."""

    name: str
    vision: dict[str, Any]
    text: dict[str, Any]
    embed_dim: int = 48
    family: str = ""

    @property
    def group(self) -> str:
        """Row of this case in the table of errors."""
        return f"tower: {self.family}"


def cases(folder: Path) -> Iterator[Case]:
    """Make cases for all families and options; configurations of text models are written to `folder`."""
    small_towers.register()
    for name, (family, options) in TIMM.items():
        size = {"image_size": small_towers.PIXELS}
        vision = {"timm_model_name": small_towers.timm_name(family), **size, **options}
        # without any projection, features are as wide as the trunk
        yield Case(name, vision, TEXT, 64 if options["timm_proj"] == "none" else 48, family)
    for name, (kind, options) in HF.items():
        path = small_towers.text_folder(kind, folder)
        text = {"hf_model_name": path, "hf_model_pretrained": False, "hf_proj_type": "mlp", **options}
        yield Case(name, VIT, text, 48 if text["hf_proj_type"] else 32, kind)


def names() -> Observed:
    """List public names and arguments."""
    from open_clip import hf_model, timm_model

    return {
        "arch_dict": hf_model.arch_dict,
        "HFTextEncoder": _arguments(hf_model.HFTextEncoder.__init__),
        "TimmModel": _arguments(timm_model.TimmModel.__init__),
    }


SIZES: tuple[int | tuple[int, int], ...] = (64, (64, 32))
GROWN = ("eva02", "pe_core", "vit_clip", "swin", "vitamin", "vit_relpos", "convnext", "mobileclip_b")


def filled(package: Any, family: str) -> Any:
    """Return a model with a small tower at its default size, and the configuration of that tower."""
    small_towers.register()
    pool = "map" if family == "pe_core" else "avg"
    vision = {"timm_model_name": small_towers.timm_name(family), "image_size": 32, "timm_pool": pool}
    model = package.CustomTextCLIP(48, vision, TEXT).eval()
    fill(model)
    return model, vision


def observe_grown(package: Any) -> Observed:
    """Return the outputs of towers after a change of their image size."""
    seen: Observed = {}
    for family in GROWN:
        for size in SIZES:
            model, _ = filled(package, family)
            model.visual.set_input_size(size)
            with torch.no_grad():
                seen[f"{family} {size}"] = model.encode_image(random_images(2, size))
    return seen


def observe_all(package: Any) -> dict[str, Observed]:
    """Return the outputs of all cases, by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {case.name: observe(package, case) for case in cases(Path(folder))}


def observe(package: Any, case: Case) -> Observed:
    """Return outputs, names, gradients and the trainable parameters after locking."""
    torch.manual_seed(0)
    seen: Observed = {}
    model: nn.Module = package.CustomTextCLIP(case.embed_dim, case.vision, case.text).eval()
    size = case.vision["image_size"]
    if (
        case.name in RESIZED
    ):  # as open_clip_torch's factory does for `force_image_size`; ours already has this size
        model.visual.set_input_size(size)
    fill(model)
    seen["state"] = sorted((name, list(t.shape)) for name, t in model.state_dict().items())
    seen["no weight decay"] = sorted(model.no_weight_decay())
    image, text = random_images(3, size), texts(model)
    with torch.no_grad():
        _record(seen, "image", lambda: model.encode_image(image))
        _record(seen, "text", lambda: model.encode_text(text))
        if not case.text.get("output_tokens"):
            _record(seen, "logits", lambda: model.get_logits(image, text))
        for name, arguments in INTERMEDIATES.items():
            if case.vision.get("timm_model_name"):
                _record(
                    seen, f"intermediates {name}", lambda a=arguments: model.forward_intermediates(image, **a)
                )
    _record(seen, "gradients", lambda: _sampled(_gradients(model, image, text)))
    free = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for count in (0, 1, 2, 3, 99):
        _record(seen, f"image lock {count}", lambda c=count: _locked(model, free, "lock_image_tower", c))
        _record(seen, f"text lock {count}", lambda c=count: _locked(model, free, "lock_text_tower", c))
    if "hf_model_name" in case.text:
        _record(seen, "text lock with norms", lambda: _locked_but_norms(model, free))
    return seen


def _locked_but_norms(model: Any, free: dict[str, bool]) -> list[str]:
    for name, parameter in model.named_parameters():
        parameter.requires_grad = free[name]
    model.lock_text_tower(0, freeze_layer_norm=False)
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def texts(model: Any) -> Tensor:
    """Make (4, 16) ids, with the padding of the transformers model if there is one."""
    config = getattr(model.text, "config", None)
    if config is None:
        return random_ids(4, 16, TEXT["vocab_size"])
    ids = random_ids(4, 16, small_towers.IDS)
    ids[ids == 0] = config.pad_token_id
    return ids
