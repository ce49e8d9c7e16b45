"""Write a model in any of four formats, as a folder or a file that is never left incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oneclip.checkpoint.formats import (
    CheckpointFormat,
    NativeCheckpoint,
    OpenAI,
    TransformersChineseCLIP,
    TransformersCLIP,
    TransformersSigLIP,
)
from oneclip.checkpoint.formats.clip_tokenizer import write_clip_tokenizer
from oneclip.checkpoint.formats.transformers_chinese_clip import is_chinese_clip
from oneclip.checkpoint.formats.transformers_siglip import has_siglip_tower
from oneclip.checkpoint.load_state_dict import fix_old_checkpoints
from oneclip.checkpoint.resolve.text_tower_config import TEXT_TOWER_FILE, write_text_tower
from oneclip.checkpoint.save import save
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError, DownloadError, OutputError
from oneclip.hub.atomic import names_in, replace_folder
from oneclip.text import write_tokenizer

if TYPE_CHECKING:
    from oneclip.checkpoint.load import LoadedModel

FOLDER_CONFIG, FOLDER_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class ConvertibleModel:
    """Weights and configurations of a model, for `convert`.

    Attributes:
        state_dict: tensors by the names of this library's models.
        cfg: configuration of the model.
        preprocess_cfg: preprocessing of its images.
        home: where its tokenizer is searched, as in `LoadedModel`.
        cache_dir: folder for downloads, instead of the usual folders.
    """

    state_dict: Mapping[str, Tensor]
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    home: str | Path | None = None
    cache_dir: str | os.PathLike[str] | None = None

    @classmethod
    def from_loaded(cls, loaded: LoadedModel, stored: Mapping[str, Tensor] | None = None) -> ConvertibleModel:
        """Take the weights and configurations of a loaded model.

        Args:
            loaded: the model.
            stored: its tensors in their stored precision; by default those of the model, in the precision that it
                was loaded in.
        """
        tensors = loaded.model.state_dict()
        tensors |= fix_old_checkpoints(tensors, stored or {})
        return cls(tensors, loaded.cfg, loaded.preprocess_cfg, loaded.home, loaded.cache_dir)


def convert(
    model: ConvertibleModel, path: str | os.PathLike[str], target_format: str, *, force: bool = False
) -> tuple[str, ...]:
    """Write a model in one of the `FORMATS`.

    Args:
        model: weights and configurations.
        path: a folder for "transformers" and "open_clip", a file for the others.
        target_format: one of `FORMATS`.
        force: replace existing files.

    Returns:
        Notes, one sentence each: what other programs that read the format do differently with this model.

    Raises:
        ConfigError: for a model that the format cannot represent; it says why.
        OutputError: if files exist and `force` is False, or the output cannot be written; existing files are then
            unchanged.
        DownloadError: for a folder, if the tokenizer is not on this machine and cannot be downloaded.
    """
    check_target(path, target_format, force=force)
    return FORMATS[target_format](model, Path(path), force)


def check_target(path: str | os.PathLike[str], target_format: str, *, force: bool = False) -> None:
    """Check that `convert` may write to a path, before a model is loaded for it.

    Raises:
        ConfigError: for an unknown format.
        OutputError: if files exist and `force` is False, or the name has the wrong suffix.
    """
    if target_format not in FORMATS:
        raise ConfigError(
            f"{target_format!r} is not a format to convert to; expected one of {', '.join(FORMATS)}"
        )
    if target_format in SUFFIXES:
        _check_file(Path(path), force, SUFFIXES[target_format])
    elif names_in(Path(path)) and not force:
        raise OutputError(f"{path} exists and is not empty; it is replaced only with force=True")


def write_folder(
    model: LoadedModel | ConvertibleModel, folder: str | os.PathLike[str], *, force: bool = False
) -> None:
    """Write a self-contained folder in open_clip's format; it can be loaded by its path, offline.

    Args:
        model: weights and configurations.
        folder: is created.
        force: replace a folder that contains such a model.

    Raises: the errors of `convert`.
    """
    convertible = model if isinstance(model, ConvertibleModel) else ConvertibleModel.from_loaded(model)
    convert(convertible, folder, "open_clip", force=force)


def _open_clip(model: ConvertibleModel, folder: Path, force: bool) -> tuple[str, ...]:
    with replace_folder(folder, force=force) as temporary:
        cfg = write_text_tower(model.cfg, temporary)
        config = _config_dict(cfg, model.preprocess_cfg)
        _write_json(temporary / FOLDER_CONFIG, config)
        save(temporary / FOLDER_WEIGHTS, model.state_dict, config)
        _write_tokenizer(model, temporary)
        has_text_tower = (temporary / TEXT_TOWER_FILE).is_file()
    return _notes_for_open_clip(model, str(cfg.text_cfg.hf_model_name) if has_text_tower else None)


def _transformers(model: ConvertibleModel, folder: Path, force: bool) -> tuple[str, ...]:
    published = transformers_format(model.cfg).write(
        NativeCheckpoint(dict(model.state_dict), model.cfg, model.preprocess_cfg)
    )
    with replace_folder(folder, force=force) as temporary:
        _write_json(temporary / "config.json", dict(published.config or {}))
        _write_json(temporary / "preprocessor_config.json", dict(published.preprocessor or {}))
        save(
            temporary / "model.safetensors",
            published.state_dict,
            _config_dict(model.cfg, model.preprocess_cfg),
        )
        if not _write_tokenizer(model, temporary):
            text = model.cfg.text_cfg
            added = (text.tokenizer_kwargs or {}).get("additional_special_tokens", ())
            write_clip_tokenizer(temporary, text.context_length, added)
    return published.notes


def _openai(model: ConvertibleModel, path: Path, _force: bool) -> tuple[str, ...]:
    published = OpenAI().write(NativeCheckpoint(dict(model.state_dict), model.cfg, model.preprocess_cfg))
    _make_parent(path)
    save(path, published.state_dict)
    return published.notes


def _safetensors(model: ConvertibleModel, path: Path, _force: bool) -> tuple[str, ...]:
    _make_parent(path)
    save(path, model.state_dict, _config_dict(model.cfg, model.preprocess_cfg))
    return ()


FORMATS: Mapping[str, Callable[[ConvertibleModel, Path, bool], tuple[str, ...]]] = {
    "transformers": _transformers,
    "open_clip": _open_clip,
    "openai": _openai,
    "safetensors": _safetensors,
}
"""Writers of the formats, by the names that `oneclip convert --to` accepts."""
SUFFIXES = {"openai": (".pt", ".pth"), "safetensors": (".safetensors", ".pt", ".pth")}
"""Suffixes of the formats that are one file."""


def transformers_format(cfg: ModelCfg) -> CheckpointFormat:
    """Return the layout of transformers that is the closest to a model; its `write` may still refuse the model."""
    if has_siglip_tower(cfg):
        return TransformersSigLIP("siglip")
    return TransformersChineseCLIP() if is_chinese_clip(cfg) else TransformersCLIP()


def _config_dict(cfg: ModelCfg, preprocess_cfg: PreprocessCfg) -> dict[str, Any]:
    """Return both configurations in open_clip's form; the preprocessing includes default values."""
    values = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(preprocess_cfg).items()
        if value is not None
    }
    return {"model_cfg": cfg.to_dict(), "preprocess_cfg": values}


