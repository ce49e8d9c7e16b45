"""The factory on small registered architectures, and its lists; both sides of a comparison run this file."""

from __future__ import annotations

import importlib
import json
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from parity_weights import fill, random_ids, random_images

Observed = dict[str, Any]

VIT = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 120, "width": 64, "heads": 2, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "small-vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "small-custom": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": TEXT,
        "quick_gelu": True,
    },
    "small-resnet": {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "small-pooled": {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    },
}
CONFIGS["small-timm"] = {
    "embed_dim": 48,
    "vision_cfg": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "text_cfg": TEXT,
}
CONFIGS["small-coca"] = {
    "embed_dim": 64,
    "custom_text": True,
    "multimodal_cfg": {**TEXT, "context_length": 15, "attn_pooler_heads": 2},
    "vision_cfg": {
        **VIT,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 9,
        "output_tokens": True,
    },
    "text_cfg": {**TEXT, "context_length": 15, "embed_cls": True, "output_tokens": True},
}
NAMES = ("small-vit", "small-custom", "small-resnet", "small-timm", "small-coca")
PRECISIONS = ("fp32", "amp", "amp_bf16", "amp_bfloat16", "fp16", "bf16", "pure_fp16", "pure_bf16")

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("small-vit", {}),
    "a tower of its own": ("small-custom", {}),
    "resnet": ("small-resnet", {}),
    "pooled": ("small-pooled", {}),
    "captions": ("small-coca", {}),
    "captions, dict": ("small-coca", {"output_dict": True, "force_quick_gelu": True}),
    "captioning, larger images": ("small-coca", {"force_image_size": 48}),
    "timm": ("small-timm", {}),
    "timm, a text tower of its own": ("small-timm", {"force_custom_text": True, "force_context_length": 20}),
    "dict": ("small-vit", {"output_dict": True}),
    "quick gelu": ("small-vit", {"force_quick_gelu": True}),
    "custom text": ("small-vit", {"force_custom_text": True}),
    "patch dropout": ("small-vit", {"force_patch_dropout": 0.25}),
    "larger images": ("small-vit", {"force_image_size": 48}),
    "smaller images": ("small-pooled", {"force_image_size": 16}),
    "non-square images": ("small-vit", {"force_image_size": (48, 32)}),
    "longer captions": ("small-vit", {"force_context_length": 24}),
    "shorter captions": ("small-custom", {"force_context_length": 9}),
    "statistics": ("small-vit", {"force_preprocess_cfg": {"mean": (0.1, 0.2, 0.3), "resize_mode": "squash"}}),
    "bias from softmax weights": ("small-vit", {"init_logit_bias": -10, "init_logit_scale": 2.0}),
    "scale with an axis": ("small-vit", {"nonscalar_logit_scale": True}),
    "none of the weights": ("small-vit", {"load_weights": False, "init_logit_scale": 1.25}),
}


