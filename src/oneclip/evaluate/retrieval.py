"""Pictures and captions that belong together, to how well a model finds the one by the other.

Shapes: P pictures, C captions, D joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.feature_extractor import Subject
from oneclip.evaluate.recall import first_ranks
from oneclip.hub.pairs import Pairs, present_pairs
from oneclip.image.prefetch import Picture
from oneclip.losses import ClipLoss, SigLipLoss


class Retrieval:
    """Text-picture retrieval, both ways.

    A picture may come with several captions and a caption with several pictures: finding any that belongs is
    right. Equal paths are one picture, equal captions one caption.

    Args:
        name: what it is called.
        pictures: one for each pair; a path, or anything else that `Encoder.encode_images` takes.
        captions: likewise.
        at: the k of the recalls; those that all candidates would fulfil are left out.

    Attributes:
        pictures: P of them, each once.
        captions: C of them, each once.
        pairs: (picture, caption) by their places in both.
        names: of paths, as the table has them; for messages.
        missing: pictures that the table names and that are not there.
        skipped: those, and pictures that could not be read the last time, and why.
    """

    def __init__(
        self,
        name: str,
        pictures: Sequence[Picture],
        captions: Sequence[str],
        *,
        at: Sequence[int] = (1, 5, 10),
    ) -> None:
        if not at or min(at) < 1:
            raise ConfigError(f"the k of recalls are at least 1; found {tuple(at)}")
        if len(pictures) != len(captions):
            raise DataError(
                f"{name} has {len(pictures)} pictures and {len(captions)} captions; expected pairs"
            )
        if not pictures:
            raise DataError(f"{name} has no pictures to evaluate on; expected at least one with a caption")
        self.name, self.at, self.headline = name, tuple(at), f"mean_recall@{min(at)}"
        self.skipped: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.names: dict[str, str] = {}
        keys = [_key(picture, row) for row, picture in enumerate(pictures)]
        place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        by_key = dict(zip(reversed(keys), reversed(pictures), strict=True))
        self.pictures: list[Picture] = [by_key[key] for key in place]
        self.captions = list(dict.fromkeys(captions))
        caption_place = {caption: i for i, caption in enumerate(self.captions)}
        self.pairs = list(
            dict.fromkeys(
                (place[key], caption_place[caption]) for key, caption in zip(keys, captions, strict=True)
            )
        )

    @classmethod
    def of_pairs(
        cls,
        pairs: Pairs,
        folder: str | Path,
        *,
        at: Sequence[int] = (1, 5, 10),
        skip_missing: bool = False,
    ) -> Retrieval:
        """The rows of a table.

        Args:
            pairs: what `read_table` gives.
            folder: what relative paths are relative to.
            at: as above.
            skip_missing: note pictures that are not there in `skipped`, instead of raising.

        Raises:
            DataError: if pictures are missing, all of them with `skip_missing`.
        """
        missing: dict[str, str] = {}
        there = present_pairs(pairs, Path(folder), missing if skip_missing else None)
        paths = [os.path.join(folder, name) for name in there.pictures]
        task = cls(Path(pairs.name).name, paths, there.captions, at=at)
        task.names = dict(zip(paths, there.pictures, strict=True))
        task.missing, task.skipped = missing, dict(missing)
        return task

    def __len__(self) -> int:
        return len(self.pictures)

    def __call__(self, subject: Subject) -> dict[str, float]:
        """Evaluate a model.

        Returns:
            `loss`, the mean over the pairs in batches of the subject's size, in their order;
            `text_to_image_recall@k` and `image_to_text_recall@k`; and, for the least k, `mean_recall@k`
            of both.

        Raises:
            DataError: if no picture can be read.
        """
        images, kept, skipped = subject.pictures(self.pictures)
        self.skipped = self.missing | {self.names.get(one.name, one.name): str(one.error) for one in skipped}
        if not kept:
            raise DataError(
                f"none of the {len(self.pictures)} pictures of {self.name} can be read: {skipped[0].error}"
            )
        row = {picture: i for i, picture in enumerate(kept)}
        used = list(dict.fromkeys(caption for picture, caption in self.pairs if picture in row))
        column = {caption: i for i, caption in enumerate(used)}
        texts = subject.captions([self.captions[caption] for caption in used])
        pairs = [(row[picture], column[caption]) for picture, caption in self.pairs if picture in row]
        recalls = {}
        for way, queries, candidates, which in (
            ("text_to_image", texts, images, 1),
            ("image_to_text", images, texts, 0),
        ):
            targets: list[list[int]] = [[] for _ in range(len(queries))]
            for pair in pairs:
                targets[pair[which]].append(pair[1 - which])
            rank = first_ranks(queries, candidates, targets)
            for k in [k for k in self.at if k < len(candidates)] or [1]:
                recalls[f"{way}_recall@{k}"] = float((rank < k).double().mean())
        least = min(self.at)
        both = [recalls.get(f"{way}_recall@{least}", 1.0) for way in ("text_to_image", "image_to_text")]
        return {"loss": _loss(subject, images, texts, pairs), self.headline: sum(both) / 2} | recalls


@torch.no_grad()
def _loss(subject: Subject, images: Tensor, texts: Tensor, pairs: Sequence[tuple[int, int]]) -> float:
    """The contrastive loss of batches of pairs; by the sigmoid if the model has a bias, as one trained with it has."""
    scale, bias = subject.temperature()
    total = 0.0
    for start in range(0, len(pairs), subject.batch_size):
        rows, columns = zip(*pairs[start : start + subject.batch_size], strict=True)
        image, text = images[list(rows)], texts[list(columns)]
        if bias is None:
            loss = ClipLoss()(image, text, image.new_tensor(scale))
        else:
            loss = SigLipLoss()(image, text, image.new_tensor(scale), image.new_tensor(bias))
        total += len(rows) * float(loss)
    return total / len(pairs)


def _key(picture: Picture, row: int) -> Hashable:
    """What two equal pictures have in common: a path; anything else is equal to nothing but itself."""
    return os.path.normpath(os.fspath(picture)) if isinstance(picture, (str, os.PathLike)) else row
