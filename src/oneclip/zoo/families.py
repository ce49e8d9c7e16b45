"""Properties of an architecture that people choose by: family, size, kind of towers, required extras."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple, TypeAlias

from oneclip.errors import UnknownModelError
from oneclip.zoo.catalogue import architecture, canonical_name, read_table

Kind: TypeAlias = Literal["native", "timm", "hf", "coca"]


class Family(NamedTuple):
    """A group of architectures that share an idea.

    Attributes:
        name: usual name of the family.
        pattern: regular expression that matches the start of its architectures' names.
        description: the idea, with the paper that introduced it.
    """

    name: str
    pattern: str
    description: str


FAMILIES = (
    Family(
        "CLIP",
        r"RN|ViT-(?!.*-(SigLIP|CLIPA|worldwide))",
        "ResNets and vision transformers as OpenAI trained them (Radford et al. 2021)",
    ),
    Family("CoCa", r"coca_", "writes captions as well as comparing images and texts (Yu et al. 2022)"),
    Family("CLIPA", r"ViT-.*-CLIPA", "trained on small images and short texts (Li et al. 2023)"),
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
"""All families. Each architecture matches the pattern of exactly one."""


class Parameters(NamedTuple):
    """Number of parameters: of the whole model, and of its image tower."""

    total: int
    image: int


def families() -> list[str]:
    """List the names of all families."""
    return [each.name for each in FAMILIES]


def family(name: str) -> str:
    """Return the family of an architecture.

    Raises:
        UnknownModelError: if the architecture does not exist; the message lists the nearest names.
    """
    arch = canonical_name(name)
    return next(each.name for each in FAMILIES if re.match(each.pattern, arch))


def canonical_family(name: str) -> str:
    """Return the name of a family, ignoring case, spaces and punctuation.

    Raises:
        UnknownModelError: if the family does not exist; the message lists the nearest names.
    """
    for each in families():
        if _folded(each) == _folded(name):
            return each
    raise UnknownModelError(name, families(), kind="family", hint=f"Families: {', '.join(families())}.")


def parameters(name: str) -> Parameters:
    """Count the parameters of an architecture, including temperature and bias, without buffers.

    Raises:
        UnknownModelError: if the architecture does not exist; the message lists the nearest names.
    """
    return Parameters(*_parameters()[canonical_name(name)])


def kind(name: str) -> Kind:
    """Tell which library implements the towers of an architecture.

    Returns:
        "native" if both belong to this library; "timm" if timm implements the image tower; "hf" if transformers
        implements the text tower; "coca" if the model also has a caption decoder.

    Raises:
        UnknownModelError: if the architecture does not exist; the message lists the nearest names.
    """
    cfg = architecture(name)
    if cfg.multimodal_cfg is not None:
        return "coca"
    if cfg.text_cfg.hf_model_name:
        return "hf"
    return "timm" if _is_timms(cfg.vision_cfg.timm_model_name) else "native"


def extras(name: str) -> tuple[str, ...]:
    """List the extras of this package that an architecture needs: "timm", "hf", both or none.

    Raises:
        UnknownModelError: if the architecture does not exist; the message lists the nearest names.
    """
    cfg = architecture(name)
    needs = {
        "timm": _is_timms(cfg.vision_cfg.timm_model_name),
        "hf": bool(cfg.text_cfg.hf_model_name),
    }
    return tuple(extra for extra, needed in needs.items() if needed)


def _is_timms(name: str | None) -> bool:
    """Check whether an image tower needs timm. The towers of SigLIP have timm names, but are implemented here."""
    return name is not None and "_siglip_" not in name


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _parameters() -> dict[str, list[int]]:
    return read_table("parameters.json")
