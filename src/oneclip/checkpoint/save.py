"""A model to files in any of four forms: a folder or a file that is either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oneclip.checkpoint.formats import (
    Converted,
    Format,
    OpenAI,
    TransformersChineseCLIP,
    TransformersCLIP,
    TransformersSigLIP,
)
from oneclip.checkpoint.formats.clip_tokenizer import write_clip_tokenizer
from oneclip.checkpoint.formats.transformers_chinese_clip import is_chinese_clip
from oneclip.checkpoint.load_state_dict import fix_old_checkpoints
from oneclip.checkpoint.replace import names_in, replacing_folder
from oneclip.checkpoint.resolve.text_tower_config import FILE as TEXT_TOWER
from oneclip.checkpoint.resolve.text_tower_config import write_text_tower
from oneclip.checkpoint.write import save
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError, DownloadError, OutputError
from oneclip.model.siglip_names import is_siglip
from oneclip.text import write_tokenizer

if TYPE_CHECKING:
    from oneclip.checkpoint.load import Loaded

FOLDER_CONFIG, FOLDER_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class Exportable:
    """All that a model consists of.

    Attributes:
        state_dict: tensors by our names.
        cfg: what the model is.
        preprocess_cfg: how a picture becomes a tensor for it.
        home: where its tokenizer may lie, as in `Loaded`.
        cache_dir: where downloads are kept, instead of the usual folders.
    """

    state_dict: Mapping[str, Tensor]
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    home: str | Path | None = None
    cache_dir: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, loaded: Loaded, stored: Mapping[str, Tensor] | None = None) -> Exportable:
        """What a loaded model consists of.

        Args:
            loaded: the model.
            stored: its tensors as they were stored; if not given, those of the model, in the precision that it was
                loaded in.
        """
        tensors = loaded.model.state_dict()
        tensors |= fix_old_checkpoints(tensors, stored or {})
        return cls(tensors, loaded.cfg, loaded.preprocess_cfg, loaded.home, loaded.cache_dir)


def export(
    model: Exportable, path: str | os.PathLike[str], form: str, *, force: bool = False
) -> tuple[str, ...]:
    """Write a model.

    Args:
        model: what to write.
        path: a folder for "transformers" and "open_clip", a file for the others.
        form: one of `FORMS`.
        force: replace what is there.

    Returns:
        Notes: what the programs of that form do otherwise with this model, a sentence each.

    Raises:
        ConfigError: for a model that the form cannot hold; it says why.
        OutputError: if something is there and `force` is not given, or it cannot be written; what stood there before
            is untouched.
        DownloadError: for a folder, if the tokenizer is not here and cannot be fetched.
    """
    check_target(path, form, force=force)
    return FORMS[form](model, Path(path), force)


def check_target(path: str | os.PathLike[str], form: str, *, force: bool = False) -> None:
    """Find out whether `export` may write there, before a model is read for it.

    Raises:
        ConfigError: for a form that is none.
        OutputError: if something is there and `force` is not given, or the name has the wrong ending.
    """
    if form not in FORMS:
        raise ConfigError(f"{form!r} is no form that is written; there are {', '.join(FORMS)}")
    if form in SUFFIXES:
        _check_file(Path(path), force, SUFFIXES[form])
    elif names_in(Path(path)) and not force:
        raise OutputError(f"{path} is there already and not empty; it is replaced only with force=True")


def write_folder(model: Loaded | Exportable, folder: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a self-contained folder in the form of open_clip's on the hub; it loads by its path, without a network.

    Args:
        model: what to write.
        folder: where to; it is made.
        force: replace a folder that holds such a model.

    Raises: as `export` does.
    """
    export(model if isinstance(model, Exportable) else Exportable.of(model), folder, "open_clip", force=force)


def _open_clip(model: Exportable, folder: Path, force: bool) -> tuple[str, ...]:
    with replacing_folder(folder, force=force) as temporary:
        cfg = write_text_tower(model.cfg, temporary)
        described = _described(cfg, model.preprocess_cfg)
        _write_json(temporary / FOLDER_CONFIG, described)
        save(temporary / FOLDER_WEIGHTS, model.state_dict, described)
        _write_tokenizer(model, temporary)
        beside = (temporary / TEXT_TOWER).is_file()
    return _notes_for_open_clip(model, str(cfg.text_cfg.hf_model_name) if beside else None)


