"""Clean texts before tokenization."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable
from typing import Literal

from oneclip.errors import ConfigError

# Matches text that ftfy and HTML unescaping do not change: printable ASCII, tab and newline, without a "&" that could
# begin a character reference. Most texts match, and cleaning is many times faster without ftfy.
_is_clean = re.compile(r"[\t\n -%'-~]*(?:&(?![^\t\n <&;])[\t\n -%'-~]*)*").fullmatch

MAX_REFERENCE_DEPTH = 8  # levels of HTML references inside references
_REFERENCE = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_CHAIN = re.compile(r"&(?:(?:amp|AMP|#0{0,22}38|#[xX]0{0,21}26);){2,}")

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def basic_clean(text: str) -> str:
    """Fix wrongly decoded text (ftfy), unescape HTML twice (data has `&amp;lt;`) and strip both ends."""
    if not _is_clean(text):
        import ftfy  # here, because its import is slow and few texts need it

        text, unescape = _limit_reference_depth(text)
        text = html.unescape(html.unescape(ftfy.fix_text(text, unescape_html=unescape)))
    return text.strip()


def _limit_reference_depth(text: str) -> tuple[str, Literal["auto", False]]:
    """Bound the work of ftfy, which unescapes one level of HTML references after the other until nothing changes.

    A chain such as `&amp;amp;amp;` of any length becomes `&`. References that are nested deeper than
    MAX_REFERENCE_DEPTH in other ways are unescaped here to that depth.

    Returns:
        The text, and the option `unescape_html` of ftfy.
    """
    tag = text.find("<")  # ftfy does not unescape from the line of the first tag on
    end = len(text) if tag < 0 else text.rfind("\n", 0, tag) + 1
    head, tail = _CHAIN.sub("&amp;", text[:end]), text[end:]
    if not _REFERENCE.search(head):
        return head + tail, "auto"
    from ftfy.fixes import unescape_html

    deeper = head
    for _ in range(MAX_REFERENCE_DEPTH):
        before, deeper = deeper, unescape_html(deeper)
        if deeper == before:
            return head + tail, "auto"
    return deeper + tail, False


def whitespace_clean(text: str) -> str:
    """Replace every run of whitespace by one space, and strip both ends."""
    return " ".join(text.split())


def canonicalize_text(
    text: str,
    *,
    keep_punctuation_exact_string: str | None = None,
    trans_punctuation: dict[int, int | None] = _WITHOUT_PUNCTUATION,
) -> str:
    """Convert to lower case, remove ASCII punctuation, clean whitespace, replace `_` by a space (as in big_vision).

    Args:
        text: the text.
        keep_punctuation_exact_string: a string that is kept unchanged, such as `{}`.
        trans_punctuation: the table for `str.translate` that removes punctuation.
    """
    text = text.replace("_", " ")
    kept = keep_punctuation_exact_string
    parts = text.split(kept) if kept else [text]
    return whitespace_clean((kept or "").join(part.translate(trans_punctuation) for part in parts).lower())


def clean_text(x: str) -> str:
    """Clean a text as in CLIP's training: `basic_clean`, `whitespace_clean`, lower case."""
    return clean_whitespace(x).lower()


def clean_whitespace(x: str) -> str:
    """Clean a text and keep its case."""
    return whitespace_clean(basic_clean(x))


def clean_canonicalize(x: str) -> str:
    """Clean a text and remove case and punctuation."""
    return canonicalize_text(basic_clean(x))


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": clean_text,
    "whitespace": clean_whitespace,
    "canonicalize": clean_canonicalize,
}


def get_clean_fn(type: str) -> Callable[[str], str]:
    """Return the cleaning function with this name.

    Raises:
        ConfigError: if the name is unknown.
    """
    if not isinstance(type, str) or type not in CLEANERS:
        raise ConfigError(f"unknown text cleaning {type!r}; available: {', '.join(CLEANERS)}")
    return CLEANERS[type]
