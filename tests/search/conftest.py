"""A tiny encoder, a folder of images, and an index of it."""

from pathlib import Path

import pytest
from images import write_image
from tiny import write_tiny_model

import oneclip
from oneclip.search import Index


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def encoder(model_file: Path) -> oneclip.Encoder:
    """The tiny model, loaded."""
    return oneclip.load(model_file)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with six PNGs, which were modified long ago."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        write_image(folder / f"{i}.png", i)
    return folder


@pytest.fixture
def index(tmp_path: Path, encoder: oneclip.Encoder) -> Index:
    """An empty index."""
    return Index(tmp_path / "photos.index", model=encoder)
