"""A text tower's configuration to the tokenizer that the tower was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, DownloadError, TokenizerNotFoundError
from oneclip.text.clip.tokenizer import CLIPTokenizer
from oneclip.text.hf.tokenizer import HFTokenizer
from oneclip.text.hf.tokenizer_files import find_files, holds_none, is_folder, look_for_files
from oneclip.text.protocol import Tokenizer

CLIP_OPTIONS = ("clean", "additional_special_tokens", "reduction_mask")
# arguments that are no options of a model's
GIVEN = ("source", "context_length", "tokenizer_mode", "cache_dir")
MODEL_FILES = ("open_clip_config.json", "config.json")
BESIDE = "local-dir:."
"""The name of a tokenizer that has none, because it lies in the folder of its model and nowhere else."""

Place = str | PathLike[str] | None


def get_tokenizer(cfg: CLIPTextCfg, home: Place = None, cache_dir: Place = None) -> Tokenizer:
    """The tokenizer that a text tower was trained with.

    A tower that names no tokenizer has CLIP's own, whatever lies beside its weights. For the others, the files that lie
    with the checkpoint come before the repository named.

    Args:
        cfg: of the text tower.
        home: where the checkpoint came from: a folder, or "hf-hub:owner/name[/subfolder][@revision]".
        cache_dir: the hub's cache, if not the usual one.

    Raises:
        ConfigError: for options that the tokenizer lacks, or files that do not say enough.
        CheckpointError: for a file that cannot be read.
        TokenizerNotFoundError: for files that are not in the model's folder, nor to be had elsewhere.
        DownloadError: for other files that are not here and cannot be fetched.
    """
    options = tokenizer_options(cfg)
    if not cfg.hf_tokenizer_name:
        return CLIPTokenizer(cfg.context_length, **options)
    files = tokenizer_files(cfg, home, cache_dir)
    tokenizer = HFTokenizer(files, cfg.context_length, tokenizer_mode=cfg.tokenizer_mode, **options)
    if cfg.hf_tokenizer_name != BESIDE:
        tokenizer.name = cfg.hf_tokenizer_name
    return tokenizer


def tokenizer_options(cfg: CLIPTextCfg) -> dict[str, Any]:
    """The `tokenizer_kwargs` of a text tower, looked over: a file may have brought them.

    Raises:
        ConfigError: for what is no table, for an option that is none, and for a mode of CLIP's tokenizer, which has
            none.
    """
    options = cfg.tokenizer_kwargs or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"tokenizer_kwargs is {options!r}; a table of options was expected")
    if not cfg.hf_tokenizer_name and cfg.tokenizer_mode:
        raise ConfigError(
            f"tokenizer_mode is {cfg.tokenizer_mode!r}, and CLIP's own tokenizer has no modes: leave it out, or name "
            "the tokenizer as hf_tokenizer_name"
        )
    for name in options:
        if not cfg.hf_tokenizer_name and name not in CLIP_OPTIONS:
            raise ConfigError(
                f"tokenizer_kwargs has {name!r}, which CLIP's tokenizer lacks; it has {', '.join(CLIP_OPTIONS)}"
            )
        if name in GIVEN:
            raise ConfigError(f"tokenizer_kwargs has {name!r}, which is not an option of a tokenizer's files")
    return dict(options)


def tokenizer_files(cfg: CLIPTextCfg, home: Place = None, cache_dir: Place = None) -> dict[str, Path]:
    """The files of a tower's tokenizer, fetched if need be: name to path; none for CLIP's own, which needs none.

    Arguments and errors are those of `get_tokenizer`.
    """
    if not cfg.hf_tokenizer_name:
        return {}
    if home is not None and _is_home(home) and (found := look_for_files(home, cache_dir)):
        return found
    if cfg.hf_tokenizer_name != BESIDE:
        try:
            return find_files(cfg.hf_tokenizer_name, cache_dir)
        except DownloadError as error:
            if home is None or not is_folder(home) or not _is_home(home):
                raise
            why = f"{holds_none(home)}. The published one is not to be had: {error}"
            raise TokenizerNotFoundError(why) from error
    if home is None or not _is_home(home):
        raise TokenizerNotFoundError(
            "the tokenizer of this model lies in a folder that the model was published in, and did not come along: "
            "load the model from that folder, or name the folder as hf_tokenizer_name"
        )
    return find_files(home, cache_dir)


def write_tokenizer(
    cfg: CLIPTextCfg, folder: str | PathLike[str], home: Place = None, cache_dir: Place = None
) -> list[Path]:
    """Write a tower's tokenizer to a folder, from which it loads without anything else.

    Returns:
        the files written; none for CLIP's own tokenizer, which needs none.

    Raises:
        OutputError: if a file cannot be written; for the rest as `get_tokenizer`.
    """
    if not cfg.hf_tokenizer_name:
        return []
    return HFTokenizer(tokenizer_files(cfg, home, cache_dir)).save_pretrained(folder)


def _is_home(home: str | PathLike[str]) -> bool:
    """Whether this is a model's own place: not any folder in which a file of weights happens to lie."""
    return not is_folder(home) or any((Path(home).expanduser() / name).is_file() for name in MODEL_FILES)
