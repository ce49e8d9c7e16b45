"""Make the tokenizer of a text tower from its configuration, and find or write its files."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, DownloadError, TokenizerNotFoundError
from oneclip.text.clip.tokenizer import CLIPTokenizer
from oneclip.text.hf.tokenizer import HFTokenizer
from oneclip.text.hf.tokenizer_files import (
    find_tokenizer_files,
    is_folder,
    no_tokenizer_message,
    require_tokenizer_files,
)
from oneclip.text.protocol import Tokenizer

CLIP_OPTIONS = ("clean", "additional_special_tokens", "reduction_mask")
# arguments of HFTokenizer that a configuration file cannot set
RESERVED_OPTIONS = ("source", "context_length", "tokenizer_mode", "cache_dir")
MODEL_FILES = ("open_clip_config.json", "config.json", "oneclip.json")
TOKENIZER_IN_MODEL_FOLDER = "local-dir:."
"""`hf_tokenizer_name` of a tokenizer whose only files are in the folder of its model."""

Location: TypeAlias = str | PathLike[str] | None


def get_tokenizer(cfg: CLIPTextCfg, source: Location = None, cache_dir: Location = None) -> Tokenizer:
    """Make the tokenizer that a text tower was trained with.

    A configuration without `hf_tokenizer_name` means CLIP's own tokenizer, even if other tokenizer files exist beside
    the weights. Otherwise the files beside the checkpoint come first, then the named repository.

    Args:
        cfg: configuration of the text tower.
        source: where the checkpoint comes from: a folder, or `hf-hub:owner/name[/subfolder][@revision]`.
        cache_dir: cache folder of the hub; None for the default.

    Raises:
        ConfigError: if an option is unknown, or the files are incomplete.
        CheckpointError: if a file cannot be read.
        TokenizerNotFoundError: if the folder of the model has no tokenizer and it cannot be downloaded.
        DownloadError: if files of another tokenizer cannot be downloaded.
    """
    options = tokenizer_options(cfg)
    if not cfg.hf_tokenizer_name:
        return CLIPTokenizer(cfg.context_length, **options)
    files = tokenizer_files(cfg, source, cache_dir)
    tokenizer = HFTokenizer(files, cfg.context_length, tokenizer_mode=cfg.tokenizer_mode, **options)
    if cfg.hf_tokenizer_name != TOKENIZER_IN_MODEL_FOLDER:
        tokenizer.name = cfg.hf_tokenizer_name
    return tokenizer


def tokenizer_options(cfg: CLIPTextCfg) -> dict[str, Any]:
    """Check the `tokenizer_kwargs` of a text tower, which may come from a file, and return them.

    Raises:
        ConfigError: if they are not a table, an option is unknown, or CLIP's own tokenizer has a `tokenizer_mode`.
    """
    options = cfg.tokenizer_kwargs or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"tokenizer_kwargs is {options!r}; expected a table of options")
    if not cfg.hf_tokenizer_name and cfg.tokenizer_mode:
        raise ConfigError(
            f"tokenizer_mode is {cfg.tokenizer_mode!r}, but CLIP's own tokenizer has no modes: remove it, or set "
            "hf_tokenizer_name"
        )
    for name in options:
        if not cfg.hf_tokenizer_name and name not in CLIP_OPTIONS:
            raise ConfigError(
                f"tokenizer_kwargs has {name!r}, which is not an option of CLIP's tokenizer; "
                f"available: {', '.join(CLIP_OPTIONS)}"
            )
        if name in RESERVED_OPTIONS:
            raise ConfigError(f"tokenizer_kwargs has {name!r}, which a configuration cannot set; remove it")
    return dict(options)


def tokenizer_files(cfg: CLIPTextCfg, source: Location = None, cache_dir: Location = None) -> dict[str, Path]:
    """Find the files of a tower's tokenizer, and download them if necessary.

    Arguments and errors as in `get_tokenizer`.

    Returns:
        File name to path; empty for CLIP's own tokenizer, which needs no files.
    """
    if not cfg.hf_tokenizer_name:
        return {}
    if (
        source is not None
        and _belongs_to_model(source)
        and (found := find_tokenizer_files(source, cache_dir))
    ):
        return found
    if cfg.hf_tokenizer_name != TOKENIZER_IN_MODEL_FOLDER:
        try:
            return require_tokenizer_files(cfg.hf_tokenizer_name, cache_dir)
        except DownloadError as error:
            if source is None or not is_folder(source) or not _belongs_to_model(source):
                raise
            why = f"{no_tokenizer_message(source)}. The published one cannot be downloaded: {error}"
            raise TokenizerNotFoundError(why) from error
    if source is None or not _belongs_to_model(source):
        raise TokenizerNotFoundError(
            "the tokenizer of this model is in the folder that the model was published in, and was not copied with it: "
            "load the model from that folder, or set hf_tokenizer_name to the folder"
        )
    return require_tokenizer_files(source, cache_dir)


def write_tokenizer(
    cfg: CLIPTextCfg, folder: str | PathLike[str], source: Location = None, cache_dir: Location = None
) -> list[Path]:
    """Write the tokenizer of a tower to a folder that is complete by itself.

    Returns:
        The written files; empty for CLIP's own tokenizer, which needs no files.

    Raises:
        OutputError: if a file cannot be written. Other errors as in `get_tokenizer`.
    """
    if not cfg.hf_tokenizer_name:
        return []
    return HFTokenizer(tokenizer_files(cfg, source, cache_dir)).save_pretrained(folder)


def _belongs_to_model(source: str | PathLike[str]) -> bool:
    """Report whether this belongs to one model, unlike a folder that contains a weight file among other files."""
    return not is_folder(source) or any((Path(source).expanduser() / name).is_file() for name in MODEL_FILES)
