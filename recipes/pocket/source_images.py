"""List of the images of all packages: what to draw, and its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.pocket.catalogue import COMBINATORIAL_WEIGHT, HELD_OUT_SETS, IconSet, read_catalogue, read_set
from recipes.pocket.clipart import clip_art_titles
from recipes.pocket.names import NameCleaner, clean_phrase
from recipes.pocket.words import FLAGS_GROUP, Keywords, code_points

HELD_OUT_STYLE = {
    "ph": {"bold", "duotone", "fill", "light", "thin"},
    "healthicons": {"24px", "outline", "negative"},
}
"""Sets of which one style is evaluated, given by the end of the identifiers."""

BRAND_SETS = ("fa7-brands", "bxl", "cib", "devicon", "simple-icons", "logos")
BRAND_WORDS_ALLOWED = {"usb", "bluetooth", "rss", "wifi", "ui", "ai", "qr", "tv", "vr", "ok", "css", "ios"}
FAMOUS_BRANDS = {
    "google", "microsoft", "amazon", "facebook", "instagram", "twitter", "github", "gitlab", "youtube",
    "linkedin", "whatsapp", "spotify", "adobe", "paypal", "visa", "mastercard", "pinterest", "reddit",
    "skype", "snapchat", "telegram", "tiktok", "twitch", "dropbox", "dribbble", "behance", "wechat",
    "netflix", "firefox", "docker", "npm", "android", "ubuntu", "tumblr", "vimeo", "wordpress",
    "bitbucket", "xbox", "playstation", "stripe", "trello", "openai", "chatgpt", "figma", "logo",
    "brand", "yuque", "alipay", "weibo", "taobao", "dingtalk", "zhihu", "qq",
}  # fmt: skip


@dataclass(slots=True)
class SourceImage:
    """Image before it is drawn.

    Attributes:
        id: "set:name", unique.
        kind: "mono" (an alpha map, coloured when a batch is made) or "colour".
        svg: SVG text, or the path of a file relative to its package.
        name, aliases, keywords, category: the words for it.
        weight: how often it is drawn, relative to 1.
        turn: (flip horizontally, flip vertically, quarter turns clockwise), applied to the drawing.
        subgroup: Unicode's, of the emoji that the name means; "" if it means none.
    """

    id: str
    kind: str
    svg: str
    set: str
    licence: str
    name: str
    aliases: list[str]
    keywords: list[str]
    category: str
    weight: float = 1.0
    turn: tuple[bool, bool, int] = (False, False, 0)
    subgroup: str = ""


def list_images(
    folders: dict[str, Path], keywords: Keywords, common_words: set[str]
) -> Iterator[SourceImage]:
    """Return all images, held out or not, in a fixed order."""
    iconify = folders["iconify"]
    brands = _brand_names(iconify, common_words)
    for icon_set in read_catalogue(iconify).values():
        if icon_set.left_out:
            continue
        data = read_set(iconify, icon_set.prefix)
        if icon_set.info.get("category") == "Emoji" or icon_set.prefix == "fluent-emoji":
            yield from _emoji_images(icon_set, data, keywords)
        else:
            yield from _icon_images(icon_set, data, keywords, brands)
    yield from _emoji_files(folders["fluent3d"], keywords)
    for title in clip_art_titles(folders["openclipart"]):
        yield SourceImage(
            f"openclipart:{title.path}", "colour", title.path, "openclipart", "LicenseRef-public-domain",
            title.name, [], title.keywords, title.category,
        )  # fmt: skip


def common_words(wordnet: Path) -> set[str]:
    """Return the words of WordNet; a brand that is also an English word does not count as a brand."""
    words: set[str] = set()
    for path in sorted(wordnet.rglob("index.noun")) + sorted(wordnet.rglob("index.verb")):
        lines = (line for line in path.read_text().splitlines() if not line.startswith(" "))
        words.update(line.split(" ", 1)[0].replace("_", " ") for line in lines)
    return words


def _brand_names(iconify: Path, common: set[str]) -> set[str]:
    names: set[str] = set()
    for prefix in BRAND_SETS:
        data = read_set(iconify, prefix)
        names.update(name.replace("-", " ") for name in (*data["icons"], *data.get("aliases", {})))
    return {
        name for name in names if len(name) > 2 and name not in common and name not in BRAND_WORDS_ALLOWED
    }


def _is_brand(name: str, brands: set[str]) -> bool:
    return name in brands or any(word in FAMOUS_BRANDS for word in name.split())


def _resolve(data: dict[str, Any], identifier: str) -> tuple[dict[str, Any], tuple[bool, bool, int]] | None:
    """Return the body and size of an icon, with the transformations of its aliases."""
    flip_h, flip_v, turns = False, False, 0
    aliases = data.get("aliases", {})
    while identifier in aliases:
        alias = aliases[identifier]
        if alias.get("hidden"):
            return None
        flip_h ^= bool(alias.get("hFlip"))
        flip_v ^= bool(alias.get("vFlip"))
        turns = (turns + int(alias.get("rotate", 0))) % 4
        identifier = alias["parent"]
    icon = data["icons"].get(identifier)
    if icon is None or icon.get("hidden"):
        return None
    return icon, (flip_h, flip_v, turns)


def to_svg(icon: dict[str, Any], data: dict[str, Any]) -> str:
    """Make a 64-pixel SVG of an icon, centred and not stretched."""
    left, top = icon.get("left", data.get("left", 0)), icon.get("top", data.get("top", 0))
    width, height = icon.get("width", data.get("width", 16)), icon.get("height", data.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="64" '
        f'height="64" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def _categories(data: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for category, names in (data.get("categories") or {}).items():
        for name in names:
            found.setdefault(name, category.lower())
    return found


def _icon_images(
    icon_set: IconSet, data: dict[str, Any], keywords: Keywords, brands: set[str]
) -> Iterator[SourceImage]:
    prefix = icon_set.prefix
    clean = NameCleaner(data, prefix)
    categories = _categories(data)
    renamed: dict[str, list[str]] = {}
    identifiers = list(data["icons"])
    for alias, entry in data.get("aliases", {}).items():
        if entry.keys() & {"hFlip", "vFlip", "rotate"}:
            identifiers.append(alias)
        else:
            renamed.setdefault(entry["parent"], []).append(alias)
    for identifier in identifiers:
        found = _resolve(data, identifier)
        if found is None or identifier.rsplit("-", 1)[-1] in HELD_OUT_STYLE.get(prefix, ()):
            continue
        icon, turn = found
        if "<animate" in icon["body"] or "<image" in icon["body"]:
            continue
        name, category = clean(identifier), categories.get(identifier, "")
        if (
            not re.search(r"[a-z0-9]", name)
            or _is_brand(name, brands)
            or category in {"brand", "brands", "logos"}
        ):
            continue
        if re.search(r"\bflags?\b", category) or name.startswith("flag for "):
            continue
        words = keywords.by_set.get(prefix, {})
        own = words.get(identifier) or words.get(name.replace(" ", "-")) or []
        shared = [word for word in keywords.by_name.get(name, []) if word not in own]
        emoji = keywords.find_emoji(name)
        tags = list(emoji.keywords) if emoji else []
        aliases = [cleaned for alias in renamed.get(identifier, []) if (cleaned := clean(alias)) != name]
        yield SourceImage(
            f"{prefix}:{identifier}", icon_set.kind, to_svg(icon, data), prefix, icon_set.licence, name,
            _distinct([alias for alias in aliases if not _is_brand(alias, brands)], {name}),
            _distinct([*own, *shared[:8], *tags], {name})[:24], category,
            COMBINATORIAL_WEIGHT.get(prefix, 1.0), turn, emoji.subgroup if emoji else "",
        )  # fmt: skip


def _distinct(phrases: list[str], known: set[str]) -> list[str]:
    return [phrase for phrase in dict.fromkeys(phrases) if phrase and phrase not in known]


def _emoji_images(icon_set: IconSet, data: dict[str, Any], keywords: Keywords) -> Iterator[SourceImage]:
    """Return one image for each base emoji, named by its Unicode name."""
    prefix = icon_set.prefix
    by_identifier: dict[str, str] = {}
    for points, identifier in (data.get("chars") or {}).items():
        if (key := code_points(points)) in keywords.emoji:
            by_identifier.setdefault(identifier, key)
    categories = _categories(data)
    seen: set[str] = set()
    no_tags: tuple[str, ...] = ()
    for identifier in (*data["icons"], *data.get("aliases", {})):
        found = _resolve(data, identifier)
        if found is None or "skin-tone" in identifier or re.search(r"-(dark|light|medium)$", identifier):
            continue
        if re.search(r"\bflags?\b", categories.get(identifier, "")) or re.match(
            r"flag-(for|of)-", identifier
        ):
            continue
        own_name = re.sub(r" (1|2)$", "", identifier.replace("-", " "))
        if data.get("chars"):
            emoji = keywords.emoji.get(by_identifier.get(identifier, ""))
        else:
            emoji = keywords.find_emoji(own_name)
        if emoji is None:
            if data.get("chars") or prefix == "fxemoji" or prefix in HELD_OUT_SETS:
                continue
            name, tags, group = own_name, no_tags, -1
        else:
            name, tags, group = emoji.name, emoji.keywords, emoji.group
        if group == FLAGS_GROUP or (emoji and name in seen and prefix != "streamline-emojis"):
            continue
        seen.add(name)
        icon, turn = found
        alias = clean_phrase(identifier)
        squashed = prefix == "fxemoji" or alias == name
        yield SourceImage(
            f"{prefix}:{identifier}", icon_set.kind, to_svg(icon, data), prefix, icon_set.licence, name,
            [] if squashed else [alias], list(tags), categories.get(identifier, ""), 1.0, turn,
            emoji.subgroup if emoji else "",
        )  # fmt: skip


def _emoji_files(fluent: Path, keywords: Keywords) -> Iterator[SourceImage]:
    for path in sorted((fluent / "assets").glob("*.webp")):
        emoji = keywords.emoji.get(code_points(path.stem))
        if emoji and emoji.group != FLAGS_GROUP:
            yield SourceImage(
                f"fluent3d:{path.stem}",
                "colour",
                path.name,
                "fluent3d",
                "MIT",
                emoji.name,
                [],
                list(emoji.keywords),
                "",
                subgroup=emoji.subgroup,
            )
