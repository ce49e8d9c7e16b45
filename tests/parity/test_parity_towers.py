"""timm and transformers towers against open_clip_torch, on the same random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases_towers
import pytest
import torch
from parity_compare import compare
from parity_weights import random_images

import open_clip
from oneclip.checkpoint import build_uninitialized, load_into, resize_positions
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg

NAMES = [*cases_towers.TIMM, *cases_towers.HF]
TOLERANCE = 2e-4  # relative, in fp32

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:timm.*")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("texts")
    return {case.name: (case, cases_towers.observe(open_clip, case)) for case in cases_towers.cases(folder)}


def part(seen: dict[str, Any], *starts: str) -> dict[str, Any]:
    return {key: value for key, value in seen.items() if key.startswith(starts)}


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_has_the_published_names_and_shapes(
    name: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    theirs = part(published_open_clip["towers"][name], "state", "no weight decay")
    assert theirs
    compare("towers, names", ours[name][1], theirs, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits_are_the_published_ones(
    name: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    seen = published_open_clip["towers"][name]
    theirs = {key: seen[key] for key in seen if key.partition("/")[0] in ("image", "text", "logits")}
    case, found = ours[name]
    assert "image" in theirs
    compare(case.group, found, theirs, TOLERANCE)


@pytest.mark.parametrize("name", cases_towers.TIMM)
def test_intermediates_are_the_published_ones(
    name: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    _, found = ours[name]
    theirs = part(published_open_clip["towers"][name], "intermediates")
    compare("towers, intermediates", found, theirs, TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_published_ones(name: str, ours: dict[str, Any], published_open_clip: Any) -> None:
    _, found = ours[name]
    theirs = part(published_open_clip["towers"][name], "gradients")
    compare("towers, gradients", found, theirs, TOLERANCE, least=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_locks_leave_the_published_parameters_trainable(
    name: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    theirs = part(published_open_clip["towers"][name], "image lock", "text lock")
    if ours[name][0].family in (
        "mt5",
        "m2m_100",
    ):  # the published package spares only norms whose class is LayerNorm
        del theirs["text lock with norms"]
    compare("towers, locks", ours[name][1], theirs, TOLERANCE)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("roberta, max_pooler", "text"),
        ("bert, linear", "text lock 1"),
        ("m2m_100, linear", "text lock 1"),
        ("ConvNeXt", "intermediates prefix"),
    ],
)
def test_listed_fixes_fail_in_the_published_package(
    name: str, what: str, ours: dict[str, Any], published_open_clip: Any
) -> None:
    assert published_open_clip["towers"][name][what].startswith("raised ")
    found = ours[name][1]
    assert not str(found.get(what, "")).startswith("raised ")


@pytest.mark.parametrize("name", ["arch_dict", "HFTextEncoder", "TimmModel"])
def test_towers_have_the_published_arguments_and_tables(name: str, published_open_clip: Any) -> None:
    assert cases_towers.names()[name] == published_open_clip["tower names"][name]


def test_a_tower_that_is_told_another_size_gives_the_published_features(published_open_clip: Any) -> None:
    theirs = dict(published_open_clip["grown towers"].items())
    compare("towers of another size", cases_towers.observe_grown(open_clip), theirs, TOLERANCE)


@pytest.mark.parametrize("family", cases_towers.GROWN)
@pytest.mark.parametrize("size", cases_towers.SIZES, ids=str)
def test_weights_loaded_into_a_tower_of_another_size_give_the_published_features(
    family: str, size: int | tuple[int, int], published_open_clip: Any
) -> None:
    small, vision = cases_towers.filled(open_clip, family)
    cfg = ModelCfg(
        48,
        CLIPVisionCfg.from_dict({**vision, "image_size": size}),
        CLIPTextCfg.from_dict(cases_towers.TEXT),
        custom_text=True,
    )
    large = build_uninitialized(cfg).eval()
    load_into(large, resize_positions(small.state_dict(), cfg))
    with torch.no_grad():
        found = {"image": large.encode_image(random_images(2, size))}
    name = f"{family} {size}"
    compare("towers of another size", found, {"image": published_open_clip["grown towers"][name]}, TOLERANCE)
