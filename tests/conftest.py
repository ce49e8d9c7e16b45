"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest

# tests are small, and run beside each other; torch reads it when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from greatest import Summary
from torchvision_stub import declare_operators

declare_operators()  # timm and transformers import torchvision


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Summary())


@pytest.fixture
def pocket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes "pocket" mean something: the weights in the package, or a tiny random model where they are missing."""
    from oneclip import zoo

    path = zoo.pocket_path()
    if not path.is_file():
        from tiny import write_tiny_model

        path = write_tiny_model(tmp_path / "pocket.safetensors")
        for module in ("oneclip.zoo", "oneclip.zoo.resolve"):
            monkeypatch.setattr(sys.modules[module], "pocket_path", lambda: path)
    return path
