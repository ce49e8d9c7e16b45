"""Choice of the tokenizer that a model was trained with."""

from __future__ import annotations

from typing import Any

from oneclip import checkpoint, zoo
from oneclip.checkpoint.resolve.validate_config import check_cfg
from oneclip.config import CLIPTextCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, DownloadError, UnknownModelError
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER, tokenizer_files, tokenizer_options
from open_clip import tokenizer
from open_clip.architectures import architecture_name, known_config
from open_clip.constants import HF_CONFIG_NAME
from open_clip.sources import read_config

__all__ = ["get_tokenizer"]


def get_tokenizer(
    model_name: str = "", context_length: int | None = None, cache_dir: str | None = None, **kwargs: Any
) -> Any:
    """Return the tokenizer of a model; CLIP's tokenizer for an empty name.

    Args:
        model_name: as for `create_model`.
        context_length: length of a row, in tokens; None for that of the model.
        cache_dir: folder for downloads.
        kwargs: options of the tokenizer; they override those of the model.

    Returns:
        A `SimpleTokenizer`, `HFTokenizer` or `SigLipTokenizer`.

    Raises:
        UnknownModelError: for an unknown name.
        CheckpointError, ConfigError: for an invalid configuration or tokenizer file.
        DownloadError: if a file cannot be downloaded.
    """
    if not model_name:
        return tokenizer.SimpleTokenizer(context_length=context_length or _DEFAULT, **kwargs)
    text_cfg, home = _text_cfg(model_name, cache_dir)
    length = context_length or text_cfg.context_length
    options = {**tokenizer_options(text_cfg), **kwargs}
    if name := text_cfg.hf_tokenizer_name:
        result = tokenizer.HFTokenizer(
            tokenizer_files(text_cfg, home, cache_dir),  # type: ignore[arg-type]
            context_length=length,
            cache_dir=cache_dir,
            tokenizer_mode=text_cfg.tokenizer_mode,
            **options,
        )
        if name != TOKENIZER_IN_MODEL_FOLDER:
            result.name = name
        return result
    if architecture_name(model_name) and "siglip" in model_name.lower():
        return tokenizer.SigLipTokenizer(_siglip_vocabulary(model_name.lower()), context_length=length)
    return tokenizer.SimpleTokenizer(context_length=length, **options)


_DEFAULT = tokenizer.DEFAULT_CONTEXT_LENGTH


def _text_cfg(model_name: str, cache_dir: str | None) -> tuple[CLIPTextCfg, str | None]:
    """Return the configuration of the text tower, and the repository or folder that may contain its tokenizer."""
    name = architecture_name(model_name)
    if name is not None:
        return CLIPTextCfg.from_dict(known_config(name)["text_cfg"]), None
    source = zoo.resolve(model_name)
    if source.kind not in ("hub", "folder"):
        return checkpoint.resolve_checkpoint(source, cache_dir, values=False).cfg.text_cfg, None
    home = model_name if source.kind == "hub" else str(source.path)
    try:
        content = read_config(source, cache_dir)
    except (
        DownloadError,
        UnknownModelError,
    ):  # no open_clip_config.json: a model in another format, or only a tokenizer
        return _other_text_cfg(source, home, cache_dir), home
    model_cfg = content.get("model_cfg")
    text_cfg = model_cfg.get("text_cfg") if isinstance(model_cfg, dict) else None
    if not isinstance(text_cfg, dict):
        raise CheckpointError(f"{HF_CONFIG_NAME} of {home} has no model_cfg with a text_cfg")
    cfg = CLIPTextCfg.from_dict(text_cfg)
    check_cfg(cfg, f"{HF_CONFIG_NAME} of {home}")
    return cfg, home


def _other_text_cfg(source: zoo.ModelSource, home: str, cache_dir: str | None) -> CLIPTextCfg:
    """Return the text configuration of a model in another format; without a model, only its tokenizer."""
    try:
        return checkpoint.resolve_checkpoint(source, cache_dir, values=False).cfg.text_cfg
    except (DownloadError, AmbiguousModelError):
        return CLIPTextCfg(hf_tokenizer_name=home.removeprefix(zoo.HUB_PREFIX))


def _siglip_vocabulary(name: str) -> str:
    """Return the SigLIP vocabulary for the name of a registered architecture without `hf_tokenizer_name`."""
    return "gemma" if "siglip2" in name else "mc4" if "i18n" in name else "c4-en"
