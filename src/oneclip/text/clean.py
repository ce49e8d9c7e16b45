"""A caption as people write it to the caption that a tokenizer reads."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable
from typing import Literal

from oneclip.errors import ConfigError

# Text in which there is nothing to mend: printable ASCII, tab and newline, with no "&" that might begin a
# character reference. Most captions are, and cleaning is many times faster where ftfy is not asked.
_is_sound = re.compile(r"[\t\n -%'-~]*(?:&(?![^\t\n <&;])[\t\n -%'-~]*)*").fullmatch

DEEPEST = 8  # levels of references in references to characters
_REFERENCE = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_CHAIN = re.compile(r"&(?:(?:amp|AMP|#0{0,22}38|#[xX]0{0,21}26);){2,}")

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def basic_clean(text: str) -> str:
    """Mend wrongly decoded text (ftfy), unescape HTML twice (`&amp;lt;` occurs) and strip the ends."""
    if not _is_sound(text):
        import ftfy  # here, since it takes longer to import than all of ours, and few captions need it

        text, unescape = _shallow(text)
        text = html.unescape(html.unescape(ftfy.fix_text(text, unescape_html=unescape)))
    return text.strip()


def _shallow(text: str) -> tuple[str, Literal["auto", False]]:
    """The same text for ftfy, which unescapes one level of HTML after the other until nothing changes.

    A chain such as `&amp;amp;amp;` ends as `&` however long it is. What lies deeper than people write in another way
    is unescaped here, and no further.

    Returns:
        the text, and what ftfy is to do about HTML.
    """
    tag = text.find("<")  # from the line of the first tag on ftfy leaves HTML as it is
    end = len(text) if tag < 0 else text.rfind("\n", 0, tag) + 1
    head, tail = _CHAIN.sub("&amp;", text[:end]), text[end:]
    if not _REFERENCE.search(head):
        return head + tail, "auto"
    from ftfy.fixes import unescape_html

    deeper = head
    for _ in range(DEEPEST):
        before, deeper = deeper, unescape_html(deeper)
        if deeper == before:
            return head + tail, "auto"
    return deeper + tail, False


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
