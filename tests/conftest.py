"""What all tests share."""

import io
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

# tests are small, and run beside each other; torch reads it when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from greatest import Summary
from torchvision_stub import declare_operators

declare_operators()  # timm and transformers import torchvision


# what takes longest comes first, so that no process is left alone with it; then what needs no published package
LONGEST = ("test_together.py", "test_resume_together.py", "test_finetune.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.path.name not in LONGEST, "parity" in item.path.parts))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Summary())


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not drawn, which would be most of a small training; tests marked `draws` get them."""
    if find_spec("matplotlib") is None or request.node.get_closest_marker("draws"):
        return
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "png")
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _figure, file, **_options: file.write(png.getvalue())
    )


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
