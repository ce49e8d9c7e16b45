"""Retrieval: find images by text, and texts by image.

Shapes: P images, C texts, D joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.feature_extractor import FeatureExtractor
from oneclip.evaluate.recall import first_ranks
from oneclip.hub.pairs import CaptionPairs, with_existing_images
from oneclip.image import ImageSource
from oneclip.losses import ClipLoss, SigLipLoss


class Retrieval:
    """Image-text retrieval task, in both directions.

    An image may have several texts, and a text several images; finding any of them counts as correct. Equal paths
    are one image, and equal texts are one text.

    Args:
        name: of the task.
        images: one per pair; a path, or another type that `Encoder.encode_images` takes.
        texts: one per pair.
        at: the values of k for recall at k; a k that every ranking would reach is left out.

    Attributes:
        images: P different images.
        texts: C different texts.
        pairs: (image, text) as indices into both.
        names: path to the name in the table, for messages.
        missing: images that the table names and that do not exist, with the reason.
        skipped: missing images, and images that could not be read in the last call, with the reason.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        *,
        at: Sequence[int] = (1, 5, 10),
    ) -> None:
        if not at or min(at) < 1:
            raise ConfigError(f"at is {tuple(at)}; expected values of k, each at least 1")
        if len(images) != len(texts):
            raise DataError(
                f"{name} has {len(images)} images and {len(texts)} texts; expected one text per image"
            )
        if not images:
            raise DataError(f"{name} has no images to evaluate on; expected at least one pair")
        self.name, self.at, self.headline = name, tuple(at), f"mean_recall@{min(at)}"
        self.skipped: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.names: dict[str, str] = {}
        keys = [_image_key(image, row) for row, image in enumerate(images)]
        image_index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        by_key = dict(zip(reversed(keys), reversed(images), strict=True))
        self.images: list[ImageSource] = [by_key[key] for key in image_index]
        self.texts = list(dict.fromkeys(texts))
        text_index = {text: i for i, text in enumerate(self.texts)}
        self.pairs = list(
            dict.fromkeys((image_index[key], text_index[text]) for key, text in zip(keys, texts, strict=True))
        )

    @classmethod
    def from_pairs(
        cls,
        pairs: CaptionPairs,
        folder: str | Path,
        *,
        at: Sequence[int] = (1, 5, 10),
        skip_missing: bool = False,
    ) -> Retrieval:
        """Use the rows of a table.

        Args:
            pairs: from `oneclip.hub.pairs.read_pairs`.
            folder: what relative paths are relative to.
            at: as of the class.
            skip_missing: note images that do not exist in `skipped`, instead of raising.

        Raises:
            DataError: if images are missing; with `skip_missing`, only if all are.
        """
        missing: dict[str, str] = {}
        existing = with_existing_images(pairs, Path(folder), missing if skip_missing else None)
        paths = [os.path.join(folder, name) for name in existing.images]
        task = cls(Path(pairs.name).name, paths, existing.captions, at=at)
        task.names = dict(zip(paths, existing.images, strict=True))
        task.missing, task.skipped = missing, dict(missing)
        return task

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, extractor: FeatureExtractor) -> dict[str, float]:
        """Evaluate a model.

        Returns:
            `loss`, the mean over the pairs in their order, in batches of the extractor's size;
            `text_to_image_recall@k` and `image_to_text_recall@k`; and `mean_recall@k`, the mean of both directions at
            the smallest k.

        Raises:
            DataError: if no image can be read.
        """
        images, kept, skipped = extractor.encode_images(self.images)
        self.skipped = self.missing | {self.names.get(one.name, one.name): str(one.error) for one in skipped}
        if not kept:
            raise DataError(
                f"none of the {len(self.images)} images of {self.name} can be read: {skipped[0].error}"
            )
        row = {image: i for i, image in enumerate(kept)}
        used = list(dict.fromkeys(text for image, text in self.pairs if image in row))
        column = {text: i for i, text in enumerate(used)}
        texts = extractor.encode_texts([self.texts[text] for text in used])
        pairs = [(row[image], column[text]) for image, text in self.pairs if image in row]
        recalls = {}
        for direction, queries, candidates, query_side in (
            ("text_to_image", texts, images, 1),
            ("image_to_text", images, texts, 0),
        ):
            targets: list[list[int]] = [[] for _ in range(len(queries))]
            for pair in pairs:
                targets[pair[query_side]].append(pair[1 - query_side])
            rank = first_ranks(queries, candidates, targets)
            for k in [k for k in self.at if k < len(candidates)] or [1]:
                recalls[f"{direction}_recall@{k}"] = float((rank < k).double().mean())
        least = min(self.at)
        both = [
            recalls.get(f"{direction}_recall@{least}", 1.0)
            for direction in ("text_to_image", "image_to_text")
        ]
        return {"loss": _mean_loss(extractor, images, texts, pairs), self.headline: sum(both) / 2} | recalls


@torch.no_grad()
def _mean_loss(
    extractor: FeatureExtractor, images: Tensor, texts: Tensor, pairs: Sequence[tuple[int, int]]
) -> float:
    """Compute the mean loss: the sigmoid loss for a model with a logit bias, otherwise the softmax loss."""
    scale, bias = extractor.logit_scale_and_bias()
    total = 0.0
    for start in range(0, len(pairs), extractor.batch_size):
        rows, columns = zip(*pairs[start : start + extractor.batch_size], strict=True)
        image, text = images[list(rows)], texts[list(columns)]
        if bias is None:
            loss = ClipLoss()(image, text, image.new_tensor(scale))
        else:
            loss = SigLipLoss()(image, text, image.new_tensor(scale), image.new_tensor(bias))
        total += len(rows) * float(loss)
    return total / len(pairs)


def _image_key(image: ImageSource, row: int) -> Hashable:
    """Return a key that is equal for equal paths; images that are not paths are all different."""
    return os.path.normpath(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else row
