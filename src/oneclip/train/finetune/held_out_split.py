"""A table of pairs to two: one to train on, and one whose pictures are not trained on."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping

import numpy as np

from oneclip.errors import DataError
from oneclip.hub.pairs import Pairs

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
            f"--held-out {share:g} leaves {len(pictures) - count} of the {len(pictures)} images of {pairs.name} to "
            "train on; choose a smaller share"
        )
    order = np.random.default_rng([seed, len(pictures)]).permutation(len(pictures))
    held_out = {pictures[i] for i in order[:count]}
    return _those(pairs, held_out, within=False), _those(pairs, held_out, within=True)


def pairs_as_csv(pairs: Pairs, columns: Mapping[str, str]) -> str:
    """The text of a CSV file of pairs, with the columns that their table had.

    Args:
        pairs: the rows.
        columns: `image_column` and `caption_column`, where they have other names than usual.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([columns.get("image_column", "filepath"), columns.get("caption_column", "caption")])
    writer.writerows(zip(pairs.pictures, pairs.captions, strict=True))
    return text.getvalue()


def _those(pairs: Pairs, pictures: Collection[str], within: bool) -> Pairs:
    rows = [i for i, name in enumerate(pairs.pictures) if (os.path.normpath(name) in pictures) == within]
    return Pairs(
        pairs.name, [pairs.pictures[i] for i in rows], [pairs.captions[i] for i in rows], pairs.left_out
    )
