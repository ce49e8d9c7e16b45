"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tars import png

from oneclip.hub.pairs import CaptionPairs


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ONECLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> CaptionPairs:
    """Ten images in `tmp_path` with the captions "0" to "9"."""
    for n in range(10):
        (tmp_path / f"{n}.png").write_bytes(png(n, (12, 16)))
    return CaptionPairs("pairs.csv", [f"{n}.png" for n in range(10)], [str(n) for n in range(10)])
