"""Models with every option, and all their outputs; both sides of a comparison run this file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from parity_weights import fill, random_ids, random_images
from torch import Tensor, nn

Observed = dict[str, Any]

VIT = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
RESNET = {"image_size": 32, "layers": [1, 2, 1, 1], "width": 16, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 120, "width": 64, "heads": 2, "layers": 2}
CUSTOM = ("qk_norm", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
SWITCHES = dict.fromkeys(CUSTOM, True)
EPS = {"norm_kwargs": {"eps": 1e-3}}

VISION = {
    "vit": {},
    "wide patches": {"patch_size": 16, "mlp_ratio": 2.5, "head_width": 16},
    "not square": {"image_size": (48, 32)},
    "one layer": {"layers": 1},
    "layer scale": {"ls_init_value": 0.1},
    "patch dropout": {"patch_dropout": 0.5},
    "attentional pool": {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 7},
    "attentional pool, mean": {"attentional_pool": True, "attn_pooler_heads": 2, "pool_type": "avg", **EPS},
    "attentional pool, parallel": {
        "attentional_pool": "parallel",
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "no norm before": {"no_ln_pre": True},
    "sin-cos": {"pos_embed_type": "sin_cos_2d"},
    "norm after pool": {"final_ln_after_pool": True},
    "mean": {"pool_type": "avg"},
    "mean, norm after pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "all tokens": {"pool_type": "none"},
    "with tokens": {"output_tokens": True},
    "tanh gelu": {"act_kwargs": {"approximate": "tanh"}, **EPS},
    "custom block": {"block_type": "custom"},
    "all switches": {**SWITCHES, **EPS},
    **{name: {name: True} for name in CUSTOM},
    "resnet": RESNET,
    "wide resnet": {**RESNET, "layers": (2, 1, 1, 2), "width": 32, "image_size": 64},
}

# both classes build the same image tower; these are outputs that they pass on in their own ways
VISION_OF_CUSTOM = (
    "vit",
    "attentional pool",
    "attentional pool, parallel",
    "all tokens",
    "with tokens",
    "resnet",
)

TEXTS = {
    "text": {},
    "mlp ratio": {"mlp_ratio": 2.5},
    "layer scale": {"ls_init_value": 0.1},
    "class token": {"embed_cls": True},
    "class token, other padding": {"embed_cls": True, "pad_id": 5, "output_tokens": True},
    "class token, bidirectional": {"embed_cls": True, "no_causal_mask": True},
    "bidirectional": {"no_causal_mask": True},
    "norm after pool": {"final_ln_after_pool": True},
    "eos": {"pool_type": "eos", "eos_id": 99},
    "eos, absent": {"pool_type": "eos"},
    "first": {"pool_type": "first"},
    "last": {"pool_type": "last", "no_causal_mask": True},
    "last, causal": {"pool_type": "last"},
    "all tokens": {"pool_type": "none"},
    "projection with bias": {"proj_bias": True},
    "no projection": {"proj_type": "none"},
    "with tokens": {"output_tokens": True},
    "tanh gelu": {"act_kwargs": {"approximate": "tanh"}, **EPS},
    "custom block": {"block_type": "custom"},
    "all switches": {**SWITCHES, **EPS},
    **{name: {name: True} for name in CUSTOM},
}

MODELS = {
    "quick gelu": {"quick_gelu": True},
    "bias": {"init_logit_bias": -10.0, "init_logit_scale": 1.5},
    "scale with an axis": {"nonscalar_logit_scale": True, "init_logit_bias": -1.0},
    "dict": {"output_dict": True},
    "dict with bias": {"output_dict": True, "init_logit_bias": -1.0},
}

# what CLIPA's architectures have in common, and the ratio of the largest
CLIPA_VISION = {
    **VIT,
    "no_ln_pre": True,
    "pool_type": "avg",
    "final_ln_after_pool": True,
    "mlp_ratio": 4.9231,
}
CLIPA_TEXT = {**TEXT, "no_causal_mask": True, "pool_type": "last"}

INTERMEDIATES: dict[str, dict[str, Any]] = {
    "default": {},
    "last": {"image_indices": 1, "text_indices": 2},
    "listed": {"image_indices": [0, -1], "text_indices": [1]},
    "maps of the first": {"image_indices": [0], "text_indices": [0], "intermediates_only": True},
    "stop early": {
        "image_indices": [1, 0],
        "text_indices": [0, -2],
        "stop_early": True,
        "intermediates_only": True,
    },
    "normed": {"normalize_intermediates": True, "image_output_fmt": "NLC"},
    "tokens": {
        "image_output_fmt": "NLC",
        "image_output_extra_tokens": True,
        "text_output_extra_tokens": True,
    },
    "raw features": {"normalize": False, "image_output_extra_tokens": True},
    "logits": {"output_logits": True},
    "raw logits": {"output_logits": True, "normalize": False, "output_logit_scale_bias": True},
    "scale": {"output_logit_scale_bias": True, "intermediates_only": True, "output_logits": True},
}


@dataclass(frozen=True)
class Case:
    """Configuration of one model."""

    name: str
    kind: str  # the class
    vision: dict[str, Any]
    text: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def embed_dim(self) -> int:
        return 64 if self.vision.get("attentional_pool") == "parallel" else 48


def cases() -> Iterator[Case]:
    """Make cases with one option each, for both model classes, and one with all options of CLIPA."""
    for kind, names in (("CLIP", tuple(VISION)), ("CustomTextCLIP", VISION_OF_CUSTOM)):
        for name in names:
            options = VISION[name]
            vision = options if "layers" in options and options["layers"] != 1 else {**VIT, **options}
            yield Case(f"{kind}, vision: {name}", kind, vision, TEXT)
        for name, options in TEXTS.items():
            if kind == "CustomTextCLIP" or not options.get("embed_cls"):
                yield Case(f"{kind}, text: {name}", kind, VIT, {**TEXT, **options})
        for name, options in MODELS.items():
            yield Case(f"{kind}, model: {name}", kind, VIT, TEXT, options)
    yield Case("CLIPA", "CLIP", CLIPA_VISION, CLIPA_TEXT)


def build(package: Any, case: Case) -> nn.Module:
    """Build a model of the package, in evaluation mode, with its initial weights."""
    model: nn.Module = getattr(package, case.kind)(case.embed_dim, case.vision, case.text, **case.options)
    return model.eval()


def observe(package: Any, case: Case) -> Observed:
    """Return outputs, names, gradients and the trainable parameters after locking."""
    torch.manual_seed(0)
    seen: Observed = {}
    model = build(package, case)
    if case.vision.get("pos_embed_type") == "sin_cos_2d":
        seen["positions"] = model.visual.positional_embedding.detach().clone()
    fill(model)
    seen["state"] = sorted((name, list(t.shape)) for name, t in model.state_dict().items())
    seen["no weight decay"] = sorted(model.no_weight_decay())
    image = random_images(3, case.vision["image_size"])
    text = random_ids(4, 16, 120, case.text.get("eos_id"))
    with torch.no_grad():
        _record(seen, "forward", lambda: model(image, text))
        _record(seen, "image alone", lambda: model(image=image))
        _record(seen, "text alone", lambda: model(text=text))
        for normalize in (False, True):
            _record(
                seen, f"encode_image {normalize}", lambda n=normalize: model.encode_image(image, normalize=n)
            )
            _record(
                seen, f"encode_text {normalize}", lambda n=normalize: model.encode_text(text, normalize=n)
            )
        _record(seen, "logits", lambda: model.get_logits(image, text))
        for name, arguments in INTERMEDIATES.items():
            _record(
                seen,
                f"intermediates {name}",
                lambda a=arguments: model.forward_intermediates(image, text, **a),
            )
    _record(seen, "gradients", lambda: _sampled(_gradients(model, image, text)))
    model.set_grad_checkpointing(True)
    _record(seen, "gradients, checkpointing", lambda: _sampled(_gradients(model, image, text)))
    model.set_grad_checkpointing(False)
    free = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for count in (0, 1, 2, 3, 99):
        _record(seen, f"image lock {count}", lambda c=count: _locked(model, free, "lock_image_tower", c))
        _record(seen, f"text lock {count}", lambda c=count: _locked(model, free, "lock_text_tower", c))
    if isinstance(case.vision["layers"], int):
        return seen
    model.train()
    _record(
        seen, "training", lambda: [model.encode_image(image), model.visual.layer2[0].bn1.running_var.clone()]
    )
    _record(seen, "frozen statistics", lambda: _frozen_statistics(model, image))
    return seen


def _locked(model: nn.Module, free: dict[str, bool], lock: str, count: int) -> list[str]:
    """Return the parameters that stay trainable after locking."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = free[name]
    getattr(model, lock)(count)
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def _frozen_statistics(model: nn.Module, image: Tensor) -> list[Any]:
    """Return outputs and statistics in training mode after locking with frozen batch norm statistics."""
    model.lock_image_tower(0, True)
    return [model.train().encode_image(image), model.visual.layer2[0].bn1.running_var.clone()]


