"""Names to configurations: the architectures and the trained weights that are published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from oneclip.config import OPENAI_MEAN, OPENAI_STD, ModelCfg, PreprocessCfg
from oneclip.errors import UnknownModelError

OPENAI_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "RN50": "RN50",
        "RN101": "RN101",
        "RN50x4": "RN50x4",
        "RN50x16": "RN50x16",
        "RN50x64": "RN50x64",
        "ViT-B/32": "ViT-B-32",
        "ViT-B/16": "ViT-B-16",
        "ViT-L/14": "ViT-L-14",
        "ViT-L/14@336px": "ViT-L-14-336",
    }
)
"""OpenAI's names in OpenAI's order, and the architectures they stand for; the weights are tagged `openai`."""


@dataclass(frozen=True)
class Pretrained:
    """One set of trained weights: where they lie, and the facts that travel with them.

    Attributes:
        architecture: what they fit.
        tag: their name among the weights of that architecture.
        url: where the file can be fetched, if not only from the Hugging Face hub.
        hf_hub: repository on the Hugging Face hub, with the file's name behind it if that is not a usual one.
        mean, std: of the pictures they were trained on, per channel.
        interpolation, resize_mode: as in `PreprocessCfg`.
        quick_gelu: True if they were trained with QuickGELU; None if the architecture says it.
    """

    architecture: str
    tag: str
    url: str | None = None
    hf_hub: str | None = None
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    quick_gelu: bool | None = None

    @property
    def sha256(self) -> str | None:
        """The checksum that the URL carries: all 64 digits as a folder, or the first 8 in the file's name."""
        found = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.pth?$", self.url or "")
        return found and (found[1] or found[2])

    def preprocess_cfg(self, size: int | tuple[int, int]) -> PreprocessCfg:
        """How a picture becomes a tensor for these weights, at a given size in pixels."""
        facts = {key: getattr(self, key) for key in ("mean", "std", "interpolation", "resize_mode")}
        return PreprocessCfg(size=size, **facts)


def architectures() -> list[str]:
    """The names of all architectures."""
    return list(_rows())


def canonical_name(name: str) -> str:
    """The architecture that a name stands for: itself, OpenAI's spelling of it, or one with `/` for `-`.

    Raises:
        UnknownModelError: if there is none; the message has the nearest.
    """
    for candidate in (name, OPENAI_NAMES.get(name, name), name.replace("/", "-")):
        if candidate in _rows():
            return candidate
    raise UnknownModelError(name, _rows(), kind="architecture", hint="`oneclip models` lists them.")


def architecture(name: str) -> ModelCfg:
    """The configuration of an architecture; a new object each time.

    Raises:
        UnknownModelError: if there is no such architecture; the message has the nearest.
    """
    return ModelCfg.from_dict(_expanded(canonical_name(name)))


def pretrained_tags(name: str) -> list[str]:
    """The tags of the trained weights that an architecture has; perhaps none."""
    return list(_weights_of(canonical_name(name)))


@cache
def published() -> tuple[tuple[str, str], ...]:
    """All trained weights as (architecture, tag), in the order they were published in; the QuickGELU twins last."""
    table = _weight_table()["weights"]
    twins = [name for base in table for name in _rows() if _is_twin_of(name, base)]
    return tuple((name, tag) for name in [*table, *twins] for tag in _weights_of(name))


def pretrained(name: str, tag: str) -> Pretrained:
    """The facts of one set of trained weights.

    Raises:
        UnknownModelError: if there is no such architecture or tag; the message has the nearest.
    """
    arch = canonical_name(name)
    known = _weights_of(arch)
    for candidate in (tag, tag.lower().replace("-", "_")):
        if candidate in known:
            return known[candidate]
    some = list(known)[:5] + ([f"and {len(known) - 5} more"] if len(known) > 5 else [])
    hint = f"Weights of {arch}: {', '.join(some)}." if known else f"{arch} has no published weights."
    raise UnknownModelError(tag, known, kind=f"tag of {arch}", hint=hint)


def preprocess_of(name: str) -> PreprocessCfg:
    """How a picture becomes a tensor for weights of an architecture that say nothing themselves.

    What all published weights of the architecture share; OpenAI's preprocessing where they differ or there
    are none.
    """
    arch = canonical_name(name)
    size = architecture(arch).vision_cfg.image_size
    published = [weights.preprocess_cfg(size) for weights in _weights_of(arch).values()]
    if published and all(cfg == published[0] for cfg in published):
        return published[0]
    return PreprocessCfg(size=size)


@cache
def _rows() -> dict[str, dict[str, Any]]:
    return _read("architectures.json")


@cache
def _weight_table() -> dict[str, Any]:
    return _read("weights.json")


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return content


def _expanded(arch: str) -> dict[str, Any]:
    """A row with everything that it takes from the row it is `like`."""
    row = dict(_rows()[arch])
    base = row.pop("like", None)
    return _merged(_expanded(base), row) if base else row


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A base with changes; towers are merged field by field, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = base[key] | value if key.endswith("_cfg") and key in base else value
    return merged


@cache
def _weights_of(arch: str) -> dict[str, Pretrained]:
    """The weights of an architecture by tag.

    An architecture that is another with QuickGELU has those weights of the other that were trained with it.
    """
    row = _rows()[arch]
    if _is_twin_of(arch, row.get("like")):
        twins = _weights_of(row["like"]).values()
        return {w.tag: Pretrained(**vars(w) | {"architecture": arch}) for w in twins if w.quick_gelu}
    table = _weight_table()["weights"]
    return {tag: _pretrained(arch, tag, facts) for tag, facts in table.get(arch, {}).items()}


def _is_twin_of(arch: str, base: str | None) -> bool:
    """Whether an architecture is another with QuickGELU and no other difference."""
    row = _rows()[arch]
    return row.keys() == {"like", "quick_gelu"} and row["like"] == base


def _pretrained(arch: str, tag: str, facts: dict[str, Any]) -> Pretrained:
    facts, table = dict(facts), _weight_table()
    if "url" in facts:
        server, path = facts["url"].split(":", 1)
        facts["url"] = table["urls"][server] + path
    pixels = table["preprocess"][facts.pop("preprocess")] if "preprocess" in facts else {}
    pixels = {key: tuple(value) if isinstance(value, list) else value for key, value in pixels.items()}
    return Pretrained(arch, tag, **facts, **pixels)
