"""Zero-shot classifiers, against open_clip_torch."""

from __future__ import annotations

from typing import Any

import cases_zero_shot
from parity_compare import compare

import open_clip


def test_names_prompts_and_classifiers_are_the_published_ones(published_open_clip: Any) -> None:
    compare(
        "zero-shot classifiers", cases_zero_shot.observe(open_clip), published_open_clip["zero_shot"], 1e-5
    )
