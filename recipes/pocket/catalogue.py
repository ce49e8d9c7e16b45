"""Selection of icon sets, with reasons for the excluded ones.

Names of sets are the prefixes of @iconify/json.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELD_OUT_SETS = {"twemoji": "twemoji", "openmoji": "openmoji", "ph": "ph", "healthicons": "healthicons"}
"""Splits of held-out sets; none of their images is trained on."""

COMBINATORIAL_WEIGHT = {"iconmind": 0.3, "keyline-icons": 0.3, "reicon": 0.3}
"""Sets whose names are mostly combinations of a few shapes and badges."""

LEFT_OUT_CATEGORIES = {"Logos": "logos", "Programming": "programming brands"}

LEFT_OUT_SETS = {
    "flag": "flags",
    "circle-flags": "flags",
    "flagpack": "flags",
    "cif": "flags",
    "academicons": "logos",
    "svg-spinners": "animated",
    "fa": "superseded by fa7",
    "fa-solid": "superseded by fa7",
    "fa-regular": "superseded by fa7",
    "fa-brands": "logos",
    "fa6-solid": "superseded by fa7",
    "fa6-regular": "superseded by fa7",
    "fa6-brands": "logos",
    "heroicons-outline": "superseded by heroicons",
    "heroicons-solid": "superseded by heroicons",
    "bx": "superseded by boxicons",
    "bxs": "superseded by boxicons",
    "feather": "superseded by lucide",
    "famicons": "repack of ion",
    "mono-icons": "repack of mi",
    "pepicons": "superseded by pepicons-pop, -print and -pencil",
    "zmdi": "superseded by mdi",
    "whh": "names without word boundaries",
    "bpmn": "notation of a diagram language",
}

KEPT_DESPITE_CATEGORY = {"codicon"}


@dataclass(frozen=True)
class IconSet:
    """Icon set of @iconify/json.

    Attributes:
        prefix: its short name.
        info: what collections.json says: name, author, license, category, palette.
        left_out: the reason why it does not take part, or "".
    """

    prefix: str
    info: dict[str, Any]
    left_out: str

    @property
    def licence(self) -> str:
        return str(self.info["license"].get("spdx") or self.info["license"]["title"])

    @property
    def kind(self) -> str:
        """Return "colour" if the set has its own palette, else "mono" (drawn in the current colour)."""
        return "colour" if self.info.get("palette") else "mono"


def reason_to_leave_out(prefix: str, info: dict[str, Any]) -> str:
    """Return why a set is excluded, or "". OpenMoji is only in the test."""
    spdx = str(info["license"].get("spdx") or "")
    if prefix == "openmoji":
        return ""
    if re.search(r"\bSA\b", spdx):
        return f"share-alike ({spdx})"
    if re.search(r"\bNC\b", spdx):
        return f"non-commercial ({spdx})"
    if "GPL" in spdx or "MPL" in spdx or not spdx:
        return f"copyleft or unknown licence ({spdx or 'none'})"
    if prefix in LEFT_OUT_SETS:
        return LEFT_OUT_SETS[prefix]
    if prefix in KEPT_DESPITE_CATEGORY:
        return ""
    return LEFT_OUT_CATEGORIES.get(info.get("category", ""), "")


def read_catalogue(iconify: Path) -> dict[str, IconSet]:
    """Return all sets of @iconify/json by prefix, in its order."""
    collections = json.loads((iconify / "collections.json").read_text())
    return {
        prefix: IconSet(prefix, info, reason_to_leave_out(prefix, info))
        for prefix, info in collections.items()
    }


def read_set(iconify: Path, prefix: str) -> dict[str, Any]:
    """Read the icons, aliases, categories and chars of a set."""
    data: dict[str, Any] = json.loads((iconify / "json" / f"{prefix}.json").read_text())
    return data