def _transformers(model: Exportable, folder: Path, force: bool) -> tuple[str, ...]:
    published = format_for(model.cfg).write(
        Converted(dict(model.state_dict), model.cfg, model.preprocess_cfg)
    )
    with replacing_folder(folder, force=force) as temporary:
        _write_json(temporary / "config.json", dict(published.config or {}))
        _write_json(temporary / "preprocessor_config.json", dict(published.preprocessor or {}))
        save(
            temporary / "model.safetensors",
            published.state_dict,
            _described(model.cfg, model.preprocess_cfg),
        )
        if not _write_tokenizer(model, temporary):
            text = model.cfg.text_cfg
            added = (text.tokenizer_kwargs or {}).get("additional_special_tokens", ())
            write_clip_tokenizer(temporary, text.context_length, added)
    return published.notes


def _openai(model: Exportable, path: Path, _force: bool) -> tuple[str, ...]:
    published = OpenAI().write(Converted(dict(model.state_dict), model.cfg, model.preprocess_cfg))
    _make_parent(path)
    save(path, published.state_dict)
    return published.notes


def _safetensors(model: Exportable, path: Path, _force: bool) -> tuple[str, ...]:
    _make_parent(path)
    save(path, model.state_dict, _described(model.cfg, model.preprocess_cfg))
    return ()


FORMS: Mapping[str, Callable[[Exportable, Path, bool], tuple[str, ...]]] = {
    "transformers": _transformers,
    "open_clip": _open_clip,
    "openai": _openai,
    "safetensors": _safetensors,
}
"""The forms that `export` writes, by the names that `oneclip convert --to` has for them."""
SUFFIXES = {"openai": (".pt", ".pth"), "safetensors": (".safetensors", ".pt", ".pth")}
"""Of those that are one file, what its name may end in."""


def format_for(cfg: ModelCfg) -> Format:
    """The one of transformers' layouts that can hold a model, if any can."""
    if is_siglip(cfg.vision_cfg):
        return TransformersSigLIP("siglip")
    return TransformersChineseCLIP() if is_chinese_clip(cfg) else TransformersCLIP()


def _described(cfg: ModelCfg, pixels: PreprocessCfg) -> dict[str, Any]:
    """Both configurations as open_clip has them; of the preprocessing nothing is left to defaults."""
    values = {
        key: list(v) if isinstance(v, tuple) else v for key, v in asdict(pixels).items() if v is not None
    }
    return {"model_cfg": cfg.to_dict(), "preprocess_cfg": values}


def _notes_for_open_clip(model: Exportable, tower: str | None) -> tuple[str, ...]:
    """What open_clip_torch makes of it otherwise; `tower` is the name of a text tower that the folder describes."""
    vision, notes = model.cfg.vision_cfg, []
    if is_siglip(vision) and not vision.timm_model_name:
        notes.append(
            "open_clip_torch cannot load this: timm has no name for an image tower of that size and GELU, "
            "so the folder describes it by its numbers"
        )
    if tower is not None and "/" not in tower:  # it was a folder's, as far as anybody can tell
        notes.append(
            f"open_clip_torch looks for the text tower {tower!r} on the hub: where it is not there, let hf_model_name "
            f"in {FOLDER_CONFIG} be the path of {TEXT_TOWER}"
        )
    if model.preprocess_cfg.background is not None:
        notes.append("open_clip_torch drops transparency; here a background shows through it")
    return tuple(notes)


def _write_tokenizer(model: Exportable, folder: Path) -> bool:
    """Write the files of the model's tokenizer; False if it is CLIP's own, which is always here."""
    try:
        return bool(write_tokenizer(model.cfg.text_cfg, folder, model.home, model.cache_dir))
    except DownloadError as error:
        raise type(error)(
            f"a folder holds the model's tokenizer, too: {error} (a single file, --to safetensors, has none)"
        ) from error


def _check_file(path: Path, force: bool, suffixes: tuple[str, ...]) -> None:
    """Raise OutputError unless a file may be written there."""
    if path.suffix not in suffixes:
        raise OutputError(f"{path} was not written: its name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OutputError(f"{path} was not written: it is a folder")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already; it is replaced only with force=True")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error.strerror}") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
