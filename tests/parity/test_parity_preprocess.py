"""The transforms, bit for bit, against those of both packages on torchvision."""

from __future__ import annotations

from typing import Any

import cases_preprocess
import torch

import clip
import open_clip


def test_open_clips_transforms_are_identical(published_open_clip: Any) -> None:
    same(cases_preprocess.of_open_clip(open_clip), published_open_clip["preprocess"])


def test_openais_transform_is_identical(published_clip: Any) -> None:
    same(cases_preprocess.of_openai(clip), published_clip["preprocess"])


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    compared = 0
    for name, expected in theirs.items():
        if isinstance(expected, str):  # the published transform raised an error
            continue
        assert isinstance(ours[name], torch.Tensor), f"{name}: {ours[name]}"
        assert torch.equal(ours[name], expected), name
        compared += 1
    assert compared > len(theirs) / 2
