"""Names and shapes of tensors to the published architectures that have them; no model is built.

What is compared is what an architecture's numbers say of single tensors: tables, the first and the last layer,
how many blocks there are. Shapes do not tell an activation, and not the number of heads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from oneclip import zoo
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg

Shape = tuple[int, ...]
_BLOCK = re.compile(r"([^\d]*\d?)\.(\d+)\.")  # `visual.layer1.0.`: a layer may have a number in its name


def fitting(state_dict: Mapping[str, Tensor]) -> list[str]:
    """The published architectures whose shapes these are, in the order of the zoo; perhaps none."""
    return [name for name, share in _shares(state_dict).items() if share == 1]


def resized(state_dict: Mapping[str, Tensor]) -> dict[str, ModelCfg]:
    """The published architectures that have these shapes at another image size or context length, perhaps none.

    Returns:
        Their names in the order of the zoo, each with its configuration for these sizes.
    """
    found = {}
    for name, share in _shares(state_dict, sizes=False).items():
        if share == 1 and (cfg := _of_sizes(zoo.architecture(name), state_dict)):
            found[name] = cfg
    return found


def nearest(state_dict: Mapping[str, Tensor]) -> tuple[str, float] | None:
    """The architecture with most of these shapes, and which share of what was compared is equal."""
    shares = _shares(state_dict)
    best = max(shares, key=lambda name: shares[name], default=None)
    return None if best is None or not shares[best] else (best, shares[best])


def parameters(state_dict: Mapping[str, Tensor]) -> int:
    """How many numbers are learned: all but those that norms count, and masks."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "attn_mask", "position_ids")
    return sum(t.numel() for name, t in state_dict.items() if name.rpartition(".")[2] not in buffers)


def _of_sizes(cfg: ModelCfg, state_dict: Mapping[str, Tensor]) -> ModelCfg | None:
    """The configuration with the image size and the context length of these tables of positions.

    None where these do not say them: for towers of other libraries, and for grids that are not square.
    """
    vision, text = cfg.vision_cfg, cfg.text_cfg
    if vision.timm_model_name or text.hf_model_name or cfg.multimodal_cfg:
        return None
    is_vit = isinstance(vision.layers, int)
    cell = _pair(vision.patch_size or 1)[0] if is_vit else 32
    image = state_dict.get(f"visual.{'' if is_vit else 'attnpool.'}positional_embedding")
    words = state_dict.get(f"{'text.' if cfg.custom_text else ''}positional_embedding")
    if image is None or words is None or image.ndim != 2 or words.ndim != 2:
        return None
    side = math.isqrt(max(image.shape[0] - 1, 0))
    if side < 1 or side**2 + 1 != image.shape[0]:
        return None
    return replace(
        cfg,
        vision_cfg=replace(vision, image_size=side * cell),
        text_cfg=replace(text, context_length=words.shape[0] - text.embed_cls),
    )


def _shares(state_dict: Mapping[str, Tensor], *, sizes: bool = True) -> dict[str, float]:
    """Each architecture with the share of what is compared that is equal.

    Args:
        sizes: False to pass over what depends on the image size and the context length.
    """
    found: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    found |= _blocks(found)
    visual = {name: tensor for name, tensor in state_dict.items() if name.startswith("visual.")}
    totals = parameters(state_dict), parameters(visual)
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
    """How many blocks there are under each name that a number follows, as a shape of one axis."""
    blocks: dict[str, set[str]] = {}
    for name in names:
        if found := _BLOCK.match(name):
            blocks.setdefault(found[1], set()).add(found[2])
    return {name: (len(numbers),) for name, numbers in blocks.items()}


def _traits(cfg: ModelCfg) -> dict[str, bool]:
    """Beginnings of names, and whether an architecture has names that begin so."""
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
    """How many parameters an architecture has, and its image tower alone; nothing where that is not known."""
    try:
        return tuple(zoo.parameters(name))
    except KeyError:
        return ()


def _visual(cfg: CLIPVisionCfg, embed_dim: int) -> dict[str, Shape]:
    if cfg.timm_model_name:
        return {}
    height, width = _pair(cfg.image_size)
    if not isinstance(cfg.layers, int):
        positions = (height // 32) * (width // 32) + 1
        return {f"visual.layer{stage}": (depth,) for stage, depth in enumerate(cfg.layers, 1)} | {
            "visual.layer1.0.conv1.weight": (cfg.width, cfg.width, 1, 1),
            "visual.attnpool.positional_embedding": (positions, 32 * cfg.width),
            "visual.attnpool.c_proj.weight": (embed_dim, 32 * cfg.width),
        }
    patch = _pair(cfg.patch_size or 1)
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


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
