"""SigLIP's image tower seen through hooks and timm's interface; both sides of a comparison run this file."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases_siglip
import torch
from cases_model import Observed, _arguments, _flat, build
from install import PACKAGES
from parity_weights import fill, random_images
from torch import Tensor, nn

NAMES = ("SigLIP", "SigLIP 2, dropout")
FULL = "vit_base_patch16_siglip_224"


def observe(package: Any) -> dict[str, Any]:
    """Return all results, by model name."""
    seen: dict[str, Any] = {name: of_model(package, name) for name in NAMES}
    return {**seen, "full size": full_size(package)}


def of_model(package: Any, name: str) -> Observed:
    """Return all results for one small model."""
    return {
        "kinds": kinds(tower(package, name)),
        "calls": {program: calls(package, name, program) for program in PROGRAMS},
        "interface": results(package, name, INTERFACE),
        "replaced": results(package, name, REPLACED),
        "random": results(package, name, RANDOM),
    }


def tower(package: Any, name: str) -> Any:
    """Build a small image tower with reproducible weights, in evaluation mode."""
    visual: Any = build(package, cases_siglip.case_for(package, name)).visual
    fill(visual)
    return visual.eval()


def images(name: str, size: int | tuple[int, int] | None = None, channels: int = 3) -> Tensor:
    side = cases_siglip.SIZES["none" if name == "SigLIP" else "tanh"]
    x = random_images(2, side if size is None else size)
    return torch.cat([x, x], dim=1)[:, :channels]


def kinds(visual: nn.Module) -> dict[str, list[str]]:
    """Return the torch base classes of each submodule, nearest first."""
    return {
        name: [kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
        for name, module in visual.named_modules()
    }


# --- what hooks see ---


def _forward(visual: Any, x: Tensor) -> Any:
    return visual(x)


def _training(visual: Any, x: Tensor) -> Any:
    torch.manual_seed(3)
    return visual.train()(x)


def _in_steps(visual: Any, x: Tensor) -> Any:
    for module in visual.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return visual(x)


def _attention_dropout(visual: Any, x: Tensor) -> Any:
    for block in visual.trunk.blocks:
        block.attn.attn_drop.p = block.attn.proj_drop.p = 0.3
    return _training(visual, x)


def _checkpointing(visual: Any, x: Tensor) -> Any:
    visual.set_grad_checkpointing()
    visual(x.requires_grad_()).sum().backward()


def _autocast(visual: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return visual(x)


def _classified(visual: Any, x: Tensor) -> Any:
    torch.manual_seed(3)
    visual.trunk.reset_classifier(5)
    return visual(x)


PROGRAMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "forward": _forward,
    "training": _training,
    "attention in steps": _in_steps,
    "attention dropout": _attention_dropout,
    "checkpointing": _checkpointing,
    "autocast": _autocast,
    "classified": _classified,
    "causal": lambda visual, x: visual.trunk(x, is_causal=True),
    "intermediates": lambda visual, x: visual.forward_intermediates(x, indices=[0, -1]),
    "intermediates, early": lambda visual, x: visual.forward_intermediates(
        x, indices=[1], stop_early=True, intermediates_only=True, normalize_intermediates=True
    ),
}


def calls(package: Any, name: str, program: str) -> dict[str, list[Any]]:
    """Record all calls of each submodule: keyword arguments, inputs, output."""
    visual = tower(package, name)
    seen: dict[str, list[Any]] = {key: [] for key, _ in visual.named_modules()}
    names = {module: key for key, module in visual.named_modules()}

    def see(module: nn.Module, inputs: Any, named: dict[str, Any], output: Tensor) -> None:
        called = [sorted(named), [x.detach().clone() for x in inputs], output.detach().clone()]
        seen[names[module]].append(called)

    for module in names:
        module.register_forward_hook(see, with_kwargs=True)
    PROGRAMS[program](visual, images(name))
    return seen


# --- timm's interface, and open_clip's ---

TRUNK = (
    "num_classes",
    "in_chans",
    "global_pool",
    "num_features",
    "head_hidden_size",
    "embed_dim",
    "num_prefix_tokens",
    "num_reg_tokens",
    "has_class_token",
    "no_embed_class",
    "pool_include_prefix",
    "dynamic_img_size",
    "grad_checkpointing",
    "cls_token",
    "reg_token",
)
PATCHES = ("grid_size", "num_patches", "img_size", "patch_size", "strict_img_size", "flatten")
ATTENTION = ("num_heads", "head_dim", "attn_dim", "scale", "fused_attn")
POOL = ("num_heads", "head_dim", "scale", "fused_attn", "latent_len", "latent_dim", "out_features")

TOWER_METHODS = ("forward", "forward_intermediates", "lock", "set_grad_checkpointing", "set_input_size")
TRUNK_METHODS = (
    "forward",
    "forward_features",
    "forward_head",
    "forward_intermediates",
    "get_classifier",
    "get_intermediate_layers",
    "group_matcher",
    "init_weights",
    "no_weight_decay",
    "pool",
    "prune_intermediate_layers",
    "reset_classifier",
    "set_grad_checkpointing",
    "set_input_size",
    "_pos_embed",
)

INTERMEDIATES: dict[str, dict[str, Any]] = {
    "default": {},
    "last": {"indices": 1},
    "listed": {"indices": [0, -1]},
    "normed": {"indices": 2, "norm": True, "output_fmt": "NLC"},
    "early": {"indices": [0], "stop_early": True},
    "alone": {"indices": [0], "stop_early": True, "intermediates_only": True},
    "dict": {"output_dict": True, "return_prefix_tokens": True},
    "dict alone": {"output_dict": True, "intermediates_only": True},
    "prefix": {"return_prefix_tokens": True},
    "causal": {"is_causal": True},
    "out of range": {"indices": [7]},
    "too many": {"indices": 9},
    "none": {"indices": 0},
    "other format": {"output_fmt": "NHWC"},
}


def _masks(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(2, 1, count, count, generator=generator)
    return {"mask": numbers, "mask of booleans": (numbers > 0) | torch.eye(count, dtype=torch.bool)}


def _masked(visual: Any, x: Tensor) -> Any:
    trunk, found = visual.trunk, {}
    for fused in (True, False):
        for block in trunk.blocks:
            block.attn.fused_attn = fused
        for name, mask in _masks(trunk.patch_embed.num_patches).items():
            found[f"{name}, {fused}"] = [
                trunk(x, attn_mask=mask),
                trunk.get_intermediate_layers(x, 1, attn_mask=mask),
            ]
    return found


def _pruned(visual: Any, x: Tensor) -> Any:
    found: dict[str, Any] = {}
    for arguments in ({}, {"indices": [0, 1], "prune_norm": True}, {"indices": 2, "prune_head": False}):
        trunk = copy.deepcopy(visual.trunk)
        kept = trunk.prune_intermediate_layers(**arguments)
        found[str(arguments)] = [kept, sorted(trunk.state_dict()), trunk(x), trunk.global_pool]
    return found


def _pooled(visual: Any, x: Tensor) -> Any:
    found: dict[str, Any] = {}
    for pool in ("map", None, "avg", "avgmax", "max", ""):
        for classes in (0, 5):
            trunk = copy.deepcopy(visual.trunk)
            torch.manual_seed(3)
            trunk.reset_classifier(classes, pool)
            tokens = trunk.forward_features(x)
            found[f"{pool} {classes}"] = [
                trunk(x),
                trunk.forward_head(tokens),
                trunk.forward_head(tokens, pre_logits=True),
                trunk.pool(tokens),
                trunk.global_pool,
                trunk.num_classes,
                type(trunk.get_classifier()).__name__,
                trunk.get_classifier() is trunk.head,
                sorted(trunk.state_dict()),
            ]
    return found


def _refused(visual: Any, x: Tensor) -> Any:
    trunk = visual.trunk
    wrong: dict[str, Callable[[], Any]] = {
        "pool": lambda: copy.deepcopy(trunk).reset_classifier(0, "token"),
        "pool of another kind": lambda: copy.deepcopy(trunk).reset_classifier(0, "prr"),
        "larger images": lambda: visual(torch.zeros(1, 3, 64, 64)),
        "fewer channels": lambda: visual(torch.zeros(1, 1, *x.shape[2:])),
        "one image": lambda: visual(x[0]),
    }
    pruned = copy.deepcopy(trunk)
    pruned.reset_classifier(0, "avg")
    wrong["attention pooling again"] = lambda: pruned.reset_classifier(0, "map")
    return {name: _raises(call) for name, call in wrong.items()}


def _resized(visual: Any, x: Tensor) -> Any:
    found: dict[str, Any] = {}
    for arguments in (
        {"img_size": 48},
        {"img_size": (48, 24)},
        {"patch_size": 4},
        {"img_size": (40, 48), "patch_size": (10, 12)},
    ):
        made = copy.deepcopy(visual)
        made.trunk.pos_embed.requires_grad = False
        torch.manual_seed(3)
        made.trunk.set_input_size(**arguments)
        embed = made.trunk.patch_embed
        facts = [getattr(embed, name) for name in PATCHES]
        facts += [embed.feat_ratio(), embed.feat_ratio(as_scalar=False), made.trunk.pos_embed.requires_grad]
        features = made(random_images(2, embed.img_size))
        found[str(arguments)] = [facts, made.trunk.state_dict(), features, torch.rand(1)]
    return found


def _groups(visual: Any, x: Tensor) -> Any:
    matcher = visual.trunk.group_matcher()
    return {
        "no weight decay": sorted(visual.trunk.no_weight_decay()),
        "stem": matcher["stem"],
        "blocks": [list(map(str, pattern)) for pattern in matcher["blocks"]],
        **{f"lock {count}": _locked(visual, count) for count in (4, 3, 2, 1, 0)},
    }


def _locked(visual: Any, count: int) -> list[str]:
    visual.lock(count)
    return sorted(name for name, parameter in visual.named_parameters() if not parameter.requires_grad)


def _facts(visual: Any, x: Tensor) -> Any:
    trunk = visual.trunk
    return {
        "image size": list(visual.image_size),
        "trunk": [str(getattr(trunk, name)) for name in TRUNK],
        "patches": [str(getattr(trunk.patch_embed, name)) for name in PATCHES],
        "attention": [str(getattr(trunk.blocks[0].attn, name)) for name in ATTENTION],
        "pool": [str(getattr(trunk.attn_pool, name)) for name in POOL],
        "grid of others": list(trunk.patch_embed.dynamic_feat_size((50, 34))),
        "features": [sorted(map(str, info.items())) for info in trunk.feature_info],
    }


def _steps(visual: Any, x: Tensor) -> Any:
    """Call the parts of a trunk one by one, as research code does."""
    trunk = visual.trunk
    tokens = trunk._pos_embed(trunk.patch_embed(x))
    tokens = trunk.norm_pre(trunk.patch_drop(tokens))
    for block in trunk.blocks:
        tokens = block(tokens)
    tokens = trunk.norm(tokens)
    return [trunk.forward_features(x), tokens, trunk.attn_pool(tokens), trunk.forward_head(tokens)]


def _dino(visual: Any, x: Tensor) -> Any:
    trunk = visual.trunk
    return [
        trunk.get_intermediate_layers(x),
        trunk.get_intermediate_layers(x, n=2, reshape=True, norm=True),
        trunk.get_intermediate_layers(x, n=(0, 2), return_prefix_tokens=True),
    ]


def _intermediates(visual: Any, x: Tensor) -> Any:
    return {
        name: _or_raises(lambda a=arguments: visual.trunk.forward_intermediates(x, **a))
        for name, arguments in INTERMEDIATES.items()
    }


def _signatures(visual: Any, x: Tensor) -> Any:
    return {
        f"{kind}.{method}": _arguments(getattr(owner, method))
        for kind, owner, methods in (
            ("tower", visual, TOWER_METHODS),
            ("trunk", visual.trunk, TRUNK_METHODS),
            (
                "patches",
                visual.trunk.patch_embed,
                ("forward", "set_input_size", "feat_ratio", "dynamic_feat_size"),
            ),
            ("block", visual.trunk.blocks[0], ("forward",)),
            ("attention", visual.trunk.blocks[0].attn, ("forward",)),
            ("pool", visual.trunk.attn_pool, ("forward", "init_weights")),
        )
        for method in methods
    }


INTERFACE: dict[str, Callable[[Any, Tensor], Any]] = {
    "facts": _facts,
    "signatures": _signatures,
    "steps": _steps,
    "intermediates": _intermediates,
    "layers as DINO gives them": _dino,
    "masks": _masked,
    "pruned": _pruned,
    "pools and classifiers": _pooled,
    "refused": _refused,
    "resized": _resized,
    "groups": _groups,
}


# --- what the model holds decides ---


class Adapter(nn.Module):
    """Linear layer with a low-rank adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.up(self.down(x))
        return y


