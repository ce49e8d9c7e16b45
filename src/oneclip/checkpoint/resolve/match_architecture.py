"""Match the names and shapes of tensors with published architectures, without building a model.

Only tensors that follow directly from the numbers of a configuration are compared: embedding tables, the first and
the last layer, the number of blocks. Shapes show neither the activation nor the number of heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from oneclip import zoo
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, as_pair

Shape = tuple[int, ...]
_BLOCK = re.compile(r"([^\d]*\d?)\.(\d+)\.")  # the name of a stage may end in a digit: `visual.layer1.0.`


def exact_matches(state_dict: Mapping[str, Tensor]) -> list[str]:
    """List the published architectures with these shapes, in the order of the zoo; possibly empty."""
    return [name for name, share in _shares(state_dict).items() if share == 1]


def resized_matches(state_dict: Mapping[str, Tensor]) -> dict[str, ModelCfg]:
    """Find published architectures that have these shapes at another image size or context length.

    Returns:
        Name to configuration for these sizes, in the order of the zoo; possibly empty.
    """
    found = {}
    for name, share in _shares(state_dict, sizes=False).items():
        if share == 1 and (cfg := _with_sizes_of(zoo.architecture(name), state_dict)):
            found[name] = cfg
    return found


def nearest_match(state_dict: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """Return the most similar architecture and the share of compared shapes that are equal, if any is."""
    shares = _shares(state_dict)
    best = max(shares, key=lambda name: shares[name], default=None)
    return None if best is None or not shares[best] else (best, shares[best])


def differing_fields(one: ModelCfg, other: ModelCfg) -> list[str]:
    """List the fields in which two configurations describe different architectures, such as `vision_cfg.width`."""
    a, b = _flat_fields(one), _flat_fields(other)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def count_parameters(state_dict: Mapping[str, Tensor]) -> int:
    """Count the learned numbers of a state dict, without statistics of norms and without masks."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "attn_mask", "position_ids")
    return sum(t.numel() for name, t in state_dict.items() if name.rpartition(".")[2] not in buffers)


def _with_sizes_of(cfg: ModelCfg, state_dict: Mapping[str, Tensor]) -> ModelCfg | None:
    """Set image size and context length to those of the position tables.

    Returns:
        The configuration; None if the tables do not show the sizes: for towers of other libraries, and grids that are
        not square.
    """
    vision, text = cfg.vision_cfg, cfg.text_cfg
    if vision.timm_model_name or text.hf_model_name or cfg.multimodal_cfg:
        return None
    is_vit = isinstance(vision.layers, int)
    cell = as_pair(vision.patch_size or 1)[0] if is_vit else 32
    image_positions = state_dict.get(f"visual.{'' if is_vit else 'attnpool.'}positional_embedding")
    text_positions = state_dict.get(f"{'text.' if cfg.custom_text else ''}positional_embedding")
    if image_positions is None or text_positions is None:
        return None
    if image_positions.ndim != 2 or text_positions.ndim != 2:
        return None
    side = math.isqrt(max(image_positions.shape[0] - 1, 0))
    if side < 1 or side**2 + 1 != image_positions.shape[0]:
        return None
    return replace(
        cfg,
        vision_cfg=replace(vision, image_size=side * cell),
        text_cfg=replace(text, context_length=text_positions.shape[0] - text.embed_cls),
    )


def _shares(state_dict: Mapping[str, Tensor], *, sizes: bool = True) -> dict[str, float]:
    """Compute the share of equal shapes for each architecture.

    Args:
        state_dict: tensors by name.
        sizes: False to ignore shapes that depend on the image size or the context length.
    """
    found: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    found |= _blocks(found)
    visual = {name: tensor for name, tensor in state_dict.items() if name.startswith("visual.")}
    totals = count_parameters(state_dict), count_parameters(visual)
    shares: dict[str, float] = {}
    for name in zoo.architectures():
        cfg = zoo.architecture(name)
        shapes, traits = _visual(cfg.vision_cfg, cfg.embed_dim) | _text(cfg), _traits(cfg)
        if not sizes:
            shapes = {key: shape for key, shape in shapes.items() if not key.endswith("positional_embedding")}
        equal = sum(found.get(key) == shape for key, shape in shapes.items())
        equal += sum(any(map(re.compile(key).match, found)) == has for key, has in traits.items())
        counts = _counts(name) if sizes else ()
        equal += sum(count == total for count, total in zip(counts, totals, strict=False))
        shares[name] = equal / (len(shapes) + len(traits) + len(counts))
    return shares


