"""Inputs of towers on which the ranges of their activations are measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.export.parity_inputs import TEXTS, generated_images, heldout_pairs
from oneclip.export.towers import IMAGE_INPUT, TEXT_INPUT
from oneclip.image import open_image
from oneclip.image.uint8 import UInt8Preprocess
from oneclip.runtime.exported_model import Side

BATCH = 4
IMAGES, CAPTIONS = 64, 64
"""Most inputs of a kind; the ranges hardly change with more."""


def calibration_batches(
    encoder: Encoder, side: Side, check: str | os.PathLike[str] | None = None, *, uint8: bool = False
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of preprocessed images or of token ids, by the name of the tower's input.

    Args:
        encoder: with the preprocessing and the tokenizer.
        side: of the tower.
        check: data of the user, see `oneclip.evaluate.open_dataset`; None for pocket's sample and generated inputs.
        uint8: make bytes of the images, for a tower that normalizes them itself.

    Raises:
        DataError: if the data cannot be read.
        ConfigError: if bytes are wanted and the preprocessing was edited.
    """
    pairs = heldout_pairs(check)
    if side == "text":
        texts = [text for one in pairs for text in _spread(one.texts, CAPTIONS // len(pairs))]
        ids = np.asarray(encoder.tokenizer([*texts, *TEXTS], encoder.context_length))
        for start in range(0, len(ids), BATCH):
            yield {TEXT_INPUT: ids[start : start + BATCH]}
        return
    steps: Any = UInt8Preprocess.of(encoder.preprocess) if uint8 else encoder.preprocess
    if steps is None:
        raise ConfigError("the preprocessing was edited, so the tower cannot normalize bytes itself")
    images: list[Any] = [image for one in pairs for image in _spread(one.images, IMAGES // len(pairs))]
    if check is None:
        images += generated_images()
    for start in range(0, len(images), BATCH):
        batch = [np.asarray(steps(open_image(image))) for image in images[start : start + BATCH]]
        yield {IMAGE_INPUT: np.stack(batch)}


def _spread(values: Any, count: int) -> list[Any]:
    """Return at most `count` values, spread over all of them."""
    return list(values[:: max(1, -(-len(values) // max(1, count)))])
