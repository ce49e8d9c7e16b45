"""The sample of held-out pictures that comes with "pocket": what it knows of styles that it never saw."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from oneclip.errors import DataError
from oneclip.evaluate.retrieval import Retrieval
from oneclip.evaluate.tasks import Together

NAME = "pocket's held-out sample"
SIDE = 64  # pixels of a picture
PLACES = (
    Path(__file__).with_name("pocket_sample.npz"),  # where a wheel has it
    Path(__file__).parents[3] / "recipes" / "pocket" / "heldout_sample.npz",  # and a checkout
)


def pocket_sample() -> Together:
    """Retrieval by name within each style: 500 pictures of twemoji, Phosphor and Health Icons.

    Raises:
        DataError: if the sample is not there, as in a checkout without the recipes.
    """
    path = next((place for place in PLACES if place.is_file()), None)
    if path is None:
        raise DataError(f"{NAME} was not found (expected {PLACES[0]}); name data from before, or none")
    with np.load(path, allow_pickle=False) as stored:
        styles = [key.removesuffix(".png") for key in stored.files if key.endswith(".png")]
        tasks = [
            Retrieval(
                style, _pictures(stored[f"{style}.png"].tobytes()), stored[f"{style}.captions"].tolist()
            )
            for style in styles
        ]
    return Together(NAME, tasks)


def _pictures(sheet: bytes) -> list[Image.Image]:
    """Pictures that lie below each other in one PNG."""
    whole = Image.open(io.BytesIO(sheet)).convert("RGB")
    return [whole.crop((0, top, SIDE, top + SIDE)) for top in range(0, whole.height, SIDE)]
