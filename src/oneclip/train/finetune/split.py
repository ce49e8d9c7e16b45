"""A table of pairs to two: one to train on, and one whose pictures are not trained on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from oneclip import checkpoint
from oneclip.errors import DataError
from oneclip.pairs import Pairs

LEAST_HELD_OUT = 2  # with fewer, every answer is right
LEAST_PICTURES = 20


def split_pairs(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Split by pictures: all captions of one are on the same side.

    Args:
        pairs: of a table.
        share: of the pictures to hold out, rounded.
        seed: of the choice.

    Raises:
        DataError: if there are too few pictures for that.
    """
    pictures = list(dict.fromkeys(map(os.path.normpath, pairs.pictures)))
    count = max(LEAST_HELD_OUT, round(share * len(pictures)))
    if len(pictures) < LEAST_PICTURES:
        raise DataError(
            f"{pairs.name} has {len(pictures)} images; holding some of them out for evaluation takes at least "
            f"{LEAST_PICTURES}. Give other images to evaluate on: --eval-data TABLE"
        )
    if count > len(pictures) - LEAST_HELD_OUT:
        raise DataError(
            f"--split {share:g} leaves {len(pictures) - count} of the {len(pictures)} images of {pairs.name} to train "
            "on; choose a smaller share"
        )
    order = np.random.default_rng([seed, len(pictures)]).permutation(len(pictures))
    held_out = {pictures[i] for i in order[:count]}
    return _those(pairs, held_out, within=False), _those(pairs, held_out, within=True)


def write_pairs(pairs: Pairs, path: Path, image_column: str, caption_column: str) -> Path:
    """Write pairs as a CSV file with the columns that their table had.

    Raises:
        OutputError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([image_column, caption_column])
    writer.writerows(zip(pairs.pictures, pairs.captions, strict=True))
    with checkpoint.replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def _those(pairs: Pairs, pictures: Collection[str], within: bool) -> Pairs:
    rows = [i for i, name in enumerate(pairs.pictures) if (os.path.normpath(name) in pictures) == within]
    return Pairs(
        pairs.name, [pairs.pictures[i] for i in rows], [pairs.captions[i] for i in rows], pairs.left_out
    )
