"""Names of icons in plain words, from their identifiers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

ALWAYS_STYLE = {
    "outline", "outlined", "filled", "fill", "duotone", "twotone", "24px", "unfilled", "expressive",
    "alerted", "badged", "alt", "variant",
}  # fmt: skip
"""Last words that are a drawing style in all sets."""

OFTEN_STYLE = {
    "solid", "regular", "line", "linear", "bold", "thin", "light", "sharp", "rounded", "round", "broken",
    "remix", "tone", "duo", "stroke", "flat", "negative", "f", "o", "color", "active", "baseline", "poly",
    "mini", "micro",
}  # fmt: skip
"""Last words that are a style only in sets which use them often ("traffic-light" keeps its light)."""

OFTEN_SHARE = 0.06

COUNTED = {
    "dice", "die", "number", "numeric", "looks", "letter", "level", "battery", "signal", "timer", "replay",
    "forward", "rewind", "counter", "filter", "hd", "top", "player", "grid", "step", "gear", "column", "row",
    "exposure", "domino", "keycap", "clock", "time", "hour", "hours", "day", "calendar", "mp", "apple",
    "card", "bamboo", "dots", "character", "hexagon", "circle", "square", "box", "rating", "age", "plus",
    "minus",
}  # fmt: skip
"""First words whose final number carries meaning."""

VARIANT_WORDS = {"one", "two", "three", "four", "five"}
TYPOS = {"arhive": "archive", "indiferent": "indifferent", "cosmatic": "cosmetic", "batton": "button"}


def words_of(identifier: str) -> list[str]:
    """Split an identifier into lower-case words: `"CoffeeCup_2"` gives `["coffee", "cup", "2"]`."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", identifier)
    return [TYPOS.get(word, word) for word in re.split(r"[\s\-_/.,:;()+]+", spaced.lower()) if word]


def clean_phrase(text: str, limit: int = 60) -> str:
    """Clean a phrase: lower case, one line, without surrounding punctuation; "" if nothing is left."""
    text = re.sub(r"\s+", " ", text.replace("_", " ").replace("-", " ")).strip(" .,:;!?\"'*()[]#").lower()
    return text if len(text) <= limit else ""


def style_suffixes(identifiers: Iterable[str]) -> set[str]:
    """Return last words that are styles in a set, judged by how many identifiers end with them."""
    last = Counter(identifier.rsplit("-", 1)[-1] for identifier in identifiers)
    total = sum(last.values())
    return ALWAYS_STYLE | {word for word in OFTEN_STYLE if last[word] > OFTEN_SHARE * total}


class NameCleaner:
    """Converter of the identifiers of a set to clean names.

    Args:
        data: the set's json (icons, suffixes, prefixes, categories).
        prefix: the set's short name.
    """

    def __init__(self, data: Mapping[str, Any], prefix: str) -> None:
        self.prefix = prefix
        self.styles = style_suffixes(data["icons"])
        self.suffixes = sorted((key for key in data.get("suffixes") or {} if key), key=len, reverse=True)
        self.prefixes = sorted((key for key in data.get("prefixes") or {} if key), key=len, reverse=True)
        self.category_words = {
            word
            for category in (data.get("categories") or {})
            for word in words_of(category)
            if word != "and"
        }
        self.numbered_words = prefix.startswith("icon-park")

    def __call__(self, identifier: str) -> str:
        """Return the clean name: `"sofa-3-line-duotone"` gives `"sofa"`."""
        for key in self.prefixes:
            if identifier.startswith(key + "-"):
                identifier = identifier[len(key) + 1 :]
                break
        for key in self.suffixes:
            if identifier.endswith("-" + key):
                identifier = identifier[: -len(key) - 1]
                break
        words = self._without_category(words_of(identifier))
        removed: set[str] = set()
        while len(words) > 1:
            last = words[-1]
            if last in self.styles and last not in removed:
                removed.add(last)
            elif self.numbered_words and last in VARIANT_WORDS:
                pass
            elif not (re.fullmatch(r"\d{1,3}(px)?|v\d", last) and words[0] not in COUNTED):
                break
            words = words[:-1]
        words[-1] = self._without_number(words[-1], len(words))
        return " ".join(words)

    def _without_category(self, words: list[str]) -> list[str]:
        """Remove a category at the front, as in `interface-essential-battery`."""
        if self.prefix not in {"streamline-pixel", "streamline-block"}:
            return words
        rest = list(words)
        while len(rest) > 1 and (rest[0] in self.category_words or rest[0] == "ui"):
            rest = rest[1:]
        return rest

    def _without_number(self, word: str, count: int) -> str:
        """Remove the number of a variant: `edit3` gives `edit`, in a set that uses such numbers."""
        match = re.fullmatch(r"([a-z]{3,})\d{1,2}", word)
        return match.group(1) if match and self.prefix == "reicon" else word


def plural_forms(word: str) -> set[str]:
    """Return a noun and its regular plurals."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("f"):
        forms.add(word[:-1] + "ves")
    if word.endswith("fe"):
        forms.add(word[:-2] + "ves")
    return forms


def mentions(text: str, forms: Mapping[str, str]) -> str:
    """Return the concept that a text mentions, or "".

    Args:
        text: a name, alias or keyword.
        forms: each form of each concept (`plural_forms`) to the concept.

    Forms of five letters and more are also found inside other words: `"beachumbrella"`, `"sledgehammer"`.
    """
    text = text.lower()
    for form, concept in forms.items():
        if form in text and (len(form) >= 5 or re.search(rf"\b{form}\b", text)):
            return concept
    return ""