class Halve(nn.Module):
    """Module that halves its input."""

    def forward(self, x: Tensor, **named: Any) -> Tensor:
        return x / 2


def _four_channels(visual: Any, x: Tensor) -> Any:
    visual.trunk.patch_embed.proj = nn.Conv2d(4, 48, 8, 8)
    fill(visual)
    return [visual(torch.cat([x, x], dim=1)[:, :4]), _raises(lambda: visual(x))]


def _other_positions(visual: Any, x: Tensor) -> Any:
    visual.trunk.pos_embed = nn.Parameter(torch.ones(1, 36, 48))
    visual.trunk.patch_embed.img_size = (48, 48)
    return [visual(random_images(2, 48)), _raises(lambda: visual(x))]


def _any_size(visual: Any, x: Tensor) -> Any:
    trunk = visual.trunk
    trunk.dynamic_img_size, trunk.patch_embed.strict_img_size = True, False
    trunk.patch_embed.flatten, trunk.patch_embed.output_fmt = False, "NHWC"
    return [visual(random_images(2, size)) for size in ((48, 24), x.shape[2:], (16, 40))]


def _adapters(visual: Any, x: Tensor) -> Any:
    for block in visual.trunk.blocks:
        block.attn.qkv, block.mlp.fc2 = Adapter(block.attn.qkv), Adapter(block.mlp.fc2)
    pool = visual.trunk.attn_pool
    pool.q, pool.kv, pool.proj = Adapter(pool.q), Adapter(pool.kv), Adapter(pool.proj)
    fill(visual)
    return visual(x)


