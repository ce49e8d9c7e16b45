"""SigLIP models against open_clip_torch with timm towers, on the same random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import cases_siglip
import pytest
import torch
from parity_compare import compare

import open_clip
from oneclip.checkpoint.formats import ForeignCheckpoint
from oneclip.checkpoint.formats.big_vision import BigVision

TOLERANCE = 1e-4  # relative, in fp32


@cache
def ours(name: str) -> dict[str, Any]:
    return cases_siglip.observe(open_clip, name)


@pytest.fixture
def theirs(published_open_clip: Any) -> dict[str, Any]:
    return published_open_clip["siglip"]


def part(seen: dict[str, Any], *starts: str) -> dict[str, Any]:
    found = {key: value for key, value in seen.items() if key.startswith(starts)}
    assert any(not str(value).startswith("raised ") for value in found.values())
    return found


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_a_state_dict_has_the_published_names_and_shapes(name: str, theirs: dict[str, Any]) -> None:
    compare(name, ours(name), part(theirs[name], "state", "no weight decay"), TOLERANCE)


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_features_and_logits_are_the_published_ones(name: str, theirs: dict[str, Any]) -> None:
    starts = ("forward", "image alone", "text alone", "encode_", "logits", "trunk")
    compare(name, ours(name), part(theirs[name], *starts), TOLERANCE)


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_intermediates_are_the_published_ones(name: str, theirs: dict[str, Any]) -> None:
    compare(f"{name}, intermediates", ours(name), part(theirs[name], "intermediates"), TOLERANCE)


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_gradients_are_the_published_ones(name: str, theirs: dict[str, Any]) -> None:
    compare(f"{name}, gradients", ours(name), part(theirs[name], "gradients"), TOLERANCE, least=1e-2)


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_locks_leave_the_published_parameters_trainable(name: str, theirs: dict[str, Any]) -> None:
    compare(name, ours(name), part(theirs[name], "image lock", "text lock"), TOLERANCE)


@pytest.mark.parametrize("name", cases_siglip.CASES)
def test_positions_are_resized_as_timm_does(name: str, theirs: dict[str, Any]) -> None:
    compare(f"{name}, resized", ours(name), part(theirs[name], "resized"), TOLERANCE)


def test_a_trunk_begins_as_timms_does(theirs: dict[str, Any]) -> None:
    found, expected = cases_siglip.beginnings(open_clip), theirs["beginnings"]
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        deviation = abs(numbers[-1])
        assert found[name][0] == pytest.approx(numbers[0], abs=0.15 * deviation + 1e-9), name
        assert found[name][-1] == pytest.approx(numbers[-1], rel=0.1), name


def test_a_full_size_model_gives_the_published_features(theirs: dict[str, Any]) -> None:
    compare(f"{cases_siglip.FULL}, full size", cases_siglip.full(open_clip), theirs["full"], TOLERANCE)


@pytest.mark.parametrize("form", cases_siglip.FORMS)
def test_big_visions_arrays_become_the_published_tensors(form: str, theirs: dict[str, Any]) -> None:
    arrays = cases_siglip.big_vision_arrays(cases_siglip.FORMS[form])
    tensors = {f"params/{name}": torch.from_numpy(array) for name, array in arrays.items()}
    found = BigVision().read(ForeignCheckpoint(tensors))
    expected = theirs["big_vision"][form]
    assert found.state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.state_dict[name], tensor), name
