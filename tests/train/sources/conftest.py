"""What the tests of sources share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tars import png

from oneclip.hub.pairs import Pairs


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is kept in the cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ONECLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Ten pictures in `tmp_path` and their captions, "0" to "9"."""
    for n in range(10):
        (tmp_path / f"{n}.png").write_bytes(png(n, (12, 16)))
    return Pairs("pairs.csv", [f"{n}.png" for n in range(10)], [str(n) for n in range(10)])
