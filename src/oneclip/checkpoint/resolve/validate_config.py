"""Validate the configuration of a checkpoint before a model is built from it.

A few characters of JSON can describe a model of any size, or name a tower that would be downloaded.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn

from oneclip import zoo
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg, PreprocessCfg, as_pair
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_text_tower, build_visual_tower

# Largest valid integers, several times greater than in any existing model.
MAX_VALUES = {
    "embed_dim": 2**16,
    "width": 2**16,
    "layers": 2**8,
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
MAY_BE_ZERO = {"pad_id", "eos_id", "patch_size"}  # ResNets have no patches
MAX_MLP_RATIO = 64.0
NAMES = {
    "timm_model_name": re.compile(r"[\w.-]{1,128}", re.ASCII),  # timm would download a name with a colon
    "hf_model_name": re.compile(r"[^\0\n:]{1,1000}"),
    "hf_tokenizer_name": re.compile(r"[^\0\n]{1,1000}"),  # a repository, or a folder
}
GELUS = ("none", "tanh")
MAX_MODEL_TO_FILE = 2  # ratio of the estimated parameters of a model to the numbers in its file
# Up to this image size the buffers that timm's towers compute (masks, indices, rotations) are small.
USUAL_PIXELS = 512**2


def check_cfg(cfg: ModelCfg | CLIPTextCfg | PreprocessCfg, source: object) -> None:
    """Check every field of a configuration.

    Args:
        cfg: the configuration as read from a file.
        source: the file, for messages.

    Raises:
        CheckpointError: for a value of a wrong type, a number out of range, or an invalid name of a tower.
    """
    _check(cfg, str(source))


def check_size(cfg: ModelCfg, parameters: int, source: object) -> None:
    """Compare a lower bound of the parameters of a model with the numbers in its file.

    Args:
        cfg: configuration of the model.
        parameters: how many numbers the file contains.
        source: the file, for messages.

    Raises:
        CheckpointError: if the model would be many times larger than its file.
    """
    needed = _min_parameters(cfg)
    if needed > MAX_MODEL_TO_FILE * parameters + 10**8:
        raise CheckpointError(
            f"{source} has {parameters:,} numbers, but its configuration describes a model of at least {needed:,}: "
            "weights and configuration do not belong together"
        )


def _check(cfg: Any, where: str) -> None:
    try:
        cfg.check_types()
    except ConfigError as error:
        raise CheckpointError(f"{where} is not a valid model configuration: {error}") from error
    for each in fields(cfg):
        name, value = each.name, getattr(cfg, each.name)
        if is_dataclass(value):
            _check(value, where)
        elif name in NAMES and value is not None and not NAMES[name].fullmatch(value):
            raise CheckpointError(f"{where}: {_short(value)} is not a valid {name}")
        elif not _is_plausible(name, value):
            raise CheckpointError(f"{where} is not a valid model configuration: {name} is {_short(value)}")


def _is_plausible(name: str, value: Any) -> bool:
    """Check whether the value of a field is possible in a model; its type was checked before."""
    several = value if isinstance(value, tuple) else (value,)
    if value is None:
        return True
    if name in MAX_VALUES:
        return all((0 if name in MAY_BE_ZERO else 1) <= number <= MAX_VALUES[name] for number in several)
    if name == "mlp_ratio":
        return bool(0 < value <= MAX_MLP_RATIO)
    if name == "norm_kwargs":
        eps = value.get("eps", 1.0)
        return value.keys() <= {"eps"} and isinstance(eps, int | float) and 0 < eps <= 1
    if name == "act_kwargs":
        return value.keys() <= {"approximate"} and value.get("approximate", "none") in GELUS
    if name == "mean":  # pixel values are 0 to 1 here; a mean such as 123 is for values up to 255
        return all(0 <= number <= 1 for number in several)
    return name != "std" or all(number > 0 for number in several)


def _min_parameters(cfg: ModelCfg) -> int:
    """Estimate a lower bound of the numbers in a model: its tables, blocks and masks."""
    decoder = _decoder(cfg.multimodal_cfg) if cfg.multimodal_cfg else 0
    return _visual(cfg.vision_cfg, cfg.embed_dim) + _text(cfg.text_cfg, cfg.embed_dim) + decoder


def _visual(cfg: CLIPVisionCfg, embed_dim: int) -> int:
    height, width = as_pair(cfg.image_size)
    if cfg.timm_model_name:  # its name fixes its size, except for buffers that depend on the positions
        if height * width <= USUAL_PIXELS:
            return 0
        random = replace(cfg, timm_model_pretrained=False)
        return _numbers(build_on_meta(lambda: build_visual_tower(embed_dim, random)))
    if not isinstance(cfg.layers, int):
        return sum(depth * (cfg.width * 2**stage) ** 2 for stage, depth in enumerate(cfg.layers))
    patch = as_pair(cfg.patch_size or 1)
    positions = (height // max(patch[0], 1)) * (width // max(patch[1], 1))
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + (positions + 3 * math.prod(patch)) * cfg.width


def _text(cfg: CLIPTextCfg, embed_dim: int) -> int:
    if cfg.hf_model_name:
        return 0 if zoo.text_tower(cfg.hf_model_name) else _custom_text(cfg, embed_dim)
    mask = 0 if cfg.no_causal_mask else cfg.context_length**2
    table = (cfg.vocab_size + cfg.context_length) * cfg.width
    return cfg.layers * _block(cfg.width, cfg.mlp_ratio) + table + mask


def _custom_text(cfg: CLIPTextCfg, embed_dim: int) -> int:
    """Count the numbers of a transformers tower whose configuration comes from a file."""
    random = replace(cfg, hf_model_pretrained=False)
    return _numbers(build_on_meta(lambda: build_text_tower(embed_dim, random)))


def _decoder(cfg: MultimodalCfg) -> int:
    return 2 * cfg.layers * _block(cfg.width, cfg.mlp_ratio) + cfg.context_length**2


def _numbers(tower: nn.Module) -> int:
    """Count the numbers of a tower, buffers included, as if all had four bytes."""
    return sum(t.numel() * t.element_size() for t in (*tower.parameters(), *tower.buffers())) // 4


def _block(width: int, mlp_ratio: float) -> int:
    return int((4 + 2 * mlp_ratio) * width**2)


def _short(value: Any) -> str:
    return repr(value)[:60]
