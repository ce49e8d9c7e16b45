"""A caption as people write it to the caption that a tokenizer reads."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable

from oneclip.errors import ConfigError

# Text in which there is nothing to mend: printable ASCII, tab and newline, with no "&" that might begin a
# character reference. Most captions are, and cleaning is many times faster where ftfy is not asked.
_is_sound = re.compile(r"[\t\n -%'-~]*(?:&(?![^\t\n <&;])[\t\n -%'-~]*)*").fullmatch

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def basic_clean(text: str) -> str:
    """Mend wrongly decoded text (ftfy), unescape HTML twice (`&amp;lt;` occurs) and strip the ends."""
    if not _is_sound(text):
        import ftfy  # here, since it takes longer to import than all of ours, and few captions need it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return text.strip()


def whitespace_clean(text: str) -> str:
    """Make every run of whitespace one space, and none at the ends."""
    return " ".join(text.split())


def canonicalize_text(
    text: str,
    *,
    keep_punctuation_exact_string: str | None = None,
    trans_punctuation: dict[int, int | None] = _WITHOUT_PUNCTUATION,
) -> str:
    """Lower the case, drop ASCII punctuation, tidy whitespace; an underscore is a space (as big_vision does).

    Args:
        text: what to canonicalise.
        keep_punctuation_exact_string: a string that survives wherever it stands whole, such as `{}`.
        trans_punctuation: what `str.translate` makes of punctuation.
    """
    text = text.replace("_", " ")
    kept = keep_punctuation_exact_string
    parts = text.split(kept) if kept else [text]
    return whitespace_clean((kept or "").join(part.translate(trans_punctuation) for part in parts).lower())


def clean_text(x: str) -> str:
    """Clean a caption as CLIP was trained on: mended, unescaped, single-spaced and in lower case."""
    return clean_whitespace(x).lower()


def clean_whitespace(x: str) -> str:
    """Clean a caption and keep its case."""
    return whitespace_clean(basic_clean(x))


def clean_canonicalize(x: str) -> str:
    """Clean a caption, then take its case and punctuation away."""
    return canonicalize_text(basic_clean(x))


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": clean_text,
    "whitespace": clean_whitespace,
    "canonicalize": clean_canonicalize,
}


def get_clean_fn(type: str) -> Callable[[str], str]:
    """The cleaning of that name.

    Raises:
        ConfigError: if there is none.
    """
    if not isinstance(type, str) or type not in CLEANERS:
        raise ConfigError(f"unknown way to clean a text {type!r}; available: {', '.join(CLEANERS)}")
    return CLEANERS[type]
