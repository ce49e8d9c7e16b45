"""Published architectures, pretrained weights and text towers, looked up by name."""

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
"""OpenAI's model names, in OpenAI's order, with the architecture of each; their weights have the tag `openai`."""


@dataclass(frozen=True)
class Pretrained:
    """One set of pretrained weights: where they are published, and how to prepare images for them.

    Attributes:
        architecture: name of the architecture that they fit.
        tag: name among the weights of that architecture.
        url: address of the file, if it is published outside the Hugging Face hub.
        hf_hub: repository on the Hugging Face hub, followed by the name of the file if it is not a usual one.
        mean, std: of the training images, per channel.
        interpolation, resize_mode: as in `PreprocessCfg`.
        quick_gelu: True if they were trained with QuickGELU; None if the architecture decides.
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
        """The checksum inside the URL: all 64 digits as a folder, or the first 8 in the name of the file."""
        found = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.pth?$", self.url or "")
        return found and (found[1] or found[2])

    def preprocess_cfg(self, size: int | tuple[int, int]) -> PreprocessCfg:
        """Return the preprocessing of these weights for an image size in pixels."""
        facts = {key: getattr(self, key) for key in ("mean", "std", "interpolation", "resize_mode")}
        return PreprocessCfg(size=size, **facts)


def architectures() -> list[str]:
    """List the names of all architectures."""
    return list(_rows())


def canonical_name(name: str) -> str:
    """Return the architecture for a name: the name itself, OpenAI's spelling, or a spelling with `/` instead of `-`.

    Raises:
        UnknownModelError: if it does not exist; the message lists the nearest names.
    """
    for candidate in (name, OPENAI_NAMES.get(name, name), name.replace("/", "-")):
        if candidate in _rows():
            return candidate
    raise UnknownModelError(name, _rows(), kind="architecture", hint="`oneclip models` lists them.")


def architecture(name: str) -> ModelCfg:
    """Return the configuration of an architecture, as a new object.

    Raises:
        UnknownModelError: if the architecture does not exist; the message lists the nearest names.
    """
    return ModelCfg.from_dict(_expanded(canonical_name(name)))


def pretrained_tags(name: str) -> list[str]:
    """List the tags of the pretrained weights of an architecture; possibly empty."""
    return list(_weights_of(canonical_name(name)))


@cache
def all_pretrained() -> tuple[tuple[str, str], ...]:
    """List all pretrained weights as (architecture, tag), in the order of `weights.json`, QuickGELU twins last."""
    table = _weight_table()["weights"]
    twins = [name for base in table for name in _rows() if _is_twin_of(name, base)]
    return tuple((name, tag) for name in [*table, *twins] for tag in _weights_of(name))


def pretrained(name: str, tag: str) -> Pretrained:
    """Return the facts of one set of pretrained weights.

    Raises:
        UnknownModelError: if the architecture or the tag does not exist; the message lists the nearest names.
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
    """Return the default preprocessing of an architecture, for weights that do not specify theirs.

    It is the preprocessing of its published weights if they all agree, otherwise OpenAI's.
    """
    arch = canonical_name(name)
    size = architecture(arch).vision_cfg.image_size
    cfgs = [weights.preprocess_cfg(size) for weights in _weights_of(arch).values()]
    if cfgs and all(cfg == cfgs[0] for cfg in cfgs):
        return cfgs[0]
    return PreprocessCfg(size=size)


def text_towers() -> list[str]:
    """List the names of the Hugging Face text models whose configuration is part of this package."""
    return list(_text_tower_rows())


def text_tower(name: str) -> dict[str, Any] | None:
    """Return the configuration of a Hugging Face text model, so that no tower of the zoo needs the network.

    Returns:
        The values of its published `config.json` that decide what is computed; None for an unknown name.
    """
    row = _text_tower_rows().get(name)
    if row is None:
        return None
    own = {key: value for key, value in row.items() if key != "like"}
    return ((text_tower(row["like"]) or {}) | own) if "like" in row else own


def read_table(name: str) -> dict[str, Any]:
    """Read one of the JSON files of this folder."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return content


@cache
def _rows() -> dict[str, dict[str, Any]]:
    return read_table("architectures.json")


@cache
def _weight_table() -> dict[str, Any]:
    return read_table("weights.json")


@cache
def _text_tower_rows() -> dict[str, dict[str, Any]]:
    return read_table("text_towers.json")


def _expanded(arch: str) -> dict[str, Any]:
    """Return a row merged over the row that it is `like`."""
    row = dict(_rows()[arch])
    base = row.pop("like", None)
    return _merged(_expanded(base), row) if base else row


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Apply changes to a row; towers are merged field by field, other values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = base[key] | value if key.endswith("_cfg") and key in base else value
    return merged


@cache
def _weights_of(arch: str) -> dict[str, Pretrained]:
    """Return the weights of an architecture by tag.

    A twin with QuickGELU shares those weights of its base that were trained with QuickGELU.
    """
    row = _rows()[arch]
    if _is_twin_of(arch, row.get("like")):
        twins = _weights_of(row["like"]).values()
        return {w.tag: Pretrained(**vars(w) | {"architecture": arch}) for w in twins if w.quick_gelu}
    table = _weight_table()["weights"]
    return {tag: _pretrained(arch, tag, facts) for tag, facts in table.get(arch, {}).items()}


def _is_twin_of(arch: str, base: str | None) -> bool:
    """Check whether an architecture differs from `base` only by QuickGELU."""
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
