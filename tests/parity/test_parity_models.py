"""Dual encoders with every option, against open_clip_torch on the same random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import cases_clip
import cases_differences
import cases_model
import pytest
from parity_compare import compare

import open_clip

CASES = {case.name: case for case in cases_model.cases()}
CUSTOM = set(cases_model.CUSTOM)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The use of `x.T`"
)  # some models return the features of all tokens

TOLERANCE = 1e-4  # relative, in fp32
OURS_TOO = ["tile_size=None"]  # keyword-only, so it does not shift published arguments


@cache
def ours(name: str) -> dict[str, Any]:
    return cases_model.observe(open_clip, CASES[name])


@cache
def our_probes() -> dict[str, bool]:
    return cases_differences.observe(open_clip)


def part(seen: dict[str, Any], *starts: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        key: value
        for key, value in seen.items()
        if key.startswith(starts) and not key.startswith(without or "\0")
    }


def family(case: cases_model.Case) -> str:
    """Return the row of a case in the table of largest errors."""
    vision, text = case.vision, case.text
    if case.name == "CLIPA":
        return "CLIPA"
    if not isinstance(vision["layers"], int):
        return "ResNet"
    if "custom" in (vision.get("block_type"), text.get("block_type")) or CUSTOM & (
        vision.keys() | text.keys()
    ):
        return "custom block"
    return "QuickGELU" if case.options.get("quick_gelu") else "plain"


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_has_the_published_names_and_shapes(name: str, published_open_clip: Any) -> None:
    theirs = part(published_open_clip["models"][name], "state", "no weight decay", "positions")
    assert theirs
    compare("sin-cos positions", ours(name), theirs, TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits_are_the_published_ones(name: str, published_open_clip: Any) -> None:
    theirs = part(
        published_open_clip["models"][name],
        *("forward", "image alone", "text alone", "encode_", "logits", "training", "frozen statistics"),
    )
    compare(f"features and logits, {family(CASES[name])}", ours(name), theirs, TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_intermediates_are_the_published_ones(name: str, published_open_clip: Any) -> None:
    theirs = part(published_open_clip["models"][name], "intermediates")
    assert "intermediates default/image_intermediates/0" in theirs
    compare("intermediates", ours(name), theirs, TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_published_ones(name: str, published_open_clip: Any) -> None:
    theirs = part(published_open_clip["models"][name], "gradients")
    compare("gradients of models", ours(name), theirs, TOLERANCE, least=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    seen = ours(name)
    theirs = {key.replace(", checkpointing", ""): value for key, value in part(seen, "gradients, ").items()}
    compare("gradients, checkpointing", seen, theirs, TOLERANCE, least=1e-2)


@pytest.mark.parametrize("name", CASES)
def test_locks_leave_the_published_parameters_trainable(name: str, published_open_clip: Any) -> None:
    theirs = part(published_open_clip["models"][name], "image lock", "text lock")
    vision = CASES[name].vision
    if vision.get("attentional_pool") or vision.get("pos_embed_type"):  # see docs/compatibility.md
        theirs = part(theirs, "image lock 0", "text lock")
    compare("locks", ours(name), theirs, TOLERANCE)


def test_arguments_have_the_published_names_and_defaults(published_open_clip: Any) -> None:
    found, theirs = cases_model.signatures(open_clip), published_open_clip["signatures"]
    for name, expected in theirs.items():
        assert [argument for argument in found[name] if argument not in OURS_TOO] == expected, name


def test_models_begin_as_the_published_ones_do(published_open_clip: Any) -> None:
    found, theirs = cases_model.beginnings(open_clip), published_open_clip["beginnings"]
    assert found.keys() == theirs.keys()
    for name, expected in theirs.items():
        if len(expected) == 1:
            assert found[name] == pytest.approx(expected, abs=1e-6), name
            continue
        mean, deviation = expected
        assert found[name][0] == pytest.approx(mean, abs=0.15 * deviation), name
        assert found[name][1] == pytest.approx(deviation, rel=0.1), name


@pytest.mark.parametrize("name", cases_clip.FULL)
def test_a_full_size_model_gives_the_published_features(name: str, published_open_clip: Any) -> None:
    found = cases_clip.of_open_clip(open_clip, name)
    compare(f"open_clip, {name}", found, published_open_clip["full"][name], TOLERANCE)


@pytest.mark.parametrize("probe", cases_differences.PROBES)
def test_listed_differences_exist(probe: str, published_open_clip: Any) -> None:
    assert not published_open_clip["differences"][
        probe
    ]  # otherwise docs/compatibility.md is wrong about 3.3.0
    assert our_probes()[probe]
