"""Titles and keywords of Open Clip Art."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.pocket.names import clean_phrase

ROOT = Path("usr/share/openclipart/svg")
EXCLUDED_FOLDERS = re.compile(r"flags?/|logos/|shapes/stars/|special/|semaphore|/flag_|_flag")
"""Excluded folders: flags, logos, 1,378 parametrized stars, gradients and patterns."""

GENERIC = {
    "hash",
    "unsorted",
    "clipart",
    "clip art",
    "svg",
    "theme",
    "icons",
    "icon",
    "image",
    "public domain",
    "color",
}

MAX_FILES_PER_TITLE = 8


@dataclass(frozen=True)
class ClipArt:
    """Clip art file: its path below the root, and the words of its author."""

    path: str
    name: str
    keywords: list[str]
    category: str


def clip_art_titles(package: Path) -> Iterator[ClipArt]:
    """Return all clip art with a title in words, by path."""
    root = package / ROOT
    found = [(path, *_words(path)) for path in sorted(root.rglob("*.svg")) if _takes_part(path, root)]
    titles = Counter(title for _, title, _ in found)
    for path, title, keywords in found:
        # a title of many files is the title of their collection
        name = title if titles[title] <= MAX_FILES_PER_TITLE else ""
        name = name or _from_file_name(path.stem)
        if re.search(r"[a-z]{3}", name) and "flag" not in keywords:
            folder = path.parent.relative_to(root).parts[-1].replace("-", " ")
            kept = [word for word in keywords if word != name][:16]
            yield ClipArt(path.relative_to(root).as_posix(), name, kept, folder)


def _takes_part(path: Path, root: Path) -> bool:
    return not EXCLUDED_FOLDERS.search(path.relative_to(root).as_posix()) and path.stat().st_size <= 1_500_000


def _words(path: Path) -> tuple[str, list[str]]:
    """Read (title or "", keywords) of a file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    keywords = [clean_phrase(_plain(word), 32) for word in re.findall(r"<rdf:li>([^<]*)</rdf:li>", text)]
    title = re.search(r"<dc:title>([^<]*)</dc:title>", text)
    kept = [word for word in dict.fromkeys(keywords) if word and word not in GENERIC]
    return clean_title(_plain(title.group(1)) if title else ""), kept


def _plain(text: str) -> str:
    """Remove entities, escaped once or twice, and undecodable bytes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ufffd]", "", html.unescape(html.unescape(text)))


def clean_title(title: str) -> str:
    """Clean a title: `"Blue Car 02 (by someone)"` gives `"blue car"`; the title of a collection gives ""."""
    cleaned = clean_phrase(
        re.sub(r"\(.*?\)|[\"'.#]|\bby [\w. ]+$|\bopen ?clip ?art\b", " ", title, flags=re.I), 48
    )
    cleaned = re.sub(r"^\d+ ", "", re.sub(r"( [\divx]{1,3}| [\w#]*\d\w*)+$", "", cleaned).strip())
    cleaned = re.sub(r"(?<=[a-z]{3})\d{1,3}$", "", re.sub(r"\s+", " ", cleaned)).strip(" ,")
    unusable = r"part of|collection|untitled|icon set|theme|^(the|a|an)$|^\W*$"
    return "" if len(cleaned) < 3 or re.search(unusable, cleaned) else cleaned


def _from_file_name(stem: str) -> str:
    """Return the first words of a file name; the rest is the author."""
    words = [word.rstrip("0123456789") for word in re.split(r"[_\-\s.]+", stem.lower())]
    return clean_phrase(" ".join([word for word in words if word][:2]))
