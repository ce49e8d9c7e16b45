"""Checks of the arguments of encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

from oneclip.config import PreprocessCfg
from oneclip.errors import ConfigError
from oneclip.text import Tokenizer

_TOKENIZER = ("context_length", "vocab_size", "pad_token_id", "encode", "decode")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError if an argument is not one of its choices."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}")


def check_positive(name: str, value: int) -> None:
    """Raise ConfigError if an argument is not an integer of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}; expected an integer of 1 or more")


def check_preprocess(preprocess: object) -> None:
    """Raise ConfigError unless this can be called."""
    if not callable(preprocess):
        raise ConfigError(
            f"preprocess must be a function of a PIL image; found a {type(preprocess).__name__}; "
            "oneclip.image.Preprocess makes one"
        )


def cfg_of(preprocess: Callable[..., object]) -> PreprocessCfg:
    """Return the configuration of a preprocessing.

    Raises:
        ConfigError: if it has no configuration.
    """
    cfg = getattr(preprocess, "cfg", None)
    if not isinstance(cfg, PreprocessCfg):
        raise ConfigError(
            f"preprocess is a {type(preprocess).__name__} without a configuration (cfg); "
            "assign an oneclip.image.Preprocess"
        )
    return cfg


def is_tokenizer(found: object) -> TypeGuard[Tokenizer]:
    """Return whether this has all members of a `Tokenizer`."""
    return callable(found) and all(hasattr(found, name) for name in _TOKENIZER)


def check_tokenizer(tokenizer: object) -> None:
    """Raise ConfigError unless this is a tokenizer."""
    if not is_tokenizer(tokenizer):
        raise ConfigError(
            f"tokenizer must have {', '.join(_TOKENIZER)}; found a {type(tokenizer).__name__}; "
            "use oneclip.text.CLIPTokenizer or HFTokenizer"
        )
