"""Names of Hugging Face text models to their configurations, so that no tower of the zoo needs the network.

`text_towers.json` has a line for each: the values of its published `config.json` that decide what is computed, or
those that differ from the model it is `like`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


def text_towers() -> list[str]:
    """The names of all Hugging Face text models whose configuration is known here."""
    return list(_rows())


def text_tower(name: str) -> dict[str, Any] | None:
    """The configuration of a Hugging Face text model, as its `config.json` has it; None if it is not known here."""
    row = _rows().get(name)
    if row is None:
        return None
    own = {key: value for key, value in row.items() if key != "like"}
    return ((text_tower(row["like"]) or {}) | own) if "like" in row else own


@cache
def _rows() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(
        Path(__file__).with_name("text_towers.json").read_text(encoding="utf-8")
    )
    return content
