"""The name of a model to the tokenizer that it was trained with."""

from __future__ import annotations

from typing import Any

from oneclip import checkpoint, zoo
from oneclip.errors import DownloadError
from open_clip import tokenizer
from open_clip.architectures import architecture_name, known_config
from open_clip.sources import HUB, parse_model_name, read_config

__all__ = ["get_tokenizer"]


def get_tokenizer(
    model_name: str = "", context_length: int | None = None, cache_dir: str | None = None, **kwargs: Any
) -> Any:
    """The tokenizer of a model, CLIP's where none is named.

    Args:
        model_name: as for `create_model`.
        context_length: longest caption, in tokens; the model's if None.
        cache_dir: where downloads are kept.
        kwargs: options of the tokenizer, which replace those of the model.

    Returns:
        A `SimpleTokenizer`, `HFTokenizer` or `SigLipTokenizer`.

    Raises:
        UnknownModelError: for a name that means nothing.
        DownloadError: for a tokenizer's file that cannot be fetched.
    """
    if not model_name:
        return tokenizer.SimpleTokenizer(context_length=context_length or _DEFAULT, **kwargs)
    text_cfg, home = _text_cfg(model_name, cache_dir)
    options = {**(text_cfg.get("tokenizer_kwargs") or {}), **kwargs}
    length = context_length or text_cfg.get("context_length", _DEFAULT)
    name = text_cfg.get("hf_tokenizer_name")
    if name:
        mode = text_cfg.get("tokenizer_mode")
        return tokenizer.HFTokenizer(
            home or name, context_length=length, cache_dir=cache_dir, tokenizer_mode=mode, **options
        )
    if parse_model_name(model_name)[0] is None and "siglip" in model_name.lower():
        return tokenizer.SigLipTokenizer(_siglip_vocabulary(model_name.lower()), context_length=length)
    return tokenizer.SimpleTokenizer(context_length=length, **options)


_DEFAULT = tokenizer.DEFAULT_CONTEXT_LENGTH


def _text_cfg(model_name: str, cache_dir: str | None) -> tuple[dict[str, Any], str | None]:
    """The configuration of a model's text tower, and the folder that holds its tokenizer, if one does."""
    name = architecture_name(model_name)
    if name is not None:
        return known_config(name)["text_cfg"], None
    source = zoo.resolve(model_name)
    if source.kind == "folder":
        return read_config(source)["model_cfg"]["text_cfg"], str(source.path)
    if source.kind != "hub":
        return checkpoint.describe(source, cache_dir).cfg.text_cfg.to_dict(), None
    try:
        return read_config(source, cache_dir)["model_cfg"]["text_cfg"], None
    except DownloadError:  # a repository of another form: its own tokenizer
        return {"hf_tokenizer_name": model_name.removeprefix(HUB)}, None


def _siglip_vocabulary(name: str) -> str:
    """Which of SigLIP's vocabularies a registered architecture without `hf_tokenizer_name` has, by its name."""
    return "gemma" if "siglip2" in name else "mc4" if "i18n" in name else "c4-en"
