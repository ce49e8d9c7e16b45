"""Difficult texts for tokenizers: edge cases, then seeded random strings without end.

Both sides of a comparison run this file, each with its own tokenizer, and compare what `outcomes` yields.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

_WORDS = """
    a photo of the two small Brown dogs running quickly through grass Kitten O'Neill's they'll WE'RE isn't I'd
    mother-in-law 4k 1080p 3.5mm $19.99 50% #sunset @home rock'n'roll iPhone13 zürich naïve café São ÅNGSTRÖM straße
    İstanbul ΣΊΣΥΦΟΣ don’t “quoted” it´s x² ½ Ⅷ ① №5 ﬁne ｆｕｌｌ ｶﾀｶﾅ e\u0301 ŉ ǅ \u017ftrange '\u017f \u212a \u212b
"""
_EMOJI = """
    😀 😂 ❤\ufe0f ❤ 👍🏽 👩\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 🇫🇷 🇯🇵 ☕ ⛄\ufe0f 🧑🏿\u200d🚀 1\ufe0f\u20e3
    #\ufe0f\u20e3 ™ ©\ufe0f ✔ 🫠 🪿 🏴\U000e0067\U000e0062\U000e0065\U000e007f
"""
_ENTITIES = """
    &amp; &lt; &gt; &quot; &#39; &#x27; &apos; &nbsp; &eacute; &EACUTE; &copy &copy2 &amp;lt; &amp;amp;amp; &#8217;
    &#128512; &#xD800; &#0; &#13; &#28; &#x85; &#150; &#99999999; &notit; &notanentity; & && &; &# &#; &#x; R&D
    AT&T &ampere; &hellip; &lt;start_of_text&gt; &frac12; &thinsp; &ZeroWidthSpace;
"""
_SPECIALS = """
    <start_of_text> <end_of_text> <START_OF_TEXT> <end_of_text>s !!<end_of_text> <|startoftext|> <|endoftext|>
    <|EndOfText|> <<start_of_text>> <\u017ftart_of_text> </w> a</w> <end_of_text><end_of_text> 's<start_of_text>
    <|start of text|> start_of_text <start_of_text
