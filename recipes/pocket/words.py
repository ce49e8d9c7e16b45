"""Lookup of keywords by clean name, and of emoji by Unicode name."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recipes.pocket.names import clean_phrase

FLAGS_GROUP = 9


@dataclass(frozen=True)
class Emoji:
    """Unicode emoji without skin tone: CLDR short name, tags, group and subgroup ("animal-bird")."""

    name: str
    keywords: tuple[str, ...]
    group: int
    subgroup: str = ""


@dataclass
class Keywords:
    """Keywords by set and by clean name, and the emoji by code points."""

    by_set: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    by_name: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    emoji: dict[str, Emoji] = field(default_factory=dict)
    emoji_by_squashed: dict[str, str] = field(default_factory=dict)

    def find_emoji(self, text: str) -> Emoji | None:
        """Find an emoji by name, in any spelling (`"alarmclock"`, `"Alarm Clock"`)."""
        key = self.emoji_by_squashed.get(squash(text))
        return self.emoji[key] if key else None


def squash(text: str) -> str:
    """Keep letters and digits only, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def code_points(text: str) -> str:
    """Normalize code points: `"1f468-200d-2695-fe0f"` gives `"1F468-200D-2695"`."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def read_keywords(folders: dict[str, Path]) -> Keywords:
    """Read all catalogues; `folders` is the result of `fetch_sources`."""
    found = Keywords()
    _read_emoji(folders["emojibase"], folders["emojilib"], found)
    for prefix, name, words in _catalogues(folders):
        kept = [phrase for phrase in (clean_phrase(str(word), 32) for word in words) if phrase]
        found.by_set[prefix].setdefault(name, []).extend(kept)
        known = found.by_name[name.replace("-", " ")]
        known.extend(word for word in kept if word not in known)
    return found


def _read_emoji(emojibase: Path, emojilib: Path, found: Keywords) -> None:
    library = json.loads((emojilib / "dist" / "emoji-en-US.json").read_text())
    by_glyph = {glyph.replace("\ufe0f", ""): words for glyph, words in library.items()}
    shortcodes: dict[str, list[str]] = defaultdict(list)
    for name in ("emojibase", "github", "iamcal", "joypixels", "emojibase-legacy", "cldr"):
        for key, value in json.loads((emojibase / "en" / "shortcodes" / f"{name}.json").read_text()).items():
            shortcodes[code_points(key)].extend([value] if isinstance(value, str) else value)
    subgroups = json.loads((emojibase / "meta" / "groups.json").read_text())["subgroups"]
    for entry in json.loads((emojibase / "en" / "data.json").read_text()):
        if "group" not in entry:  # regional indicators
            continue
        key = code_points(entry["hexcode"])
        words = [*entry.get("tags", []), *by_glyph.get(entry["emoji"].replace("\ufe0f", ""), [])[1:]]
        phrases = dict.fromkeys(clean_phrase(str(word), 32) for word in words)
        keywords = tuple(word for word in phrases if re.search(r"[a-z]{2}", word) and word != entry["label"])
        found.emoji[key] = Emoji(
            entry["label"].lower(), keywords, entry["group"], subgroups[str(entry["subgroup"])]
        )
        found.emoji_by_squashed[squash(entry["label"])] = key
    for key, codes in shortcodes.items():
        for code in codes:
            if key in found.emoji:
                found.emoji_by_squashed.setdefault(squash(code), key)


def _catalogues(folders: dict[str, Path]) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield (set, name in that set, words) of each icon in a catalogue."""
    for entry in json.loads((folders["mdi"] / "meta.json").read_text()):
        yield "mdi", entry["name"], [*entry["aliases"], *(tag.split(" / ")[0] for tag in entry["tags"])]
    for name, entry in json.loads((folders["tabler"] / "icons.json").read_text()).items():
        yield "tabler", name, map(str, entry.get("tags", []))
    for name, tags in json.loads((folders["lucide"] / "tags.json").read_text()).items():
        yield "lucide", name, tags
    for name, tags in _phosphor(folders["phosphor"] / "dist" / "icons.d.ts"):
        yield "ph", name, tags
    for entry in json.loads((folders["healthicons"] / "public" / "icons" / "meta-data.json").read_text()):
        tags = [tag for tag in entry["tags"] if ":" not in tag]
        yield "healthicons", entry["id"].replace("_", "-"), [entry["title"], *tags]
    carbon = json.loads((folders["carbon"] / "metadata.json").read_text())
    for entry in carbon["icons"]:
        yield "carbon", entry["name"], [entry.get("friendlyName") or "", *(entry.get("aliases") or [])]


def _phosphor(path: Path) -> Iterator[tuple[str, list[str]]]:
    pattern = re.compile(r'readonly name: "([^"]+)";.*?readonly tags: readonly \[(.*?)\];', re.S)
    for match in pattern.finditer(path.read_text()):
        yield (
            match.group(1),
            [tag for tag in re.findall(r'"([^"]*)"', match.group(2)) if not tag.startswith("*")],
        )