def _prompts(visual: Any, x: Tensor) -> Any:
    """Add learned tokens before the patches, as in prompt learning."""
    trunk = visual.trunk
    prompts = torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(2))
    trunk.patch_drop.register_forward_hook(
        lambda module, inputs, output: torch.cat([prompts.expand(len(output), -1, -1), output], dim=1)
    )
    trunk.num_prefix_tokens = 3
    found = visual.forward_intermediates(x, output_extra_tokens=True)
    return [visual(x), found, trunk.forward_intermediates(x, 1, return_prefix_tokens=True)]


def _replace(path: str, make: Callable[[], nn.Module]) -> Callable[[Any, Tensor], Any]:
    def replaced(visual: Any, x: Tensor) -> Any:
        visual.set_submodule(path, make())
        return visual(x)

    return replaced


REPLACED: dict[str, Callable[[Any, Tensor], Any]] = {
    "four channels": _four_channels,
    "other positions": _other_positions,
    "images of any size": _any_size,
    "adapters": _adapters,
    "prompts": _prompts,
    **{
        path: _replace(path, Halve)
        for path in (
            "head",
            "trunk.patch_embed.norm",
            "trunk.pos_drop",
            "trunk.patch_drop",
            "trunk.norm_pre",
            "trunk.norm",
            "trunk.fc_norm",
            "trunk.head_drop",
            "trunk.head",
            *(
                f"trunk.blocks.1.{part}"
                for part in ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
            ),
            *(f"trunk.blocks.1.attn.{part}" for part in ("q_norm", "k_norm", "norm", "proj_drop")),
            *(f"trunk.blocks.1.mlp.{part}" for part in ("act", "drop1", "norm", "drop2")),
            *(f"trunk.attn_pool.{part}" for part in ("q_norm", "k_norm", "proj_drop", "norm", "mlp")),
        )
    },
}