"""
WORDS, EMOJI, ENTITIES, SPECIALS = _WORDS.split(), _EMOJI.split(), _ENTITIES.split(), _SPECIALS.split()

# first and last code point
SCRIPTS = {
    "latin": (0x00C0, 0x024F),
    "greek": (0x0370, 0x03FF),
    "cyrillic": (0x0400, 0x04FF),
    "armenian": (0x0531, 0x058A),
    "hebrew": (0x0591, 0x05F4),
    "arabic": (0x0600, 0x06FF),
    "devanagari": (0x0900, 0x097F),
    "bengali": (0x0980, 0x09FF),
    "tamil": (0x0B82, 0x0BFA),
    "thai": (0x0E01, 0x0E5B),
    "tibetan": (0x0F00, 0x0FDA),
    "georgian": (0x10A0, 0x10FF),
    "jamo": (0x1100, 0x11FF),
    "cherokee": (0x13A0, 0x13FD),
    "khmer": (0x1780, 0x17F9),
    "greek extended": (0x1F00, 0x1FFE),
    "numbers": (0x2150, 0x218B),
    "enclosed": (0x2460, 0x24FF),
    "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x9FFF),
    "yi": (0xA000, 0xA4C6),
    "hangul": (0xAC00, 0xD7A3),
    "presentation forms": (0xFB00, 0xFB4F),
    "widths": (0xFF01, 0xFFEE),
    "gothic": (0x10330, 0x1034A),
    "deseret": (0x10400, 0x1044F),
    "cuneiform": (0x12000, 0x1246E),
    "mathematical": (0x1D400, 0x1D7FF),
    "han, extension B": (0x20000, 0x2A6DF),
}
CONTROLS = "\x00\x01\x07\x08\t\n\x0b\x0c\r\x0e\x1b\x1c\x1d\x1e\x1f\x7f\x80\x85\x91\x9f\xa0\xad"
SPACES = " \t\n\r\u0085\u00a0\u1680\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
MARKS = "\u0300\u0301\u0308\u0327\u0345\u0361\u0483\u05b4\u064b\u093c\u200c\u200d\u20dd\u20e3\u3099\ufe0f"
ODD = "\u0130\u0131\u017f\u0345\u03b9\u1fbe\u0399\u00b5\u1e9e\u212a\u212b\u2126\u24b6\u2160\ufb06\ufffd\ufdd0\ue000"

EDGES = (
    "",
    " ",
    "\n",
    "\x00",
    "\u3000",
    "a",
    "!",
    "\ud800",
    "a\udc80b",
    "\ud83d\ude00",
    "'",
    "''s",
    "'S",
    "a's",
    "it's'sn't'll",
    "\u0345",
    "a\u0345b",
    "!\u0345!",
    "caf\u0065\u0301",
    "a  b\t\tc\n\nd",
    "…" * 40,
    "ab" * 2_000,
    "!" * 3_000,
    "7" * 500,
    "<end_of_text>" * 100,
    "\u0130" * 50,
    "word " * 500,
    "漢字" * 300,
    "\x1b[36;44mblue\x1b[0m",
)


def _word(rng: random.Random) -> str:
    word = rng.choice(WORDS)
    word = rng.choice((str, str, str, str.upper, str.title, str.lower))(word)
    return word + rng.choice(("", "", "", "", ",", ".", "!", "?", "...", "'s", "'S", "-", ":)", '"'))


def _sentence(rng: random.Random) -> str:
    return " ".join(_word(rng) for _ in range(rng.randint(1, 14)))


def _of_script(rng: random.Random) -> str:
    first, last = rng.choice(list(SCRIPTS.values()))
    words = (
        "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 9)))
        for _ in range(rng.randint(1, 6))
    )
    return " ".join(words)


def _mojibake(rng: random.Random) -> str:
    text = rng.choice((_of_script, _sentence, _emoji))(rng)
    for _ in range(rng.randint(1, 2)):
        text = text.encode("utf-8", "replace").decode(
            rng.choice(("latin-1", "cp1252", "cp1251", "cp437")), "replace"
        )
    return text


def _emoji(rng: random.Random) -> str:
    return rng.choice(("", " ", "x")).join(rng.choice(EMOJI) for _ in range(rng.randint(1, 6)))


def _entities(rng: random.Random) -> str:
    return rng.choice(("", " ", "a")).join(rng.choice((*ENTITIES, "<")) for _ in range(rng.randint(1, 5)))


def _specials(rng: random.Random) -> str:
    return rng.choice(("", " ", "!", "a", "1")).join(rng.choice(SPECIALS) for _ in range(rng.randint(1, 4)))


def _ascii(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0x20, 0x7E)) for _ in range(rng.randint(0, 40)))


def _latin1(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0, 0xFF)) for _ in range(rng.randint(1, 20)))


def _low(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0, 0x2FFF)) for _ in range(rng.randint(1, 20)))


def _any(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0, 0x10FFFF)) for _ in range(rng.randint(1, 12)))


def _soup(rng: random.Random) -> str:
    chars = "ab'sS<>_|&;#1 " + CONTROLS + SPACES + MARKS + ODD
    return "".join(rng.choice(chars) for _ in range(rng.randint(1, 25)))


def _long(rng: random.Random) -> str:
    return rng.choice(("", " ")).join(_any_kind(rng) for _ in range(rng.randint(20, 60)))


KINDS = (_sentence, _of_script, _mojibake, _emoji, _entities, _specials, _ascii, _latin1, _low, _any, _soup)


def _any_kind(rng: random.Random) -> str:
    return rng.choice(KINDS)(rng)


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Return `count` texts: the edge cases, then random strings."""
    rng = random.Random(seed)
    yield from EDGES[:count]
    for _ in range(count - len(EDGES)):
        kind = rng.random()
        if kind < 0.02:
            yield _long(rng)
        else:
            yield rng.choice(("", " ", "\n")).join(
                _any_kind(rng) for _ in range(1 if kind < 0.6 else rng.randint(2, 4))
            )


def outcomes(tokenizer: Any, captions: Iterable[str]) -> Iterator[tuple[str, list[int], str]]:
    """Yield each text with its ids from `tokenizer.encode` and the result of `tokenizer.decode`."""
    for caption in captions:
        ids = list(tokenizer.encode(caption))
        yield caption, ids, tokenizer.decode(ids)
