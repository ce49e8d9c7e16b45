"""open_clip_torch reads the MobileCLIP checkpoints that we export in Apple's format."""

from __future__ import annotations

from typing import Any

import cases_mobileclip
import pytest


@pytest.mark.parametrize("name", cases_mobileclip.NAMES)
def test_open_clip_reads_what_we_write(name: str, published_open_clip: Any) -> None:
    found = published_open_clip["mobileclip"][name]
    assert found["names"]
    assert found["ours"] == found["theirs"] == []
