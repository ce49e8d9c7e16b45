"""CoCa against open_clip_torch: model outputs and captions."""

from __future__ import annotations

from typing import Any

import cases_coca
import cases_coca_differences
import cases_generate
import pytest
import torch
from parity_compare import compare

import open_clip

TOLERANCE = 1e-5
OF_GRADIENTS = 1e-4  # some are sums that nearly cancel


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return cases_coca.observe_all(open_clip)


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return cases_generate.observe(open_clip)


@pytest.mark.parametrize("name", cases_coca.NAMES)
def test_a_model_gives_the_published_numbers(
    name: str, ours: dict[str, Any], published_captioning: Any
) -> None:
    theirs = published_captioning["models"][name]
    gradients = {key: theirs[key] for key in theirs if key.startswith("gradients")}
    values = {key: theirs[key] for key in theirs if key not in gradients}
    group = "CoCa, Hugging Face text" if "Hugging" in name else "CoCa"
    compare(group, ours[name], values, TOLERANCE)
    compare(f"{group}, gradients", ours[name], gradients, OF_GRADIENTS, least=1e-3)


@pytest.mark.parametrize("group", ["greedy", "drawn", "searched", "stopped"])
def test_captions_are_the_published_ones(
    group: str, written: dict[str, Any], published_captioning: Any
) -> None:
    theirs = {key: ids for key, ids in published_captioning["written"].items() if key.startswith(group)}
    assert len(theirs) >= 3 * len(cases_generate.MODELS)
    other = [key for key, ids in theirs.items() if not torch.equal(written[key], ids)]
    assert not other, "\n".join(f"{key}\n{written[key]}\n{theirs[key]}" for key in other[:3])


@pytest.fixture(scope="module")
def our_probes() -> dict[str, bool]:
    return cases_coca_differences.observe(open_clip)


@pytest.mark.parametrize("probe", cases_coca_differences.PROBES)
def test_listed_differences_of_captioning_exist(
    probe: str, our_probes: dict[str, bool], published_captioning: Any
) -> None:
    assert not published_captioning["differences"][
        probe
    ]  # otherwise docs/compatibility.md is wrong about 3.3.0
    assert our_probes[probe]
