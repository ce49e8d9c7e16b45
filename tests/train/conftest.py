"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from six_colours import write_colours
from tiny_clip import TinyCLIP


@pytest.fixture
def tiny() -> TinyCLIP:
    torch.manual_seed(0)
    return TinyCLIP()


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None: ...


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with six images of one colour each, a table of them, and the configuration of a model."""
    return write_colours(tmp_path)