def _gradients(model: nn.Module, image: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of a loss of all features and the temperature, in evaluation mode."""
    model.zero_grad()
    image_features, text_features = _pooled(model.encode_image(image)), _pooled(model.encode_text(text))
    loss = (
        image_features.pow(2).mean()
        + (text_features * text_features.roll(1, 0)).mean()
        + model.logit_scale.sum()
    )
    loss = loss + image_features.cos().sum() * 0.1 + text_features.sin().sum() * 0.1
    loss.backward()
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def _sampled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return up to two thousand values of each tensor, and its norm."""
    parts = {name: t.flatten()[:: 1 + t.numel() // 2000] for name, t in tensors.items()}
    return {name: torch.cat([part, tensors[name].norm()[None]]) for name, part in parts.items()}


def _pooled(features: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return features if isinstance(features, Tensor) else features[0]


def _record(seen: Observed, name: str, make: Callable[[], Any]) -> None:
    """Store a result under a name, with one entry per tensor; exceptions are stored by type."""
    try:
        made = make()
    except Exception as error:
        seen[name] = f"raised {type(error).__name__}"
        return
    for path, value in _flat(name, made):
        seen[path] = value


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield f"{path} keys", sorted(value)
        for key, item in value.items():
            yield from _flat(f"{path}/{key}", item)
    elif isinstance(value, (tuple, list)) and not all(isinstance(item, str) for item in value):
        yield f"{path} count", len(value)
        for index, item in enumerate(value):
            yield from _flat(f"{path}/{index}", item)
    else:
        yield (
            path,
            value.detach().clone(memory_format=torch.contiguous_format)
            if isinstance(value, Tensor)
            else value,
        )


def signatures(package: Any) -> Observed:
    """List names and defaults of public arguments and configuration fields."""
    seen: Observed = {}
    for kind in ("CLIP", "CustomTextCLIP"):
        for method in (
            "__init__",
            "forward",
            "encode_image",
            "encode_text",
            "get_logits",
            "forward_intermediates",
        ):
            seen[f"{kind}.{method}"] = _arguments(getattr(getattr(package, kind), method))
        for method in ("lock_image_tower", "lock_text_tower", "set_grad_checkpointing", "no_weight_decay"):
            seen[f"{kind}.{method}"] = _arguments(getattr(getattr(package, kind), method))
    for kind in ("CLIPVisionCfg", "CLIPTextCfg"):
        seen[kind] = [f"{f.name}={f.default!r}" for f in fields(getattr(package, kind))]
    seen["ClipLoss"] = _arguments(package.ClipLoss.__init__)
    seen["image_transform"] = _arguments(package.image_transform)
    return seen


def _arguments(function: Any) -> list[str]:
    given = inspect.signature(function).parameters.values()
    return [p.name if p.default is p.empty else f"{p.name}={_number(p.default)!r}" for p in given]


def _number(default: Any) -> Any:
    return round(float(default), 9) if isinstance(default, float) else default


def beginnings(package: Any) -> Observed:
    """Return mean and standard deviation of each initial tensor, or its value if constant."""
    torch.manual_seed(0)
    seen: Observed = {}
    wide = {"width": 128, "layers": 2}
    for name, vision, text in (
        ("vit", {**VIT, **wide}, {**TEXT, **wide, "vocab_size": 2000}),
        ("resnet", {**RESNET, "width": 32}, {**TEXT, **wide, "proj_bias": True}),
        (
            "pools",
            {**VIT, **wide, "attentional_pool": True, "ls_init_value": 0.1},
            {**TEXT, **wide, "embed_cls": True},
        ),
    ):
        model = package.CustomTextCLIP(128, vision, text, init_logit_bias=-10.0)
        for key, tensor in model.state_dict().items():
            values = tensor.double()
            constant = bool((values == values.flatten()[0]).all())
            if constant:
                seen[f"{name}/{key}"] = [values.flatten()[0].item()]
            elif values.numel() >= 1000:
                seen[f"{name}/{key}"] = [values.mean().item(), values.std().item()]
    return seen
