"""Names of architectures to their configurations as plain dicts: the zoo's, and those that a program registers."""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

from oneclip import zoo
from oneclip.errors import CheckpointError, ConfigError, UnknownModelError

__all__ = ["add_model_config", "get_model_config", "list_models"]

REQUIRED = ("embed_dim", "vision_cfg", "text_cfg")

# What programs read from a configuration although its value is the default.
STATED = {
    "timm": (
        "image_size",
        *(f"timm_{name}" for name in ("model_name", "model_pretrained", "pool", "proj", "drop", "drop_path")),
    ),
    "visual": ("image_size", "layers", "width", "patch_size"),
    "hf": ("hf_model_name", "hf_tokenizer_name", "hf_proj_type", "hf_pooler_type"),
    "text": ("context_length", "vocab_size", "width", "heads", "layers"),
    "multimodal": ("context_length", "vocab_size", "width", "heads", "layers", "attn_pooler_heads"),
}


def list_models() -> list[str]:
    """The names of all architectures, numbers in them in their order."""
    return list(_MODEL_CONFIGS)


def add_model_config(path: str | os.PathLike[str]) -> None:
    """Register the architectures in a JSON file, or in every JSON file of a folder, by the files' names.

    A file of a folder that is no configuration is passed over. A name that is known already is replaced.

    Raises:
        ConfigError: if a file named alone is no configuration, or there is no such path.
    """
    path = Path(path)
    if path.is_dir():
        found = {file.stem: cfg for file in path.glob("*.json") if (cfg := _read(file))}
    else:
        cfg = _read(path) if path.is_file() else None
        if cfg is None:
            what = f"holds no JSON object with {', '.join(REQUIRED)}" if path.exists() else "does not exist"
            raise ConfigError(f"{path} {what}: a model's configuration, or a folder of them, was expected")
        found = {path.stem: cfg}
    everything = {**_MODEL_CONFIGS, **found}
    _MODEL_CONFIGS.clear()  # in place: programs import this dict
    _MODEL_CONFIGS.update((name, everything[name]) for name in sorted(everything, key=_natural_key))


def _rescan_model_configs() -> None:
    """Register what lies in the paths that a program added to `_MODEL_CONFIG_PATHS`."""
    for path in _MODEL_CONFIG_PATHS:
        add_model_config(path)


def get_model_config(model_name: str) -> dict[str, Any] | None:
    """The configuration of an architecture, of a folder (`local-dir:`) or of a repository (`hf-hub:`).

    Returns:
        A dict of one's own, as `open_clip_config.json` files hold it; None for a plain name that is not known.

    Raises:
        UnknownModelError, CheckpointError, DownloadError: if a folder or repository has none.
    """
    from open_clip.sources import FOLDER, HUB, read_config

    if model_name.startswith((FOLDER, HUB)):
        content = read_config(zoo.resolve(model_name))
        cfg = content.get("model_cfg", content)
        if not isinstance(cfg, dict):
            raise CheckpointError(f"the model_cfg of {model_name} is a {type(cfg).__name__}, not an object")
        return cfg
    return copy.deepcopy(_MODEL_CONFIGS.get(model_name))


def known_config(model_name: str) -> dict[str, Any]:
    """The configuration of an architecture; `/` in its name stands for `-`, and OpenAI's names are known too.

    Raises:
        UnknownModelError: if there is none; the message has the nearest.
    """
    name = architecture_name(model_name)
    if name is None:
        raise UnknownModelError(
            model_name, _MODEL_CONFIGS, kind="architecture", hint="open_clip.list_models() has them all."
        )
    return copy.deepcopy(_MODEL_CONFIGS[name])


def architecture_name(model_name: str) -> str | None:
    """The architecture that a plain name stands for, or None."""
    for candidate in (model_name, zoo.OPENAI_NAMES.get(model_name, ""), model_name.replace("/", "-")):
        if candidate in _MODEL_CONFIGS:
            return candidate
    return None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) and all(key in content for key in REQUIRED) else None


def _natural_key(string_: str) -> list[int | str]:
    """What to sort names by so that the numbers in them are in their order."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", string_.lower())]


def _published(name: str) -> dict[str, Any]:
    """A configuration of the zoo as its published file has it: what a program may subscript is there."""
    cfg = zoo.architecture(name)
    parts = {
        "vision_cfg": STATED["timm" if cfg.vision_cfg.timm_model_name else "visual"],
        "text_cfg": STATED["hf" if cfg.text_cfg.hf_model_name else "text"],
        "multimodal_cfg": STATED["multimodal"],
    }
    values = cfg.to_dict()
    for key, stated in parts.items():
        if (part := getattr(cfg, key)) is not None:
            values[key] = {**{field: _plain(getattr(part, field)) for field in stated}, **values[key]}
    return values


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_MODEL_CONFIGS: dict[str, dict[str, Any]] = {
    name: _published(name) for name in sorted(zoo.architectures(), key=_natural_key)
}
_MODEL_CONFIG_PATHS: list[Path] = []
