"""Search for models by words, family, tag, size and resolution."""

from __future__ import annotations

import pytest

from oneclip import zoo
from oneclip.errors import UnknownModelError


def names(*args: object, **kwargs: object) -> list[str]:
    return [found.name for found in zoo.search(*args, **kwargs)]  # type: ignore[arg-type]


def test_all_weights_are_listed_once_and_openais_first() -> None:
    listed = names()
    assert listed[:9] == list(zoo.OPENAI_NAMES)
    assert len(listed) == len(set(listed)) == 169
    weights = {f"{arch}:{tag}" for arch in zoo.architectures() for tag in zoo.pretrained_tags(arch)}
    twice = weights - {f"{found.architecture}:{found.tag}" for found in zoo.search()}
    assert all("-quickgelu:" in name for name in twice)
    assert len(twice) == 196 - 169


def test_models_are_listed_by_name() -> None:
    listed = zoo.list_models()
    assert listed == ["pocket", *names()]
    assert zoo.list_models("B/32 openai") == ["ViT-B/32"]
    assert zoo.list_models("POCK") == ["pocket"]
    assert zoo.list_models("no such words") == []


@pytest.mark.parametrize("untrained", [False, True])
def test_every_listed_name_resolves(untrained: bool) -> None:
    for found in zoo.search(untrained=untrained):
        if found.tag is not None:
            assert zoo.resolve(found.name).pretrained == found.pretrained
        else:
            assert zoo.canonical_name(found.name) == found.architecture
            assert zoo.pretrained_tags(found.name) == []
    assert {found.architecture for found in zoo.search(untrained=True)} >= {
        name for name in zoo.architectures() if not name.endswith("-quickgelu")
    }


@pytest.mark.parametrize("spelling", ["ViT-B-32:openai", "vit-b/32 openai", "OPENAI b_32"])
def test_words_in_any_case_and_spelling(spelling: str) -> None:
    assert names(spelling) == ["ViT-B/32"]


def test_a_family_in_any_spelling() -> None:
    assert names(family="siglip2") == names(family="SigLIP 2") == names("siglip2")
    assert "ViT-B-16-SigLIP2:webli" not in names(family="siglip")


def test_all_criteria_must_match() -> None:
    found = zoo.search(
        "siglip", family="SigLIP 2", resolution=384, min_params=5e8, max_params=9e8, tag="webli"
    )
    assert [each.name for each in found] == ["ViT-L-16-SigLIP2-384:webli"]
    assert found[0].image_size == (384, 384)
    assert 5e8 <= found[0].parameters.total <= 9e8
    assert (found[0].embed_dim, found[0].context_length, found[0].extras) == (1024, 64, ())
    assert found[0].tokenizer == "timm/ViT-L-16-SigLIP2-384"


def test_a_part_of_a_tag_is_enough() -> None:
    assert {found.tag for found in zoo.search(tag="DFN")} == {"dfn2b", "dfn5b", "dfn2b_s39b", "dfndr2b"}


def test_no_match_is_an_empty_list() -> None:
    assert names("no such model") == []


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"family": "siglp"}, "'siglp' is not a known family; did you mean SigLIP"),
        ({"tag": "laoin2b_e16"}, "'laoin2b_e16' is not a known tag; did you mean laion2b_e16"),
    ],
)
def test_unknown_words_get_the_nearest(criteria: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        zoo.search(**criteria)  # type: ignore[arg-type]
