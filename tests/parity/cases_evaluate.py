"""Small data sets of every task and a model with random weights; both sides of a comparison run this file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from parity_weights import fill, random_images
from torch import Tensor, nn
from torch.nn import functional as F

VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32}
TEXT = {"layers": 1, "width": 32, "heads": 2}
IMAGES, PIXELS, BATCH = 240, 32, 50
DESCRIBED = 40  # the images that have captions for retrieval, so that chance finds some
CLASSES = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cat", "house", "boat")]
TEMPLATES = ["a photo of a {}.", "{}", "a drawing of the {}"]
PROMPTS = {name: [f"the {name} of {i}" for i in range(1 + len(name) % 3)] for name in CLASSES}
AT = (1, 5, 10)


def build_model(package: Any) -> nn.Module:
    """Build a tiny CLIP whose weights depend only on their names and shapes."""
    model = package.CLIP(24, package.CLIPVisionCfg(**VISION), package.CLIPTextCfg(**TEXT)).eval()
    fill(model)
    return model


def labels(classes: int) -> list[int]:
    """Return a class for each image; the last class has no image, and the first many."""
    draw = random.Random(3)
    return [draw.choice([0, 0, *range(classes - 1)]) for _ in range(IMAGES)]


def label_sets() -> Tensor:
    """Return (IMAGES, C) with 1 for each class of an image; the last class has no image."""
    sets = torch.rand(IMAGES, len(CLASSES), generator=torch.Generator().manual_seed(5)) < 0.3
    sets[:, -1] = False
    return sets.int()


def captions() -> list[list[str]]:
    """Return one to three different captions for each image; three images share one."""
    draw = random.Random(7)
    texts = [[f"{draw.choice(CLASSES)} {row} {i}" for i in range(1 + row % 3)] for row in range(DESCRIBED)]
    texts[3][0] = texts[17][0] = texts[30][0]
    return texts


def of_clip_benchmark(open_clip: Any) -> dict[str, dict[str, float]]:
    """Return the metrics of CLIP_benchmark for each task."""
    from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval

    model, images = build_model(open_clip), random_images(IMAGES, PIXELS)

    def classify(names: Sequence[str], targets: Sequence[int] | Tensor, prompts: Any) -> dict[str, float]:
        batches = list(zip(images.split(BATCH), torch.as_tensor(targets).split(BATCH), strict=True))
        loader = Batches(batches, names)
        found: dict[str, float] = zeroshot_classification.evaluate(
            model, loader, open_clip.tokenize, names, prompts, "cpu", amp=False
        )
        return found

    def select(images_of_one: int) -> dict[str, float]:
        shape = (-1, images_of_one, *images.shape[1:]) if images_of_one > 1 else images.shape
        pairs = image_captions(images_of_one)
        batches = [(part, pairs[i * 9 : i * 9 + 9]) for i, part in enumerate(images.reshape(shape).split(9))]
        found: dict[str, float] = image_caption_selection.evaluate(
            model, batches, open_clip.tokenize, "cpu", amp=False
        )
        return found

    theirs = [template.replace("{}", "{c}") for template in TEMPLATES]
    texts = captions()
    parts = images[:DESCRIBED].split(9)
    batches = [(part, texts[i * 9 : (i + 1) * 9]) for i, part in enumerate(parts)]
    return {
        "classes": classify(CLASSES, labels(len(CLASSES)), theirs),
        "five classes": classify(CLASSES[:5], labels(5), theirs),
        "three classes": classify(CLASSES[:3], labels(3), theirs),
        "prompts of each class": classify(CLASSES, labels(len(CLASSES)), PROMPTS),
        "multilabel": classify(CLASSES, label_sets(), theirs),
        "retrieval": zeroshot_retrieval.evaluate(
            model, batches, open_clip.tokenize, "cpu", amp=False, recall_k_list=list(AT)
        ),
        "two images and captions": select(2),
        "an image and two captions": select(1),
    }


def of_oneclip(open_clip: Any) -> dict[str, dict[str, float]]:
    """Return our metrics with `compat` for each task."""
    from oneclip.embed.items import Item
    from oneclip.evaluate.caption_selection import score_caption_selection
    from oneclip.evaluate.data import EvaluationDataset, Sample
    from oneclip.evaluate.encoded import EncodedSplit, Score, TextEncoder
    from oneclip.evaluate.multilabel import score_multilabel
    from oneclip.evaluate.retrieval import score_retrieval
    from oneclip.evaluate.zero_shot import score_zero_shot

    model = build_model(open_clip)

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Any:
        return F.normalize(model.encode_text(open_clip.tokenize(list(texts))), dim=-1).numpy()

    with torch.no_grad():
        images = F.normalize(model.encode_image(random_images(IMAGES, PIXELS)), dim=-1).numpy()
    text = TextEncoder(encode, model.logit_scale.exp().item())

    def score(
        kind: Any,
        task: Callable[..., Score],
        of_sample: Iterator[Any],
        classes: Any = CLASSES,
        **options: Any,
    ) -> dict[str, float]:
        samples = [Sample(Item(f"{row}.png", bytes), **changes) for row, changes in enumerate(of_sample)]
        dataset = EvaluationDataset("generated", kind, {"test": samples}, list(classes))
        return task(
            dataset, EncodedSplit(images[: len(samples)], samples), text, compat=True, **options
        ).metrics

    def classify(classes: Sequence[str], templates: Any = TEMPLATES) -> dict[str, float]:
        targets = ({"label": label} for label in labels(len(classes)))
        return score("classes", score_zero_shot, targets, classes, templates=templates)

    def select(images_of_one: int) -> dict[str, float]:
        pairs = image_captions(images_of_one)
        instances = (
            {"instance": row // images_of_one, "texts": tuple(pairs[row // images_of_one])}
            for row in range(IMAGES)
        )
        return score("caption_selection", score_caption_selection, instances, ())

    sets = ({"labels": tuple(np.flatnonzero(row).tolist())} for row in label_sets().numpy())
    return {
        "classes": classify(CLASSES),
        "five classes": classify(CLASSES[:5]),
        "three classes": classify(CLASSES[:3]),
        "prompts of each class": classify(CLASSES, PROMPTS),
        "multilabel": score("multilabel", score_multilabel, sets, templates=TEMPLATES),
        "retrieval": score(
            "captions", score_retrieval, ({"texts": tuple(texts)} for texts in captions()), (), at=AT
        ),
        "two images and captions": select(2),
        "an image and two captions": select(1),
    }


def image_captions(images_of_one: int) -> list[list[str]]:
    """Return two captions for each instance."""
    draw = random.Random(9)
    return [[f"{draw.choice(CLASSES)} {row} {i}" for i in range(2)] for row in range(IMAGES // images_of_one)]


class Batches(list[Any]):
    """Batches of images and targets, in place of a data loader.

    Args:
        batches: of the data set.
        classes: its class names.
    """

    def __init__(self, batches: list[Any], classes: Sequence[str]) -> None:
        super().__init__(batches)
        self.dataset = SimpleNamespace(classes=classes)
