"""Cleaning of texts: repair, HTML references, whitespace, case, punctuation."""

from __future__ import annotations

import html
import html.entities
from typing import Any

import ftfy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oneclip.errors import ConfigError
from oneclip.text import clean
from oneclip.text.clean import basic_clean, canonicalize_text, clean_text, get_clean_fn, whitespace_clean

relaxed = settings(deadline=None, max_examples=300)
ascii_text = st.text(st.characters(max_codepoint=0x7F), max_size=40)
printable = st.text(st.sampled_from([*map(chr, range(0x20, 0x7F)), "\t", "\n"]), max_size=80)
references = st.lists(
    st.sampled_from(
        [
            "&",
            "&&",
            "#",
            ";",
            "x",
            "1",
            "a",
            " ",
            "\t",
            "\n",
            "\r",
            "\f",
            "<",
            "&amp",
            "&lt;",
            "&copy2",
            "&#",
            "&#x",
            "&#39",
        ]
    )
).map("".join)


def cleaned_without_shortcut(text: str) -> str:
    """Clean a text by definition, without any shortcut."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


@relaxed
@given(ascii_text | printable | references | st.text(max_size=40))
@example("\x1b[1mbold\x1b[0m")
@example("a & b")
@example("a &\nb &")
@example("&\x0c")
@example("AT&T")
@example("R&D; &lt")
@example("\x7f")
def test_shortcut_changes_nothing(text: str) -> None:
    assert basic_clean(text) == cleaned_without_shortcut(text)


@relaxed
@given(printable.filter(lambda text: "&" not in text))
def test_printable_ascii_takes_the_shortcut_and_needs_no_repair(text: str) -> None:
    assert clean._is_clean(text)
    assert ftfy.fix_text(text) == text


def test_shortcut_is_correct_for_every_named_reference() -> None:
    for name in html.entities.html5:
        for text in (f"&{name}", f"a&{name}b &amp;{name}", f"< &{name.upper()}"):
            assert basic_clean(text) == cleaned_without_shortcut(text)


@pytest.mark.parametrize("code_point", range(0x100), ids=hex)
def test_shortcut_is_correct_for_each_character(code_point: int) -> None:
    char = chr(code_point)
    for text in (char, f"a{char}b", f"&{char}", f"&{char};", f"&amp{char}", f"{char}[0m"):
        assert basic_clean(text) == cleaned_without_shortcut(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A  Dog\tand\na CAT ", "a dog and a cat"),
        ("R&amp;amp;D &lt;b&gt;", "r&d <b>"),
        ("donâ€™t", "don't"),
        ("â€œquotedâ€\x9d", '"quoted"'),
        ("ﬁne ＦＵＬＬ", "fine full"),
        ("cafe\u0301", "caf\u00e9"),
        ("\x1b[31mred\x1b[0m\x00", "red"),
        ("\ud83d\ude00 \ud800", "\U0001f600 \ufffd"),
        ("", ""),
    ],
)
def test_texts_are_repaired_unescaped_and_in_lower_case(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@relaxed
@given(st.text(max_size=40))
def test_cleaned_words_have_one_space_between_them(text: str) -> None:
    for name in ("lower", "whitespace", "canonicalize"):
        cleaned = get_clean_fn(name)(text)
        assert cleaned == whitespace_clean(cleaned)


def test_canonical_text_has_neither_case_nor_punctuation() -> None:
    assert canonicalize_text("A photo_of (a) Dog's {}, twice!") == "a photo of a dogs twice"


def test_canonical_text_keeps_the_exact_string() -> None:
    kept = canonicalize_text("A {} photo, {of}.", keep_punctuation_exact_string="{}")
    assert kept == "a {} photo of"


def test_unknown_cleaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="available: lower, whitespace, canonicalize"):
        get_clean_fn("none")


AMPERSANDS = ("amp;", "#38;", "#x26;", "AMP;", "#0038;", "#X026;")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 60])
@pytest.mark.parametrize("end", ["", "lt;b", "eacute; Ã©", "nbsp", "#109;", "x;\n<b> &amp;amp;amp;gt;"])
def test_a_chain_of_references_is_unescaped_as_published(count: int, end: str) -> None:
    chain = "Ã© &" + "".join(AMPERSANDS[n % len(AMPERSANDS)] for n in range(count)) + end
    for text in (chain, f"{chain} and &&{chain}", f"<i>\n{chain}", f"{chain}<", f"{chain}\r\n&amp;amp;amp;<"):
        assert basic_clean(text) == html.unescape(html.unescape(ftfy.fix_text(text))).strip()


@pytest.mark.parametrize(
    "text",
    ["&" + "amp;" * 2500, "&" + "#38;" * 2500, "&#x3" * 2500 + "5" + ";" * 2500, "&am&#112;;" * 900],
)
def test_a_chain_of_references_takes_few_rounds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    fix_encoding = ftfy.fix_encoding

    def counted(*given: Any, **options: Any) -> str:
        rounds.append(1)
        return fix_encoding(*given, **options)

    monkeypatch.setattr(ftfy, "fix_encoding", counted)
    basic_clean(text)
    assert len(rounds) < 20
