"""The inside of SigLIP's image tower, against open_clip_torch with timm's trunk on the same random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import cases_siglip_inside
import pytest
from parity_compare import differences

import open_clip

TOLERANCE = 1e-5  # relative, in fp32
NAMES = cases_siglip_inside.NAMES


@cache
def ours(name: str) -> dict[str, Any]:
    return cases_siglip_inside.of_model(open_clip, name)


@pytest.fixture
def theirs(published_open_clip: Any) -> dict[str, Any]:
    return published_open_clip["siglip inside"]


def assert_equal(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    listed = sorted(differences(found, expected, tolerance))
    assert not listed, f"{len(listed)} differences:\n" + "\n".join(listed)


@pytest.mark.parametrize("name", NAMES)
def test_submodules_have_the_published_names_and_classes(name: str, theirs: dict[str, Any]) -> None:
    expected = {module: kinds[0] for module, kinds in theirs[name]["kinds"].items()}
    found = {
        module: expected[module] if expected.get(module) in kinds else kinds[0]
        for module, kinds in ours(name)["kinds"].items()
    }
    assert_equal(found, expected)


@pytest.mark.parametrize("program", cases_siglip_inside.PROGRAMS)
@pytest.mark.parametrize("name", NAMES)
def test_hooks_see_what_they_see_there(name: str, program: str, theirs: dict[str, Any]) -> None:
    assert_equal(ours(name)["calls"][program], theirs[name]["calls"][program])


@pytest.mark.parametrize("probe", cases_siglip_inside.INTERFACE)
@pytest.mark.parametrize("name", NAMES)
def test_the_trunk_has_timms_interface(name: str, probe: str, theirs: dict[str, Any]) -> None:
    assert_equal(part(ours(name)["interface"], probe), part(theirs[name]["interface"], probe))


@pytest.mark.parametrize("probe", cases_siglip_inside.REPLACED)
@pytest.mark.parametrize("name", NAMES)
def test_what_the_tower_holds_decides(name: str, probe: str, theirs: dict[str, Any]) -> None:
    assert_equal(part(ours(name)["replaced"], probe), part(theirs[name]["replaced"], probe))


@pytest.mark.parametrize("probe", cases_siglip_inside.RANDOM)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_random_numbers_are_drawn(name: str, probe: str, theirs: dict[str, Any]) -> None:
    exact = TOLERANCE if probe == "a training step" else 0.0
    assert_equal(part(ours(name)["random"], probe), part(theirs[name]["random"], probe), exact)


def test_a_tower_of_a_published_name_is_drawn_and_described_as_there(theirs: dict[str, Any]) -> None:
    assert_equal(cases_siglip_inside.full_size(open_clip), theirs["full size"])


def part(seen: dict[str, Any], probe: str) -> dict[str, Any]:
    found = {
        key: value
        for key, value in seen.items()
        if key == probe or key.startswith((f"{probe}/", f"{probe} "))
    }
    assert found
    return found
