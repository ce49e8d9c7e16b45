"""A configuration that a file brought, looked over before a model is built of it.

A few letters of JSON can describe a model of any size, or name a tower that has to be fetched from somewhere.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError

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
SPARE = 10  # times the parameters of a file that the model of its configuration may have at a rough estimate


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
    for each in fields(cfg):
        name, value = each.name, getattr(cfg, each.name)
        if is_dataclass(value):
            _check(value, where)
        elif name in LARGEST:
            several = value if isinstance(value, tuple) else (value,)
            low = 0 if name in FROM_ZERO else 1
            if name == "patch_size" and value is None:
                continue
            if not 1 <= len(several) <= 4 or not all(_is_whole(n, low, LARGEST[name]) for n in several):
                raise CheckpointError(f"{where} describes no model: {name} is {_short(value)}")
        elif name == "mlp_ratio":
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= RATIO:
                raise CheckpointError(f"{where} describes no model: {name} is {_short(value)}")
        elif name in NAMES and value is not None:
            if not isinstance(value, str) or not NAMES[name].fullmatch(value):
                raise CheckpointError(f"{where} names {_short(value)} as its {name}, which is no name of one")
        elif name.endswith("_cfg") and value is not None:
            raise CheckpointError(f"{where} describes no model: {name} is no table")


def _at_least(cfg: ModelCfg) -> int:
    """How many parameters a model has, roughly and not too high: its tables and its blocks."""
    return _visual(cfg.vision_cfg) + _text(cfg.text_cfg)


def _visual(cfg: CLIPVisionCfg) -> int:
    height, width = (
        (cfg.image_size, cfg.image_size) if isinstance(cfg.image_size, int) else cfg.image_size[:2]
    )
    if cfg.timm_model_name:  # its name says how large it is; only its positions depend on the configuration
        return (height // 64) * (width // 64) * 64
    if not isinstance(cfg.layers, int):
        return sum(depth * (cfg.width * 2**stage) ** 2 for stage, depth in enumerate(cfg.layers))
    patch = (
        (cfg.patch_size, cfg.patch_size)
        if isinstance(cfg.patch_size, int)
        else tuple(cfg.patch_size or (1, 1))
    )
    positions = (height // max(patch[0], 1)) * (width // max(patch[-1], 1))
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + (positions + 3 * math.prod(patch)) * cfg.width


def _text(cfg: CLIPTextCfg) -> int:
    if cfg.hf_model_name:
        return 0
    table = (cfg.vocab_size + cfg.context_length) * cfg.width
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + table


def _block(width: int, mlp_ratio: float) -> int:
    return int((4 + 2 * mlp_ratio) * width**2)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _short(value: Any) -> str:
    return repr(value)[:60]
