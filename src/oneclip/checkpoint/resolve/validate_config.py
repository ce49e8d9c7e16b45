"""A configuration that a file brought, looked over before a model is built of it.

A few letters of JSON can describe a model of any size, or name a tower that has to be fetched from somewhere.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn

from oneclip import zoo
from oneclip.checkpoint.skip_init import outline
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_text_tower, build_visual_tower

# The largest that a whole number may be, several times beyond any model that there is.
LARGEST = {
    "embed_dim": 2**16,
    "width": 2**16,
    "layers": 2**10,
    "heads": 2**12,
    "head_width": 2**16,
    "dim_head": 2**16,
    "patch_size": 2**12,
    "image_size": 2**15,
    "size": 2**15,
    "vocab_size": 2**24,
    "context_length": 2**20,
    "attn_pooler_queries": 2**16,
    "n_queries": 2**16,
    "attn_pooler_heads": 2**12,
    "pad_id": 2**24,
    "eos_id": 2**24,
}
FROM_ZERO = {"pad_id", "eos_id", "patch_size"}  # ResNets have no patches
RATIO = 64.0  # of the width inside a block to that of the block
NAMES = {
    "timm_model_name": re.compile(r"[\w.-]{1,128}", re.ASCII),  # timm would fetch what has a colon in it
    "hf_model_name": re.compile(r"[^\0\n:]{1,1000}"),
    "hf_tokenizer_name": re.compile(r"[^\0\n]{1,1000}"),  # a repository, or a folder
}
GELUS = ("none", "tanh")
SPARE = 2  # times the numbers of a file that the model of its configuration may have at a rough estimate
# of a picture; up to here what timm's towers compute (masks, indices, rotations) is small
USUAL_PIXELS = 512**2


def check_cfg(cfg: ModelCfg | CLIPTextCfg | PreprocessCfg, source: object) -> None:
    """Look at every field of a configuration.

    Args:
        cfg: as it was read.
        source: what it was read from, for messages.

    Raises:
        CheckpointError: for a number that is none or is absurd, and for the name of a tower that is no plain name.
    """
    _check(cfg, str(source))


def check_size(cfg: ModelCfg, parameters: int, source: object) -> None:
    """Compare how many numbers a model has, at least, with how many there are for it.

    Raises:
        CheckpointError: if the model would be many times larger than its file.
    """
    needed = _at_least(cfg)
    if needed > SPARE * parameters + 10**8:
        raise CheckpointError(
            f"{source} holds {parameters:,} numbers, and a model of its configuration has at least {needed:,}: they "
            "do not belong together"
        )


def _check(cfg: Any, where: str) -> None:
    try:
        cfg.check_types()
    except ConfigError as error:
        raise CheckpointError(f"{where} describes no model: {error}") from error
    for each in fields(cfg):
        name, value = each.name, getattr(cfg, each.name)
        if is_dataclass(value):
            _check(value, where)
        elif name in NAMES and value is not None and not NAMES[name].fullmatch(value):
            raise CheckpointError(f"{where} names {_short(value)} as its {name}, which is no name of one")
        elif not _makes_sense(name, value):
            raise CheckpointError(f"{where} describes no model: {name} is {_short(value)}")


def _makes_sense(name: str, value: Any) -> bool:
    """Whether a value, of the type that its field has, is one that a model can have."""
    several = value if isinstance(value, tuple) else (value,)
    if value is None:
        return True
    if name in LARGEST:
        return all((0 if name in FROM_ZERO else 1) <= number <= LARGEST[name] for number in several)
    if name == "mlp_ratio":
        return bool(0 < value <= RATIO)
    if name == "norm_kwargs":
        eps = value.get("eps", 1.0)
        return value.keys() <= {"eps"} and isinstance(eps, int | float) and 0 < eps <= 1
    if name == "act_kwargs":
        return value.keys() <= {"approximate"} and value.get("approximate", "none") in GELUS
    if name == "mean":  # of numbers between 0 and 1; a mean of 123 belongs to those up to 255
        return all(0 <= number <= 1 for number in several)
    return name != "std" or all(number > 0 for number in several)


def _at_least(cfg: ModelCfg) -> int:
    """How many numbers a model has, roughly and not too high: its tables, its blocks, its masks."""
    decoder = _decoder(cfg.multimodal_cfg) if cfg.multimodal_cfg else 0
    return _visual(cfg.vision_cfg, cfg.embed_dim) + _text(cfg.text_cfg, cfg.embed_dim) + decoder


def _visual(cfg: CLIPVisionCfg, embed_dim: int) -> int:
    height, width = (
        (cfg.image_size, cfg.image_size) if isinstance(cfg.image_size, int) else cfg.image_size[:2]
    )
    if cfg.timm_model_name:  # its name says how large it is; only what depends on the positions is open
        if height * width <= USUAL_PIXELS:
            return 0
        random = replace(cfg, timm_model_pretrained=False)
        return _numbers(outline(lambda: build_visual_tower(embed_dim, random)))
    if not isinstance(cfg.layers, int):
        return sum(depth * (cfg.width * 2**stage) ** 2 for stage, depth in enumerate(cfg.layers))
    patch = (
        (cfg.patch_size, cfg.patch_size)
        if isinstance(cfg.patch_size, int)
        else tuple(cfg.patch_size or (1, 1))
    )
    positions = (height // max(patch[0], 1)) * (width // max(patch[-1], 1))
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + (positions + 3 * math.prod(patch)) * cfg.width


def _text(cfg: CLIPTextCfg, embed_dim: int) -> int:
    if cfg.hf_model_name:
        return 0 if zoo.text_tower(cfg.hf_model_name) else _foreign_text(cfg, embed_dim)
    mask = 0 if cfg.no_causal_mask else cfg.context_length**2
    table = (cfg.vocab_size + cfg.context_length) * cfg.width
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + table + mask


def _foreign_text(cfg: CLIPTextCfg, embed_dim: int) -> int:
    """Of a tower of transformers' whose configuration is a file from somewhere."""
    random = replace(cfg, hf_model_pretrained=False)
    return _numbers(outline(lambda: build_text_tower(embed_dim, random)))


def _decoder(cfg: MultimodalCfg) -> int:
    return 2 * cfg.layers * _block(cfg.width, cfg.mlp_ratio) + cfg.context_length**2


def _numbers(tower: nn.Module) -> int:
    """The numbers that a tower holds, computed ones too, counted as if all had four bytes."""
    return sum(t.numel() * t.element_size() for t in (*tower.parameters(), *tower.buffers())) // 4


def _block(width: int, mlp_ratio: float) -> int:
    return int((4 + 2 * mlp_ratio) * width**2)


def _short(value: Any) -> str:
    return repr(value)[:60]
