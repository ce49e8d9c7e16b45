"""Split a cleaned word into pieces that are merged separately: letters, single digits, everything else.

The published pattern is "a special token, an English contraction, letters, one number, or a run of other characters",
ignoring case. Regex engines disagree on which code points are letters (each has its own Unicode version) and on how
case applies to a class, so both are written out here.
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

# A combining mark whose capital is the letter iota. Ignoring case excludes it from "other characters", and it is not a
# letter either, so the published pattern skips it like whitespace.
_SKIPPED = "\u0345"


@lru_cache(maxsize=1)
def _classes() -> tuple[str, str]:
    """Return letters and numbers as contents of a regex character class."""
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
    """Return a pattern for this text that ignores case."""
    pattern = ""
    for char in text:
        cases = {char, char.lower(), char.upper(), _OTHER_CASES.get(char.lower(), char)}
        pattern += "[" + "".join(rf"\x{{{ord(c):X}}}" for c in sorted(cases) if len(c) == 1) + "]"
    return pattern


def make_pretokenizer(special_tokens: Iterable[str]) -> Callable[[str], list[str]]:
    """Make the function that splits a word.

    Args:
        special_tokens: non-empty tokens that are not split; earlier ones are tried first.
    """
    letters, numbers = _classes()
    exact = [_any_case(text) for text in (*special_tokens, *CONTRACTIONS)]
    others = rf"[^{letters}{numbers}\x{{{ord(_SKIPPED):X}}}]+"
    pattern = "|".join([*exact, f"[{letters}]+", f"[{numbers}]", others])
    split = Split(Regex(pattern), behavior="removed", invert=True)

    def split_word(word: str) -> list[str]:
        return [piece for piece, _ in split.pre_tokenize_str(word)]

    return split_word
