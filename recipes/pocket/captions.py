"""Captions of an image: one that is mostly its name, and one that describes it without the name."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.pocket.subgroups import PHRASES

TEMPLATES = (
    "{}", "a {}", "the {}", "{} icon", "icon of {}", "an icon of a {}", "a picture of a {}",
    "a drawing of a {}", "a symbol for {}", "{} symbol", "an image of {}",
)  # fmt: skip

EMOJI_SETS = {
    "noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "fluent3d",
    "emojione", "emojione-monotone", "fxemoji", "streamline-emojis",
}  # fmt: skip

PLAIN_CATEGORY = re.compile(r"^[a-z &]{4,24}$")
FILLED = re.compile(r"-(fill|filled|solid|bold)\b")
OUTLINED = re.compile(r"-(outline|outlined|line|linear|regular|thin|light)\b")
NOT_MIRRORED = re.compile(
    r"\b(arrows?|left|right|east|west|letters?|numbers?|clock|clockwise|oclock|time|text|sort|align|forward|back|"
    r"backward|rewind|next|previous|skip|fast|currency|sign|format|chevrons?|carets?|angles?|log(in|out)?|in|out|exit|"
    r"export|import|reply|undo|redo|rotate|turn|play|start|end|first|last|indent|outdent|question|percent|hd|mahjong|"
    r"keycap|button|abc|font|word|type|japanese|squared|latin|\w?\d\w*|[a-z])\b"
)


def style_of(identifier: str, kind: str) -> str:
    """Return the drawing style of an image in words, from its identifier."""
    prefix = identifier.partition(":")[0]
    if prefix == "fluent3d":
        return "3D emoji"
    if prefix in EMOJI_SETS:
        return "emoji"
    if prefix == "openclipart":
        return "clip art"
    if "pixel" in prefix:
        return "pixel art"
    if kind == "colour":
        return "coloured icon"
    if FILLED.search(identifier):
        return "solid icon"
    return "outline icon" if OUTLINED.search(identifier) else "icon"


def may_mirror(name: str) -> bool:
    """Return True if the name also fits the mirrored image; False for arrows, letters and numbers."""
    return NOT_MIRRORED.search(name) is None


@dataclass(slots=True)
class CaptionMixer:
    """Probabilities of the kinds of captions; the rest is the name alone.

    Attributes:
        template: the name (or an alias) in a template.
        alias: another name.
        keywords: one to three keywords alone.
        name_and_keywords: the name, then one or two keywords.
        style: the name and how it is drawn.
        category: the name and the category.
    """

    template: float = 0.14
    alias: float = 0.10
    keywords: float = 0.10
    name_and_keywords: float = 0.08
    style: float = 0.06
    category: float = 0.03

    def caption(
        self, name: str, aliases: list[str], keywords: list[str], category: str, style: str, draws: np.ndarray
    ) -> str:
        """Make a caption.

        Args:
            draws: (6,) uniform numbers in [0, 1) that decide.
        """
        subject = aliases[int(draws[1] * len(aliases))] if aliases and draws[0] < self.alias else name
        at = draws[2]
        if at < self.template:
            return TEMPLATES[int(draws[3] * len(TEMPLATES))].format(subject)
        at -= self.template
        if at < self.keywords + self.name_and_keywords and keywords:
            start, count = int(draws[3] * len(keywords)), 1 + int(draws[4] * draws[4] * 3)
            chosen = [keywords[(start + i * (1 + int(draws[5] * 3))) % len(keywords)] for i in range(count)]
            chosen = list(dict.fromkeys(chosen))
            return ", ".join(chosen) if at < self.keywords else ", ".join([subject, *chosen[:2]])
        at -= self.keywords + self.name_and_keywords
        if 0 <= at < self.style:
            return f"{subject}, {style}" if draws[3] < 0.5 else f"{style} of {subject}"
        at -= self.style
        if 0 <= at < self.category and PLAIN_CATEGORY.match(category):
            return f"{subject}, {category}"
        return subject


@dataclass(frozen=True, slots=True)
class Description:
    """Caption that does not name its image, and may fit others.

    Attributes:
        text: the caption.
        words: all that an image must have among its words for the caption to fit it.
    """

    text: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Describer:
    """Generator of captions without names.

    Attributes:
        subgroup: share of Unicode's subgroup in the words that people say, where an image has one.
        counts: shares of captions with one, two, three and four keywords.
        commas: share of keywords with commas between.
    """

    subgroup: float = 0.2
    counts: tuple[float, float, float, float] = (0.15, 0.25, 0.4, 0.2)
    commas: float = 0.75

    def describe(self, keywords: list[str], subgroup: str, draws: NDArray[np.float64]) -> Description | None:
        """Make a description, or None if the image has no words for it.

        Args:
            draws: (7,) uniform numbers in [0, 1) that decide.
        """
        phrases = PHRASES.get(subgroup, ())
        if phrases and (draws[0] < self.subgroup or not keywords):
            template = TEMPLATES[int(draws[1] * len(TEMPLATES))] if draws[2] < 0.4 else "{}"
            text = template.format(phrases[int(draws[3] * len(phrases))])
            return Description(text, frozenset([group_key(subgroup)]))
        if not keywords:
            return None
        count = int(np.searchsorted(np.cumsum(self.counts), draws[1], side="right")) + 1
        left, chosen = list(keywords), []
        for draw in draws[3 : 3 + min(count, 4, len(left))]:
            chosen.append(left.pop(int(draw * len(left))))
        return Description((", " if draws[2] < self.commas else " ").join(chosen), frozenset(chosen))


def group_key(subgroup: str) -> str:
    """Return the entry of a subgroup among the words of an image."""
    return f"#{subgroup}"
