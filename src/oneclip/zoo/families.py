"""An architecture to what people choose it by: its family, its size, its towers, and what must be installed for it."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from oneclip.errors import UnknownModelError
from oneclip.zoo.catalogue import architecture, canonical_name

Kind: TypeAlias = Literal["native", "timm", "hf", "coca"]


class Family(NamedTuple):
    """Architectures that share an idea.

    Attributes:
        name: what people call it.
        pattern: of the names of its architectures.
        what: the idea, with the paper that has it.
    """

    name: str
    pattern: str
    what: str


FAMILIES = (
    Family(
        "CLIP",
        r"RN|ViT-(?!.*-(SigLIP|CLIPA|worldwide))",
        "ResNets and vision transformers as OpenAI trained them (Radford et al. 2021)",
    ),
    Family("CoCa", r"coca_", "captions pictures as well as comparing them (Yu et al. 2022)"),
    Family("CLIPA", r"ViT-.*-CLIPA", "trained on small pictures and short captions (Li et al. 2023)"),
    Family("MetaCLIP 2", r"ViT-.*-worldwide", "CLIP in three hundred languages (Chuang et al. 2025)"),
    Family("SigLIP", r"ViT-.*-SigLIP(?!2)", "sigmoid loss, attention pooling (Zhai et al. 2023)"),
    Family(
        "SigLIP 2", r"ViT-.*-SigLIP2", "SigLIP with more objectives, multilingual (Tschannen et al. 2025)"
    ),
    Family("EVA", r"EVA", "image towers first trained to fill in masked parts (Sun et al. 2023)"),
    Family("ConvNeXt", r"convnext_", "convolutional image towers (Liu et al. 2022)"),
    Family("MobileCLIP", r"MobileCLIP", "for phones (Vasu et al. 2024; Faghri et al. 2025)"),
    Family("ViTamin", r"ViTamin", "image towers of convolutions, then attention (Chen et al. 2024)"),
    Family("PE", r"PE-", "Perception Encoder: CLIP's recipe, refined (Bolya et al. 2025)"),
    Family("RoBERTa", r"(xlm-)?roberta-", "text towers of RoBERTa and XLM-RoBERTa (Liu et al. 2019)"),
    Family("mT5", r"mt5-", "text towers of mT5 (Xue et al. 2021)"),
    Family("NLLB-CLIP", r"nllb-", "text towers of NLLB, in 201 languages (Visheratin 2023)"),
    Family("others", r"swin_|vit_", "other image towers of timm's, without published weights"),
)
"""All families; the pattern of one of them, and of no other, fits each architecture."""


class Parameters(NamedTuple):
    """How many numbers a model consists of: all of it, and its image tower alone."""

    total: int
    image: int


def families() -> list[str]:
    """The names of all families."""
    return [each.name for each in FAMILIES]


def family(name: str) -> str:
    """The family of an architecture.

    Raises:
        UnknownModelError: if there is no such architecture; the message has the nearest.
    """
    arch = canonical_name(name)
    return next(each.name for each in FAMILIES if re.match(each.pattern, arch))


def known_family(name: str) -> str:
    """The family that a person means, in whatever case and with or without a space.

    Raises:
        UnknownModelError: if there is none; the message has the nearest.
    """
    for each in families():
        if _folded(each) == _folded(name):
            return each
    raise UnknownModelError(name, families(), kind="family", hint=f"There are {', '.join(families())}.")


def parameters(name: str) -> Parameters:
    """How many numbers an architecture consists of, temperature and bias included; buffers are not.

    Raises:
        UnknownModelError: if there is no such architecture; the message has the nearest.
    """
    return Parameters(*_parameters()[canonical_name(name)])


def kind(name: str) -> Kind:
    """Where the towers of an architecture come from.

    Returns:
        "native" if both are this library's; "timm" or "hf" if the image or the text tower is another library's ("hf"
        if both are); "coca" if there is a decoder beside them.

    Raises:
        UnknownModelError: if there is no such architecture; the message has the nearest.
    """
    cfg = architecture(name)
    if cfg.multimodal_cfg is not None:
        return "coca"
    if cfg.text_cfg.hf_model_name:
        return "hf"
    return "timm" if _is_timms(cfg.vision_cfg.timm_model_name) else "native"


def extras(name: str) -> tuple[str, ...]:
    """What must be installed beside the core to load an architecture: of "timm" and "hf".

    Raises:
        UnknownModelError: if there is no such architecture; the message has the nearest.
    """
    cfg = architecture(name)
    needs = {
        "timm": _is_timms(cfg.vision_cfg.timm_model_name),
        "hf": bool(cfg.text_cfg.hf_model_name),
    }
    return tuple(extra for extra, needed in needs.items() if needed)


def _is_timms(name: str | None) -> bool:
    """Whether timm is needed for an image tower; SigLIP's have names of timm's, and are native."""
    return name is not None and "_siglip_" not in name


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _parameters() -> dict[str, list[int]]:
    content: dict[str, list[int]] = json.loads(
        Path(__file__).with_name("parameters.json").read_text(encoding="utf-8")
    )
    return content
