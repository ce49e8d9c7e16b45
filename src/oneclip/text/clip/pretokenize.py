"""A cleaned word to the pieces that merge by themselves: letters, single numbers, everything else.

The published pattern is "a special token, an English contraction, letters, one number, or a run of the rest",
whatever the case. Engines disagree on which code points are letters (each carries its own edition of Unicode) and
on what case means for a class, so here both are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

# What equals an ASCII letter when case is ignored, besides its capital: dotted I, the Kelvin sign, long s
_OTHER_CASES = {"i": "\u0130", "k": "\u212a", "s": "\u017f"}

# A combining mark whose capital is the letter iota. With case ignored that keeps it out of "the rest", and it
# is no letter either, so the published pattern passes over it as over whitespace.
_IN_NO_CLASS = "\u0345"


@lru_cache(maxsize=1)
def _classes() -> tuple[str, str]:
    """Letters and numbers as the insides of a character class."""
    ranges: dict[str, list[str]] = {"L": [], "N": []}
    for line in Path(__file__).with_name("unicode_classes.txt").read_text(encoding="ascii").splitlines():
        if not line.startswith("#"):
            name, *found = line.split()
            ranges[name] += found
    ends = {name: [r.partition("-") for r in found] for name, found in ranges.items()}
    letters, numbers = (
        "".join(rf"\x{{{first}}}-\x{{{last or first}}}" for first, _, last in ends[name])
        for name in ("L", "N")
    )
    return letters, numbers


def _any_case(text: str) -> str:
    """A pattern for exactly this text, whatever its case."""
    pattern = ""
    for char in text:
        cases = {char, char.lower(), char.upper(), _OTHER_CASES.get(char.lower(), char)}
        pattern += "[" + "".join(rf"\x{{{ord(c):X}}}" for c in sorted(cases) if len(c) == 1) + "]"
    return pattern


def splitter(special_tokens: Iterable[str]) -> Callable[[str], list[str]]:
    """Make the function that splits a word; special tokens stay whole, the first that fits before the others.

    Args:
        special_tokens: none of them empty.
    """
    letters, numbers = _classes()
    exact = [_any_case(text) for text in (*special_tokens, *CONTRACTIONS)]
    others = rf"[^{letters}{numbers}\x{{{ord(_IN_NO_CLASS):X}}}]+"
    pattern = "|".join([*exact, f"[{letters}]+", f"[{numbers}]", others])
    split = Split(Regex(pattern), behavior="removed", invert=True)

    def pieces(word: str) -> list[str]:
        return [piece for piece, _ in split.pre_tokenize_str(word)]

    return pieces
