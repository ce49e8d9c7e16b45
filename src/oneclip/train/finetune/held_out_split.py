"""Split of a table of pairs into training and held-out pairs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping

import numpy as np

from oneclip.errors import DataError
from oneclip.hub.pairs import CaptionPairs

MIN_HELD_OUT = 2  # retrieval among fewer images is always right
MIN_IMAGES = 20


def split_pairs(pairs: CaptionPairs, share: float, seed: int) -> tuple[CaptionPairs, CaptionPairs]:
    """Split pairs by image, so that all captions of an image are on the same side.

    Args:
        pairs: the pairs of a table.
        share: share of the images to hold out, rounded.
        seed: seed of the random choice.

    Returns:
        Training pairs and held-out pairs.

    Raises:
        DataError: if there are too few images.
    """
    images = list(dict.fromkeys(map(os.path.normpath, pairs.images)))
    count = max(MIN_HELD_OUT, round(share * len(images)))
    if len(images) < MIN_IMAGES:
        raise DataError(
            f"{pairs.name} has {len(images)} images; holding some of them out for evaluation needs at least "
            f"{MIN_IMAGES}. Use other images for evaluation: --eval-data TABLE"
        )
    if count > len(images) - MIN_HELD_OUT:
        raise DataError(
            f"--held-out {share:g} leaves {len(images) - count} of the {len(images)} images of {pairs.name} to "
            "train on; choose a smaller share"
        )
    order = np.random.default_rng([seed, len(images)]).permutation(len(images))
    held_out = {images[i] for i in order[:count]}
    return _select_rows(pairs, held_out, within=False), _select_rows(pairs, held_out, within=True)


def pairs_as_csv(pairs: CaptionPairs, columns: Mapping[str, str]) -> str:
    """Write pairs as the text of a CSV file, with the column names of their table.

    Args:
        pairs: the rows.
        columns: `image_column` and `caption_column`, if they differ from the defaults.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([columns.get("image_column", "filepath"), columns.get("caption_column", "caption")])
    writer.writerows(zip(pairs.images, pairs.captions, strict=True))
    return text.getvalue()


def _select_rows(pairs: CaptionPairs, images: Collection[str], within: bool) -> CaptionPairs:
    rows = [i for i, name in enumerate(pairs.images) if (os.path.normpath(name) in images) == within]
    return CaptionPairs(
        pairs.name, [pairs.images[i] for i in rows], [pairs.captions[i] for i in rows], pairs.incomplete
    )
