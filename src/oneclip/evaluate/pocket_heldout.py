"""Held-out sample of the "pocket" model: icons in styles that it was not trained on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from oneclip.errors import DataError
from oneclip.evaluate.retrieval import Retrieval
from oneclip.evaluate.tasks import TaskSuite

NAME = "pocket's held-out sample"
IMAGE_SIZE = 64  # pixels per side
PATHS = (
    Path(__file__).with_name("pocket_sample.npz"),  # in a wheel
    Path(__file__).parents[3] / "recipes" / "pocket" / "heldout_sample.npz",  # in a checkout
)


def load_pocket_heldout() -> TaskSuite:
    """Load one retrieval task per style: 500 images of twemoji, Phosphor and Health Icons, with their names.

    Raises:
        DataError: if the sample is not found, such as in a checkout without the recipes.
    """
    path = next((path for path in PATHS if path.is_file()), None)
    if path is None:
        raise DataError(f"{NAME} was not found (expected {PATHS[0]}); name other reference data, or none")
    with np.load(path, allow_pickle=False) as arrays:
        styles = [key.removesuffix(".png") for key in arrays.files if key.endswith(".png")]
        tasks = [
            Retrieval(
                style, _split_sheet(arrays[f"{style}.png"].tobytes()), arrays[f"{style}.captions"].tolist()
            )
            for style in styles
        ]
    return TaskSuite(NAME, tasks)


def _split_sheet(png: bytes) -> list[Image.Image]:
    """Split a PNG of images that are stacked vertically."""
    sheet = Image.open(io.BytesIO(png)).convert("RGB")
    return [sheet.crop((0, top, IMAGE_SIZE, top + IMAGE_SIZE)) for top in range(0, sheet.height, IMAGE_SIZE)]
