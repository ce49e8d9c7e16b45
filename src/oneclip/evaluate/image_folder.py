"""A folder with a folder of pictures for each class, to how often a model names the class of a picture.

Shapes: N pictures, C classes, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from oneclip.errors import DataError
from oneclip.evaluate.feature_extractor import Subject
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.evaluate.recall import first_ranks
from oneclip.evaluate.zero_shot import zero_shot_classifier
from oneclip.hub.file_types import NotRead, files_below, images_of
from oneclip.image.prefetch import Picture
from oneclip.text.prompts import Template


class Classification:
    """Zero-shot classification: the class whose prompts are most like a picture (Radford et al. 2021, section 3.1).

    Args:
        name: what it is called.
        pictures: N of them.
        labels: the class of each, by its place in `classes`.
        classes: C names, no two alike.
        templates: prompts with `{}` where the name goes, which a class is averaged over.

    Attributes:
        per_class: the share of each class's pictures that were right the last time.
        skipped: pictures that could not be read the last time, and why.
        not_read: images and videos of the folder that are not read here.

    Raises:
        DataError: if there are no pictures, or fewer than two classes.
    """

    headline = "top1"

    def __init__(
        self,
        name: str,
        pictures: Sequence[Picture],
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        templates: Sequence[Template] = SIMPLE_TEMPLATES,
    ) -> None:
        if len(set(classes)) < 2 or len(set(classes)) < len(classes):
            raise DataError(
                f"{name} has the classes {', '.join(map(repr, classes[:5])) or 'none'}; expected two or more, "
                "no two of one name"
            )
        if not pictures:
            raise DataError(f"{name} has no pictures to evaluate on")
        self.name, self.pictures, self.labels, self.classes = (
            name,
            list(pictures),
            list(labels),
            list(classes),
        )
        self.templates = templates
        self.skipped: dict[str, str] = {}
        self.per_class: dict[str, float] = {}
        self.not_read = NotRead()

    @classmethod
    def of_folder(
        cls, folder: str | Path, *, templates: Sequence[Template] = SIMPLE_TEMPLATES
    ) -> Classification:
        """FOLDER/CLASS/picture, however deep below the class; underscores in a class's name are spaces.

        Raises:
            DataError: if there are fewer than two classes, or one without pictures.
        """
        folder = Path(folder)
        pictures, labels, classes, not_read = read_classes(folder)
        task = cls(folder.name or str(folder), pictures, labels, classes, templates=templates)
        task.not_read = not_read
        return task

    def __len__(self) -> int:
        return len(self.pictures)

    def __call__(self, subject: Subject) -> dict[str, float]:
        """Evaluate a model.

        Returns:
            `top1` and, of more than five classes, `top5`: the share of pictures whose class is among so many
            first, ties counting as before it; `mean_per_class`, the mean over classes of their own `top1`.

        Raises:
            DataError: if no picture can be read.
        """
        images, kept, skipped = subject.pictures(self.pictures)
        self.skipped = {one.name: str(one.error) for one in skipped}
        if not kept:
            raise DataError(
                f"none of the {len(self.pictures)} pictures of {self.name} can be read: {skipped[0].error}"
            )
        weights = zero_shot_classifier(subject.captions, self.classes, self.templates)  # (D, C)
        labels = [self.labels[i] for i in kept]
        rank = first_ranks(images, weights.T, [[label] for label in labels])
        right = (rank == 0).double()
        of_class = torch.tensor(labels)
        self.per_class = {
            name: float(right[of_class == i].mean())
            for i, name in enumerate(self.classes)
            if (of_class == i).any()
        }
        top5 = {"top5": float((rank < 5).double().mean())} if len(self.classes) > 5 else {}
        mean = sum(self.per_class.values()) / len(self.per_class)
        return {"top1": float(right.mean())} | top5 | {"mean_per_class": mean}


def read_classes(folder: Path) -> tuple[list[str], list[int], list[str], NotRead]:
    """The images of a folder of classes, the class number of each, the names of the classes, and what is not read.

    Raises:
        DataError: if there are fewer than two classes, or one without images.
    """
    found = _class_folders(folder)
    pictures: list[str] = []
    labels: list[int] = []
    not_read = NotRead()
    for label, path in enumerate(found):
        inside, others = images_of(files_below(path))
        not_read.update(others)
        if not inside:
            raise DataError(
                f"the class {path} has no images (.jpg, .png, .webp, …); remove it, or fill it"
                + (f". {others.sentence}" if others else "")
            )
        pictures += inside
        labels += [label] * len(inside)
    if len(found) < 2:
        raise DataError(
            f"{folder} has {len(found)} folders; expected one folder of images for each of two or more classes, "
            "or the name of a table of images and captions"
        )
    return pictures, labels, [path.name.replace("_", " ").strip() for path in found], not_read


def has_classes(folder: Path) -> bool:
    """Whether a folder looks like one of classes: a first folder in it with images."""
    return any(images_of(files_below(path))[0] for path in _class_folders(folder)[:1])


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
