"""Table of architectures: configurations of the zoo and registered ones, as plain dicts."""

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

# Fields that are present in a configuration even if they have the default value, because programs read them.
ALWAYS_WRITTEN = {
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
    """List the names of all architectures, in natural order of their numbers."""
    return list(_MODEL_CONFIGS)


def add_model_config(path: str | os.PathLike[str]) -> None:
    """Register the architecture of a JSON file, or of every JSON file in a folder, under the file name.

    In a folder, files that are not configurations are skipped. Existing names are replaced.

    Raises:
        ConfigError: if the path does not exist, or is a file that is not a configuration.
    """
    path = Path(path)
    if path.is_dir():
        found = {file.stem: cfg for file in path.glob("*.json") if (cfg := _read(file))}
    else:
        cfg = _read(path) if path.is_file() else None
        if cfg is None:
            fault = f"is not a JSON object with {', '.join(REQUIRED)}" if path.exists() else "does not exist"
            raise ConfigError(f"{path} {fault}; expected a model configuration, or a folder of them")
        found = {path.stem: cfg}
    everything = {**_MODEL_CONFIGS, **found}
    _MODEL_CONFIGS.clear()  # in place: programs import this dict
    _MODEL_CONFIGS.update((name, everything[name]) for name in sorted(everything, key=_natural_key))


def _rescan_model_configs() -> None:
    """Register the configurations in `_MODEL_CONFIG_PATHS`, a list that programs add to."""
    for path in _MODEL_CONFIG_PATHS:
        add_model_config(path)


def get_model_config(model_name: str) -> dict[str, Any] | None:
    """Return the configuration of an architecture, a folder (`local-dir:`) or a repository (`hf-hub:`).

    Returns:
        A copy, in the format of `open_clip_config.json`; None for an unknown architecture.

    Raises:
        UnknownModelError, CheckpointError, DownloadError: if a folder or repository has no valid configuration.
    """
    from open_clip.sources import read_config

    if model_name.startswith((zoo.FOLDER_PREFIX, zoo.HUB_PREFIX)):
        content = read_config(zoo.resolve(model_name))
        cfg = content.get("model_cfg", content)
        if not isinstance(cfg, dict):
            raise CheckpointError(f"the model_cfg of {model_name} is a {type(cfg).__name__}, not an object")
        return cfg
    return copy.deepcopy(_MODEL_CONFIGS.get(model_name))


def known_config(model_name: str) -> dict[str, Any]:
    """Return the configuration of an architecture. `/` in a name means `-`; OpenAI's names are accepted too.

    Raises:
        UnknownModelError: for an unknown name; the message suggests similar ones.
    """
    name = architecture_name(model_name)
    if name is None:
        raise UnknownModelError(
            model_name, _MODEL_CONFIGS, kind="architecture", hint="open_clip.list_models() lists them all."
        )
    return copy.deepcopy(_MODEL_CONFIGS[name])


def architecture_name(model_name: str) -> str | None:
    """Return the architecture for a plain name, or None if it is unknown."""
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
    """Return a sort key that orders the numbers in names by value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", string_.lower())]


def _published(name: str) -> dict[str, Any]:
    """Return a configuration of the zoo in its published form, with all fields that programs read."""
    cfg = zoo.architecture(name)
    parts = {
        "vision_cfg": ALWAYS_WRITTEN["timm" if cfg.vision_cfg.timm_model_name else "visual"],
        "text_cfg": ALWAYS_WRITTEN["hf" if cfg.text_cfg.hf_model_name else "text"],
        "multimodal_cfg": ALWAYS_WRITTEN["multimodal"],
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
