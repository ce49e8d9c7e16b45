"""Open Clip Art's files to titles and keywords."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.pocket.names import clean_phrase

ROOT = Path("usr/share/openclipart/svg")
LEFT_OUT = re.compile(r"flags?/|logos/|shapes/stars/|special/|semaphore|/flag_|_flag")
"""Flags, logos, 1,378 parametrised stars, gradients and patterns."""

GENERIC = {"hash", "unsorted", "clipart", "clip art", "svg", "theme", "icons", "icon", "image", "public domain", "color"}


@dataclass(frozen=True)
class ClipArt:
    """One file: its path below the root, and the words its author gave it."""

    path: str
    name: str
    keywords: list[str]
    category: str


def clip_art_titles(package: Path) -> Iterator[ClipArt]:
    """Every clip art with a title in words, in the order of its path."""
    root = package / ROOT
    for path in sorted(root.rglob("*.svg")):
        relative = path.relative_to(root).as_posix()
        if LEFT_OUT.search(relative) or path.stat().st_size > 1_500_000:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        keywords = [clean_phrase(html.unescape(word), 32) for word in re.findall(r"<rdf:li>([^<]*)</rdf:li>", text)]
        keywords = [word for word in dict.fromkeys(keywords) if word and word not in GENERIC]
        title = re.search(r"<dc:title>([^<]*)</dc:title>", text)
        name = _title(html.unescape(title.group(1)) if title else "", path.stem)
        if re.search(r"[a-z]{3}", name) and "flag" not in keywords:
            folder = path.parent.relative_to(root).parts
            yield ClipArt(relative, name, [word for word in keywords if word != name][:16], folder[-1].replace("-", " "))


def _title(title: str, stem: str) -> str:
    """The title without numbering; without a usable title, the file's name less its author."""
    cleaned = clean_phrase(re.sub(r"\(.*?\)|[\"'.]", " ", title), 48)
    cleaned = re.sub(r"( [\divx]{1,3}| [\w#]*\d\w*)+$", "", cleaned).strip()
    if len(cleaned) > 2 and not re.search(r"part of|collection|untitled|icon set|^(the|a|an)$|^\W*$", cleaned):
        return re.sub(r"\s+", " ", cleaned)
    words = [word for word in re.split(r"[_\-\s.]+", stem.lower()) if word and not word.isdigit()]
    return clean_phrase(" ".join(words[:2]))
