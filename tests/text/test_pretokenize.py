"""Splitting of words: letters, single numbers, everything else."""

from __future__ import annotations

import re
import unicodedata

import pytest

from oneclip.text.clip import pretokenize
from oneclip.text.clip.pretokenize import make_pretokenizer

SKIPPED = "\u0345"  # in none of the classes
INHABITED = 0x40_000  # code points above are mostly unassigned: a sample is enough
CODE_POINTS = [chr(i) for i in (*range(0xD800), *range(0xE000, INHABITED), *range(INHABITED, 0x110000, 97))]
plain = make_pretokenizer(["<start_of_text>", "<end_of_text>"])


def class_of_each() -> dict[str, str]:
    """Map every code point in the table to its class."""
    found = {}
    for name, inside in zip("LN", pretokenize._classes(), strict=True):
        for first, last in re.findall(r"\\x\{(\w+)\}-\\x\{(\w+)\}", inside):
            found.update(dict.fromkeys(map(chr, range(int(first, 16), int(last, 16) + 1)), name))
    return found


CLASSES = class_of_each()


def test_classes_are_those_of_unicode() -> None:
    for char in CODE_POINTS:
        category = unicodedata.category(char)
        if category != "Cn":  # Python may have an older Unicode version
            assert CLASSES.get(char, "-") == (category[0] if category[0] in "LN" else "-"), hex(ord(char))


def test_every_code_point_is_split_by_its_class() -> None:
    for start in range(0, len(CODE_POINTS), 1024):
        text, expected = [], []
        for char in CODE_POINTS[start : start + 1024]:
            if not char.isspace() and char != SKIPPED:
                text.append(f"a{char}!{char}")
                pieces = {"L": [f"a{char}", "!", char], "N": ["a", char, "!", char]}
                expected += pieces.get(CLASSES.get(char, ""), ["a", f"{char}!{char}"])
        assert plain(SKIPPED.join(text)) == expected


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("cats'", ["cats", "'"]),
        ("it's'll've", ["it", "'s", "'ll", "'ve"]),
        ("IT'S", ["IT", "'S"]),
        ("it'\u017f", ["it", "'\u017f"]),
        ("'strange", ["'s", "trange"]),
        ("1080p", ["1", "0", "8", "0", "p"]),
        ("a-b...", ["a", "-", "b", "..."]),
        ("!'s", ["!'", "s"]),
        ("a<end_of_text>!", ["a", "<end_of_text>", "!"]),
        ("!<end_of_text>", ["!<", "end", "_", "of", "_", "text", ">"]),
        ("<End_Of_Text>", ["<End_Of_Text>"]),
        ("<\u017ftart_of_text>", ["<\u017ftart_of_text>"]),
        ("a\u0345b", ["a", "b"]),
        ("漢字2", ["漢字", "2"]),
        ("👍🏽!", ["👍🏽!"]),
        ("", []),
    ],
)
def test_words_split_as_published(word: str, pieces: list[str]) -> None:
    assert plain(word) == pieces


def test_special_tokens_are_not_patterns() -> None:
    assert make_pretokenizer(["<|x|>", "[a-z]"])("<|x|>b[a-z]") == ["<|x|>", "b", "[a-z]"]


def test_the_first_matching_special_token_is_used() -> None:
    assert make_pretokenizer(["<a>", "<a>b"])("<a>b") == ["<a>", "b"]
