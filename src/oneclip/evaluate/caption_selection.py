"""Caption selection: which of a few captions belongs to which of a few images, as in Winoground and SugarCrepe.

Shapes: I images and T captions of an instance, D joint embedding.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import torch

from oneclip.errors import DataError
from oneclip.evaluate.classification import check_not_empty
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import EncodedSplit, Score, TextEncoder
from oneclip.evaluate.recall import ranks
from oneclip.evaluate.statistics import bootstrap_interval


def score_caption_selection(
    dataset: EvaluationDataset, split: EncodedSplit, text: TextEncoder, *, compat: bool = False
) -> Score:
    """Match the captions and images of each instance (Thrush et al. 2022, section 3.2).

    Args:
        dataset: for its name.
        split: images; those of an instance follow each other. If one of them could not be read, the instance is left
            out.
        text: the text side of the model.
        compat: compute exactly as CLIP_benchmark, where the first wins a tie; otherwise nobody does.

    Returns:
        shares of instances: `image_acc`, each caption is most similar to its image; `text_acc`, each image is most
        similar to its caption; `acc`, both. With a single image in each instance, `image_acc` is always 1.

    Raises:
        DataError: if there are no images, or an instance has no captions.
    """
    check_not_empty(dataset, split)
    sizes = Counter(sample.instance for sample in split.samples)
    size = max(sizes.values())
    captions = list(dict.fromkeys(caption for sample in split.samples for caption in sample.texts))
    if not captions:
        raise DataError(f"the images of {dataset.name} have no captions; expected those of their instance")
    row = {caption: i for i, caption in enumerate(captions)}
    texts = torch.from_numpy(text.encode(captions))
    correct: list[tuple[bool, bool]] = []
    for _, members in groupby(range(len(split)), lambda i: split.samples[i].instance):
        rows = list(members)
        choices = split.samples[rows[0]].texts
        if len(rows) < size or not choices:
            continue
        images = torch.tensor(split.embeddings[rows])
        similarity = images @ texts[[row[caption] for caption in choices]].T  # (I, T)
        pairs = min(similarity.shape)
        if compat:
            expected = torch.arange(pairs)
            text_found = torch.equal(similarity.argmax(dim=1)[:pairs], expected)
            image_found = torch.equal(similarity.argmax(dim=0)[:pairs], expected)
        else:
            text_found = bool((ranks(similarity[:pairs]) == 0).all())
            image_found = bool((ranks(similarity.T[:pairs]) == 0).all())
        correct.append((image_found, text_found))
    if not correct:
        raise DataError(f"no instance of {dataset.name} has all of its {size} images and its captions")
    image, caption = np.array(correct, dtype=np.float64).T
    items = {"image_acc": image, "text_acc": caption, "acc": image * caption}
    metrics = {name: float(values.mean()) for name, values in items.items()}
    intervals = {name: bootstrap_interval(values) for name, values in items.items()}
    details = {"instances": len(correct), "incomplete_instances": len(sizes) - len(correct)}
    return Score(metrics, "acc", items, intervals, details=details)