def observe(package: Any) -> dict[str, Observed]:
    """Return the results for all `CONFIGS` and `OPTIONS`, and the lists."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = registered(package, Path(folder))
        seen = {
            f"option, {name}": attempt(
                lambda model=model, given=given: of_option(package, files, model, given)
            )
            for name, (model, given) in OPTIONS.items()
        }
        for precision in PRECISIONS:
            for name in NAMES:
                made = lambda name=name, precision=precision: of_precision(package, files, name, precision)  # noqa: E731
                seen[f"precision, {precision} {name}"] = attempt(made)
        seen["towers"] = attempt(lambda: of_towers(package, files, Path(folder)))
        seen["compiled"] = attempt(lambda: of_compiled(package, files))
        seen["tokenizers"] = attempt(lambda: of_tokenizers(package))
    seen["lists"] = attempt(lambda: of_lists(package))
    seen["losses"] = attempt(lambda: of_losses(package))
    seen["helpers"] = attempt(lambda: of_helpers(package))
    return seen


def attempt(run: Callable[[], Observed]) -> Observed:
    try:
        return run()
    except Exception as error:
        return {"outcome": f"raised {type(error).__name__}: {error}"}


def registered(package: Any, folder: Path) -> dict[str, str]:
    """Register `CONFIGS`, half of them by folder, and write random weights for each."""
    (folder / "configs").mkdir()
    for number, (name, cfg) in enumerate(CONFIGS.items()):
        place = folder / "configs" if number % 2 else folder
        (place / f"{name}.json").write_text(json.dumps(cfg))
        if place == folder:
            package.add_model_config(folder / f"{name}.json")
    package.add_model_config(str(folder / "configs"))
    files = {}
    for name in CONFIGS:
        model = package.create_model(name)
        fill(model)
        files[name] = str(folder / f"{name}.pt")
        torch.save(
            {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, files[name]
        )
    return files


def inputs(model: Any, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return random_images(count, model.visual.image_size), random_ids(count, package_length(model), 120)


def package_length(model: Any) -> int:
    return int(getattr(model, "text", model).context_length)


def of_option(package: Any, files: dict[str, str], name: str, given: dict[str, Any]) -> Observed:
    model = package.create_model(name, pretrained=files[name], **given)
    seen: Observed = {"training": model.training, "class": type(model).__name__}
    seen["preprocess"] = plain(package.get_model_preprocess_cfg(model))
    seen["mean"] = plain(model.visual.image_mean)
    seen["tokenize"] = plain(package.get_model_tokenize_cfg(model))
    if given.get("load_weights", True):
        with torch.no_grad():
            output = model.eval()(*inputs(model))
        output = output if isinstance(output, dict) else dict(enumerate(output))
        seen |= {f"forward/{key}": value for key, value in output.items()}
        seen |= {f"state/{key}": value for key, value in model.state_dict().items() if "positional" in key}
    seen["state"] = {key: list(value.shape) for key, value in model.state_dict().items()}
    seen["scale"] = model.logit_scale.detach()
    dropout = model.visual.patch_dropout if hasattr(model.visual, "patch_dropout") else None
    seen["dropout"] = getattr(dropout, "prob", None)
    return seen


def of_precision(package: Any, files: dict[str, str], name: str, precision: str) -> Observed:
    model = package.create_model(name, pretrained=files[name], precision=precision).eval()
    seen: Observed = {f"dtype/{key}": str(value.dtype) for key, value in model.state_dict().items()}
    seen["cast"] = str(package.get_cast_dtype(precision))
    seen["input"] = str(package.get_input_dtype(precision))
    if "fp16" not in precision:  # too slow or not available on a CPU
        seen |= attempt(lambda: features(package, model, precision))
    return seen


def features(package: Any, model: Any, precision: str) -> Observed:
    image, text = inputs(model)
    with torch.no_grad():
        features = model.encode_image(image.to(package.get_input_dtype(precision) or image.dtype))
        return {"image": features.float(), "text": model.encode_text(text).float()}


def of_towers(package: Any, files: dict[str, str], folder: Path) -> Observed:
    """Load weights of single towers, and files without a whole model."""
    whole = package.create_model("small-custom", pretrained=files["small-custom"])
    for tower in ("visual", "text"):
        torch.save(getattr(whole, tower).state_dict(), folder / f"{tower}.pt")
    paths = {
        f"pretrained_{n}_path": str(folder / f"{t}.pt") for n, t in (("image", "visual"), ("text", "text"))
    }
    model = package.create_model("small-custom", **paths).eval()
    image, text = inputs(model)
    with torch.no_grad():
        seen: Observed = {"image": model.encode_image(image), "text": model.encode_text(text)}
    flat = package.load_state_dict if hasattr(package, "load_state_dict") else package.factory.load_state_dict
    seen["names"] = sorted(flat(files["small-vit"]))
    partial = {k: v for k, v in flat(files["small-vit"]).items() if not k.startswith("ln_final")}
    torch.save({**partial, "other": torch.ones(1)}, folder / "partial.pt")
    found = package.load_checkpoint(
        package.create_model("small-vit"), str(folder / "partial.pt"), strict=False
    )
    seen["missing"], seen["unexpected"] = sorted(found.missing_keys), sorted(found.unexpected_keys)
    model, _ = package.create_model_from_pretrained(
        "small-vit", files["small-vit"], image_mean=(0.5, 0.5, 0.5)
    )
    seen["from pretrained"] = plain(model.visual.preprocess_cfg)
    model, *_ = package.create_model_and_transforms(
        "small-vit", files["small-vit"], image_interpolation="bilinear", aug_cfg={"scale": (0.5, 1.0)}
    )
    seen["with transforms"] = plain(model.visual.preprocess_cfg)
    return seen


def of_compiled(package: Any, files: dict[str, str]) -> Observed:
    """Trace a ResNet; the published package cannot trace towers whose image size is a pair."""
    model = package.create_model("small-resnet", pretrained=files["small-resnet"])
    image, text = inputs(model, count=3)
    traced = package.trace_model(model, batch_size=2)
    seen: Observed = {"size": plain(traced.visual.image_size)}
    with torch.no_grad():
        seen |= {f"forward {key}": value.detach() for key, value in enumerate(traced(image, text))}
        return {**seen, "image": traced.encode_image(image), "text": traced.encode_text(text)}


def of_tokenizers(package: Any) -> Observed:
    seen: Observed = {}
    for name in ("", "ViT-B-32", "small-vit", "ViT-B-16-quickgelu", "coca_ViT-B-32", "RN50"):
        tokenizer = package.get_tokenizer(name)
        seen[name or "default"] = [type(tokenizer).__name__, tokenizer.context_length]
        seen[f"{name}, rows"] = tokenizer(["a diagram of a cat", "two dogs"])
    seen["length"] = package.get_tokenizer("ViT-B-32", context_length=12)(["a diagram of a cat " * 9])
    return seen


def of_lists(package: Any) -> Observed:
    pairs = package.list_pretrained()
    seen: Observed = {
        "models": [name for name in package.list_models() if name not in CONFIGS],
        "registered": [name for name in package.list_models() if name in CONFIGS],
        "pretrained": [list(pair) for pair in pairs],
        "as str": package.list_pretrained(as_str=True),
        "openai": package.list_openai_models(),
    }
    for tag in ("openai", "LAION2B-s34b-b79k", "webli", "none such"):
        seen[f"by tag {tag}"] = package.list_pretrained_models_by_tag(tag)
    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "none such"):
        seen[f"tags of {name}"] = package.list_pretrained_tags_by_model(name)
    for name, tag in pairs:
        seen[f"cfg {name} {tag}"] = plain(package.get_pretrained_cfg(name, tag))
        seen[f"url {name} {tag}"] = package.get_pretrained_url(name, tag)
    for name, tag in (
        ("ViT-B-32", "OpenAI"),
        ("ViT-B-32", "laion2b-e16"),
        ("ViT-B-32", "x"),
        ("x", "openai"),
    ):
        seen[f"known {name} {tag}"] = package.is_pretrained_cfg(name, tag)
        seen[f"cfg of {name} {tag}"] = plain(package.get_pretrained_cfg(name, tag))
    seen["parsed"] = [
        list(package.factory.parse_model_name(n)) for n in ("ViT-B-32", "hf-hub:a/b", "local-dir:./c")
    ]
    seen["none such"] = package.get_model_config("none such")
    seen["nothing to fetch"] = package.download_pretrained({})
    seen["a file"] = package.download_pretrained({"file": "weights.pt"})
    return seen


def of_losses(package: Any) -> Observed:
    """Return the losses for several training arguments."""
    common = {
        "model": "ViT-B-32",
        "distill": False,
        "siglip": False,
        "horovod": False,
        "local_loss": True,
        "gather_with_grad": True,
        "rank": 0,
        "world_size": 1,
        "coca_caption_loss_weight": 2.0,
        "coca_contrastive_loss_weight": 0.5,
        "loss_dist_impl": "shift",
    }
    asked = {
        "softmax": {},
        "sigmoid": {"siglip": True},
        "captions": {"model": "CoCa_ViT-B-32"},
        "captions, sigmoid": {"model": "coca_ViT-B-32", "siglip": True},
        "distillation": {"distill": True},
        "distillation, sigmoid": {"distill": True, "siglip": True},
    }
    names = ("local_loss", "gather_with_grad", "cache_labels", "rank", "world_size", "dist_impl")
    names += ("caption_loss_weight", "clip_loss_weight")
    seen = {}
    for name, changes in asked.items():
        loss = package.create_loss(types.SimpleNamespace(**{**common, **changes}))
        seen[name] = [type(loss).__name__, [getattr(loss, key, None) for key in names]]
    return seen


def of_helpers(package: Any) -> Observed:
    utils, positions = (importlib.import_module(f"open_clip.{name}") for name in ("utils", "pos_embed"))
    transform = importlib.import_module("open_clip.transform")
    seen: Observed = {
        "hf configs": importlib.import_module("open_clip.hf_configs").arch_dict,
        "to_ntuple": [
            plain(utils.to_2tuple(3)),
            plain(utils.to_3tuple((1, 2))),
            plain(utils.to_ntuple(4, 1)),
        ],
        "indices": [list(utils.feature_take_indices(6, n)[0]) for n in (None, 2, [0, -1], [5])],
        "sin cos": torch.from_numpy(positions.get_2d_sincos_pos_embed(16, 3, cls_token=True)),
    }
    base = {"size": 224, "mean": (0.5,) * 3, "unknown": 1}
    seen["merged"] = plain(
        transform.merge_preprocess_dict(base, {"mean": None, "std": (1, 1, 1), "other": 2})
    )
    merged = transform.merge_preprocess_kwargs(transform.PreprocessCfg(), size=(32, 48), mode=None)
    seen["merged kwargs"] = plain({key: value for key, value in merged.items() if value is not None})
    norms = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    fill(norms)
    frozen = utils.freeze_batch_norm_2d(norms).train()
    seen["frozen"] = frozen(random_images(2, 8)).detach()
    seen["frozen parameters"] = sorted(name for name, _ in frozen.named_parameters())
    linear = torch.nn.ModuleDict({"c_fc": torch.nn.Linear(2, 3), "other": torch.nn.Linear(2, 3)})
    replaced = utils.replace_linear(
        linear, lambda *shape: torch.nn.LazyLinear(3) if shape[0] > 2 else Wider(*shape)
    )
    seen["replaced"] = [type(module).__name__ for module in replaced.values()]
    return seen


class Wider(torch.nn.Linear):
    """Stand-in for a layer of another library."""


def plain(value: Any) -> Any:
    """Convert tuples to lists, because the results file does not distinguish them."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