def _notes_for_open_clip(model: ConvertibleModel, tower: str | None) -> tuple[str, ...]:
    """List what open_clip_torch does differently; `tower` names a text tower whose configuration is in the folder."""
    vision, notes = model.cfg.vision_cfg, []
    if vision.pool_type == "map" and not vision.timm_model_name:
        notes.append(
            "open_clip_torch cannot load this model: timm has no name for an image tower of that size and GELU, "
            "so the folder describes the tower by its sizes"
        )
    if tower is not None and "/" not in tower:  # probably the name of a folder
        notes.append(
            f"open_clip_torch searches the text tower {tower!r} on the hub: if it is not there, set hf_model_name in "
            f"{FOLDER_CONFIG} to the path of {TEXT_TOWER_FILE}"
        )
    if model.preprocess_cfg.background is not None:
        notes.append(
            "open_clip_torch ignores transparency; oneclip shows a background through transparent pixels"
        )
    return tuple(notes)


def _write_tokenizer(model: ConvertibleModel, folder: Path) -> bool:
    """Write the files of the model's tokenizer; return False for CLIP's own tokenizer, which needs none."""
    try:
        return bool(write_tokenizer(model.cfg.text_cfg, folder, model.home, model.cache_dir))
    except DownloadError as error:
        raise type(error)(
            f"a folder also contains the model's tokenizer: {error} (a single file, --to safetensors, does not)"
        ) from error


def _check_file(path: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise OutputError unless a file may be written to a path."""
    if path.suffix not in suffixes:
        raise OutputError(f"{path} was not written: its name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path} was not written: it is a folder")
    if path.exists() and not force:
        raise OutputError(f"{path} exists; it is replaced only with force=True")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