# --- the same random numbers ---


def _drawn(visual: Any, x: Tensor) -> Any:
    torch.manual_seed(1)
    visual.trunk.init_weights()
    found = [visual.state_dict(), torch.rand(1)]
    torch.manual_seed(1)
    visual.trunk.init_weights("reset")
    return [*found, {key: value.clone() for key, value in visual.state_dict().items()}, torch.rand(1)]


def _classifier(visual: Any, x: Tensor) -> Any:
    torch.manual_seed(1)
    visual.trunk.reset_classifier(7)
    return [visual.trunk.head.state_dict(), torch.rand(1)]


RANDOM: dict[str, Callable[[Any, Tensor], Any]] = {
    "drawn again": _drawn,
    "a classifier": _classifier,
    "a training step": lambda visual, x: [_training(visual, x), torch.rand(1)],
}


def full_size(package: Any) -> Observed:
    """Return a checksum of the initial weights of a published tower, at its own and another image size."""
    found: Observed = {}
    for size in (224, 256):
        torch.manual_seed(0)
        visual = built(package, size)
        if (
            size != 224
        ):  # as open_clip_torch's factory does for `force_image_size`; ours already has this size
            visual.set_input_size(size)
        digest = hashlib.sha256()
        for name, tensor in visual.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        found[str(size)] = [digest.hexdigest(), torch.rand(1).item()]
        found[f"{size}, described"] = sorted(map(str, visual.trunk.pretrained_cfg.items()))
        found[f"{size}, one description"] = visual.trunk.default_cfg is visual.trunk.pretrained_cfg
    return found


def built(package: Any, size: int) -> Any:
    """Build the image tower of this name."""
    if PACKAGES in Path(package.__file__).parents:
        return package.timm_model.TimmModel(FULL, 768, image_size=size, pool="map", proj="none")
    from oneclip.config import CLIPVisionCfg
    from oneclip.model import build_visual_tower

    cfg = {"timm_model_name": FULL, "image_size": size, "timm_pool": "map", "timm_proj": "none"}
    return build_visual_tower(768, CLIPVisionCfg.from_dict(cfg))


# --- how it is written down ---


def results(package: Any, name: str, probes: dict[str, Callable[[Any, Tensor], Any]]) -> Observed:
    """Return the results of all probes, each on its own tower."""
    seen: Observed = {}
    for probe, run in probes.items():
        visual = tower(package, name)
        with torch.no_grad():
            seen.update(_flat(probe, run(visual, images(name))))
    return seen


def _raises(call: Callable[[], Any]) -> bool:
    return isinstance(_or_raises(call), str)


def _or_raises(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception:
        return "raised"