def _blocks(names: Mapping[str, Shape]) -> dict[str, Shape]:
    """Count the blocks under each numbered name, as shapes with one axis."""
    blocks: dict[str, set[str]] = {}
    for name in names:
        if found := _BLOCK.match(name):
            blocks.setdefault(found[1], set()).add(found[2])
    return {name: (len(numbers),) for name, numbers in blocks.items()}


def _traits(cfg: ModelCfg) -> dict[str, bool]:
    """Return patterns of name prefixes, and whether an architecture has such names."""
    vision, text = cfg.vision_cfg, cfg.text_cfg
    traits = {
        r"visual\.trunk\.": vision.timm_model_name is not None,
        r"text\.transformer\.(?!resblocks)": text.hf_model_name is not None,
        r"text_decoder\.": cfg.multimodal_cfg is not None,
        "logit_bias": cfg.init_logit_bias is not None,
    }
    if isinstance(vision.layers, int) and not vision.timm_model_name:
        traits[r"visual\.ln_pre\."] = not vision.no_ln_pre
        traits[r"visual\.transformer\.resblocks\.0\.ls_1\."] = vision.ls_init_value is not None
    return traits


def _counts(name: str) -> tuple[int, ...]:
    """Return the parameters of an architecture and of its image tower; empty for one outside the zoo."""
    try:
        return tuple(zoo.parameters(name))
    except KeyError:
        return ()


def _visual(cfg: CLIPVisionCfg, embed_dim: int) -> dict[str, Shape]:
    if cfg.timm_model_name:
        return {}
    height, width = as_pair(cfg.image_size)
    if not isinstance(cfg.layers, int):
        positions = (height // 32) * (width // 32) + 1
        return {f"visual.layer{stage}": (depth,) for stage, depth in enumerate(cfg.layers, 1)} | {
            "visual.layer1.0.conv1.weight": (cfg.width, cfg.width, 1, 1),
            "visual.attnpool.positional_embedding": (positions, 32 * cfg.width),
            "visual.attnpool.c_proj.weight": (embed_dim, 32 * cfg.width),
        }
    patch = as_pair(cfg.patch_size or 1)
    positions = (height // patch[0]) * (width // patch[1]) + 1
    shapes = {
        "visual.conv1.weight": (cfg.width, 3, *patch),
        "visual.positional_embedding": (positions, cfg.width),
        "visual.transformer.resblocks": (cfg.layers,),
        "visual.transformer.resblocks.0.mlp.c_fc.weight": (int(cfg.width * cfg.mlp_ratio), cfg.width),
    }
    return shapes | ({} if cfg.attentional_pool else {"visual.proj": (cfg.width, embed_dim)})


def _text(cfg: ModelCfg) -> dict[str, Shape]:
    text: CLIPTextCfg = cfg.text_cfg
    if text.hf_model_name:
        return {}
    prefix = "text." if cfg.custom_text or cfg.multimodal_cfg else ""
    shapes: dict[str, Shape] = {
        f"{prefix}token_embedding.weight": (text.vocab_size, text.width),
        f"{prefix}positional_embedding": (text.context_length + text.embed_cls, text.width),
        f"{prefix}transformer.resblocks": (text.layers,),
        f"{prefix}transformer.resblocks.0.mlp.c_fc.weight": (int(text.width * text.mlp_ratio), text.width),
    }
    if text.proj_type == "linear" and not text.proj_bias:
        shapes[f"{prefix}text_projection"] = (text.width, cfg.embed_dim)
    return shapes


# Fields that do not change what is computed with given weights, or that are compared elsewhere (quick_gelu).
_IGNORED_FIELDS = {
    "quick_gelu",
    "init_logit_scale",
    "patch_dropout",
    "output_tokens",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
}


def _flat_fields(cfg: ModelCfg) -> dict[str, Any]:
    """Return the fields that differ from their defaults; those of towers as `vision_cfg.width`."""
    flat: dict[str, Any] = {}
    for key, value in cfg.to_dict().items():
        inner = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        flat |= {name: v for name, v in inner.items() if name.rpartition(".")[2] not in _IGNORED_FIELDS}
    if not isinstance(cfg.vision_cfg.layers, int):
        flat.pop("vision_cfg.patch_size", None)  # a ResNet has no patches
    return flat
