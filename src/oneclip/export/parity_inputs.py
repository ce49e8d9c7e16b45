"""Images and texts on which an exported model is compared with the model in torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from oneclip.errors import DataError
from oneclip.evaluate import SIMPLE_TEMPLATES, Sample, load_pocket_heldout, open_dataset
from oneclip.text.prompts import fill_templates

SHAPES = (
    (64, 48),
    (48, 64),
    (500, 20),
    (20, 500),
    (224, 224),
    (640, 427),
    (1, 1),
)  # width and height in pixels
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "LA", "I;16", "HSV", "YCbCr")
SHORTEST, LONGEST = "a", "a very long description of a picture " * 100
TEXTS = (
    SHORTEST,
    "a photo of a cat",
    "two dogs run through a green field behind a red house",
    "รูปภาพของแมว",
    "une photo d'un chat noir sur un canapé",
    "12345 !? #hashtag",
    LONGEST,
)
HELDOUT_PAIRS = 64
"""Images of each style of pocket's sample: enough to compare, and seconds for a large model."""
CHECK_IMAGES = 1000
"""Images of `--check` that are compared, at most; they are spread over the whole data set."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Images with their texts.

    Attributes:
        name: of the data.
        images: as of `Encoder.encode_images`.
        texts: to rank for each image.
        right: for each image, the indices of its texts.
    """

    name: str
    images: Sequence[Any]
    texts: Sequence[str]
    right: Sequence[frozenset[int]]


def generated_images(seed: int = 0) -> list[Image.Image]:
    """Generate an image of every shape in RGB, and of every mode in one shape."""
    random = np.random.default_rng(seed)
    images = [_coarse(random, size) for size in SHAPES]
    for mode in MODES:
        image = _coarse(random, (96, 80))
        images.append(
            image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
        )
    return images


def _coarse(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    squares = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    return squares.resize(size, Image.Resampling.BICUBIC)


def heldout_pairs(check: str | os.PathLike[str] | None = None) -> list[HeldOutPairs]:
    """Return the user's data, or pocket's sample of icons with their names, one for each style.

    Raises:
        DataError: if the data cannot be read.
    """
    if check is not None:
        return [_read_check(check)]
    try:
        tasks: Sequence[Any] = load_pocket_heldout().tasks
    except DataError:  # a checkout without the recipes
        return []
    found = []
    for task in tasks:
        rows = np.linspace(0, len(task.pairs) - 1, min(HELDOUT_PAIRS, len(task.pairs)), dtype=int)
        images, texts = zip(*(task.pairs[row] for row in rows), strict=True)
        kept = list(dict.fromkeys(texts))
        right = [
            frozenset(kept.index(text) for i, text in task.pairs if i == image and text in kept)
            for image in images
        ]
        found.append(
            HeldOutPairs(task.name, [task.images[i] for i in images], [task.texts[i] for i in kept], right)
        )
    return found


def _read_check(check: str | os.PathLike[str]) -> HeldOutPairs:
    """Read images and their texts: the names of their classes in a sentence, or their captions."""
    dataset = open_dataset(check)
    samples = [one for one in dataset.split("test") if isinstance(one, Sample)]
    samples = samples[:: max(1, len(samples) // CHECK_IMAGES)][:CHECK_IMAGES]
    if dataset.classes:
        texts = [fill_templates(name, SIMPLE_TEMPLATES)[0] for name in dataset.classes]
        right = [frozenset(one.labels or (one.label,)) for one in samples]
    else:
        texts = list(dict.fromkeys(text for one in samples for text in one.texts))
        row_of = {text: row for row, text in enumerate(texts)}
        right = [frozenset(row_of[text] for text in one.texts) for one in samples]
    if not samples or not texts:
        raise DataError(f"{os.fspath(check)} has no images with texts to compare on")
    return HeldOutPairs(dataset.name, [one.item.read() for one in samples], texts, right)
