"""Families, kinds of towers, extras and sizes of architectures."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from oneclip import zoo
from oneclip.errors import UnknownModelError


@pytest.mark.parametrize("name", zoo.architectures())
def test_an_architecture_is_of_one_family(name: str) -> None:
    assert [each.name for each in zoo.FAMILIES if re.match(each.pattern, name)] == [zoo.family(name)]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("RN50x64", "CLIP"),
        ("ViT-L/14@336px", "CLIP"),
        ("ViT-H-14-378-quickgelu", "CLIP"),
        ("ViT-bigG-14-worldwide-378", "MetaCLIP 2"),
        ("ViT-L-14-CLIPA-336", "CLIPA"),
        ("ViT-B-16-SigLIP-i18n-256", "SigLIP"),
        ("ViT-gopt-16-SigLIP2-384", "SigLIP 2"),
        ("nllb-clip-base-siglip", "NLLB-CLIP"),
        ("coca_roberta-ViT-B-32", "CoCa"),
        ("xlm-roberta-large-ViT-H-14", "RoBERTa"),
        ("MobileCLIP2-S4", "MobileCLIP"),
        ("PE-Core-bigG-14-448", "PE"),
    ],
)
def test_the_family_of_an_architecture(name: str, family: str) -> None:
    assert zoo.family(name) == family


@pytest.mark.parametrize(
    ("name", "kind", "extras"),
    [
        ("ViT-B-32", "native", ()),
        ("ViT-SO400M-14-SigLIP-384", "native", ()),
        ("ViT-L-14-worldwide", "native", ()),
        ("EVA02-L-14", "timm", ("timm",)),
        ("nllb-clip-large-siglip", "hf", ("hf",)),
        ("mt5-base-ViT-B-32", "hf", ("hf",)),
        ("coca_ViT-L-14", "coca", ()),
        ("coca_roberta-ViT-B-32", "coca", ("hf",)),
    ],
)
def test_the_kind_of_towers_and_required_extras(name: str, kind: str, extras: tuple[str, ...]) -> None:
    assert (zoo.kind(name), zoo.extras(name)) == (kind, extras)


def test_the_count_of_each_kind_is_known() -> None:
    kinds = Counter(map(zoo.kind, zoo.architectures()))
    assert kinds == {"native": 81, "timm": 50, "hf": 9, "coca": 4}


def test_sizes_are_the_published_ones() -> None:
    assert zoo.parameters("ViT-B/32") == (151_277_313, 87_849_216)
    assert zoo.parameters("RN50").total == 102_007_137


@pytest.mark.parametrize("call", [zoo.family, zoo.parameters, zoo.kind, zoo.extras])
def test_unknown_names_get_the_nearest(call: object) -> None:
    with pytest.raises(
        UnknownModelError, match="'ViT-B-23' is not a known architecture; did you mean ViT-B-32"
    ):
        call("ViT-B-23")  # type: ignore[operator]
