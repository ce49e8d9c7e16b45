"""Retrieval: find images by text, and texts by image.

Shapes: P images, C texts, D joint embedding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.classification import check_not_empty
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import Embeddings, EncodedSplit, Score, TextEncoder
from oneclip.evaluate.feature_extractor import FeatureExtractor
from oneclip.evaluate.recall import Vectors, first_ranks, top_candidates
from oneclip.evaluate.statistics import bootstrap_interval
from oneclip.hub.pairs import CaptionPairs, with_existing_images
from oneclip.image import ImageSource
from oneclip.losses import ClipLoss, SigLipLoss

KINDS = ("image", "text")  # of what is found


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
        check_recall_at(at)
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
            `image_retrieval_recall@k` (by text), `text_retrieval_recall@k` (by image), and `mean_recall@k`, their
            mean at the smallest k.

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
        ranked = dict(zip(KINDS, pair_ranks(images, texts, pairs), strict=True))
        for kind, candidates in zip(KINDS, (images, texts), strict=True):
            for k in [k for k in self.at if k < len(candidates)] or [1]:
                recalls[f"{kind}_retrieval_recall@{k}"] = float((ranked[kind] < k).double().mean())
        least = min(self.at)
        both = [recalls.get(f"{kind}_retrieval_recall@{least}", 1.0) for kind in KINDS]
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


def score_retrieval(
    dataset: EvaluationDataset,
    split: EncodedSplit,
    text: TextEncoder,
    *,
    at: Sequence[int] = (1, 5, 10),
    compat: bool = False,
) -> Score:
    """Evaluate retrieval of images by text and of texts by image.

    Args:
        dataset: for its name.
        split: P images with their captions; an image without captions only distracts.
        text: the text side of the model.
        at: the values of k.
        compat: compute exactly as CLIP_benchmark, where equal captions of two images are different texts, and the order
            of ties is torch's. Otherwise equal captions are one text, for which each of their images is correct, and
            what ties with the right answer counts as ranked before it.

    Returns:
        `image_retrieval_recall@k`, the share of texts with one of their images among the k most similar, and
        `text_retrieval_recall@k`, the share of images with one of their texts there; NaN if k is larger than the
        number of candidates. Items and intervals are over images: the texts of one image are resampled together.

    Raises:
        ConfigError: for an invalid k.
        DataError: if there are no images or captions.
    """
    check_recall_at(at)
    check_not_empty(dataset, split)
    captions = [(caption, row) for row, sample in enumerate(split.samples) for caption in sample.texts]
    if not captions:
        raise DataError(f"the images of {dataset.name} have no captions; expected at least one")
    texts = list(dict.fromkeys(caption for caption, _ in captions))
    column = {caption: i for i, caption in enumerate(texts)}
    embeddings = text.encode(texts)
    pairs = [(row, column[caption]) for caption, row in captions]
    found = _hits_by_topk if compat else _hits_by_rank
    metrics: dict[str, float] = {}
    items: dict[str, NDArray[np.float64]] = {}
    for name, hits, images in found(split.embeddings, embeddings, pairs, at):
        counts = np.bincount(images, minlength=len(split))
        sums = np.bincount(images, weights=hits, minlength=len(split))[counts > 0]
        metrics[name] = float(hits.mean())
        items[name] = sums * len(sums) / len(hits)  # their mean is that of the hits
    missing = dict.fromkeys(recall_names(at), math.nan)
    intervals = {name: bootstrap_interval(values) for name, values in items.items()}
    details = {"images": len(split), "texts": len(captions) if compat else len(texts)}
    return Score(missing | metrics, recall_names(at)[0], items, intervals, details=details)


def recall_names(at: Sequence[int]) -> list[str]:
    """Return the names of the metrics, image and text retrieval in turn, from the smallest k."""
    return [f"{kind}_retrieval_recall@{k}" for k in sorted(at) for kind in ("image", "text")]


def check_recall_at(at: Sequence[int]) -> None:
    """Raise ConfigError if values of k are not valid."""
    if not at or min(at) < 1:
        raise ConfigError(f"at is {tuple(at)}; expected values of k, each at least 1")


def pair_ranks(images: Vectors, texts: Vectors, pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Rank the best image of each text (C,) and the best text of each image (P,); see `first_ranks`.

    Args:
        images: (P, D).
        texts: (C, D).
        pairs: (image, text) that belong together.
    """
    of_text: list[list[int]] = [[] for _ in range(len(texts))]
    of_image: list[list[int]] = [[] for _ in range(len(images))]
    for image, text in pairs:
        of_text[text].append(image)
        of_image[image].append(text)
    return first_ranks(texts, images, of_text), first_ranks(images, texts, of_image)


Hits = Iterator[tuple[str, NDArray[np.float64], NDArray[np.int64]]]
"""Name of a metric, whether each query found what belongs to it, and the row of each query's image."""


def _hits_by_rank(
    images: Embeddings, texts: Embeddings, pairs: Sequence[tuple[int, int]], at: Sequence[int]
) -> Hits:
    text_ranks, image_ranks = (ranks.numpy() for ranks in pair_ranks(images, texts, pairs))
    image_of_text = {text: image for image, text in reversed(pairs)}
    owner = np.array([image_of_text[text] for text in range(len(texts))])
    described = np.unique([image for image, _ in pairs])  # images with texts
    for k in at:
        if k <= len(images):
            yield f"image_retrieval_recall@{k}", (text_ranks < k).astype(np.float64), owner
        if k <= len(texts):
            yield f"text_retrieval_recall@{k}", (image_ranks[described] < k).astype(np.float64), described


def _hits_by_topk(
    images: Embeddings, texts: Embeddings, pairs: Sequence[tuple[int, int]], at: Sequence[int]
) -> Hits:
    rows, columns = np.array(pairs).T
    texts = texts[columns]  # one for each caption, also for equal ones
    everyone = np.arange(len(images))
    for kind, queries, candidates, query_image, candidate_image in (
        ("image", texts, images, rows, everyone),
        ("text", images, texts, everyone, rows),
    ):
        defined = [k for k in at if k <= len(candidates)]
        parts = list(top_candidates(queries, candidates, defined))
        for i, k in enumerate(defined):
            found = torch.cat([part[i] for part in parts]).numpy()
            hits = (candidate_image[found] == query_image[:, None]).any(axis=1)
            yield f"{kind}_retrieval_recall@{k}", hits.astype(np.float64), query_image
