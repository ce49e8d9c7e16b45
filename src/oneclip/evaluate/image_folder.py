"""Zero-shot classification of images in class folders.

Shapes: N images, C classes, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from oneclip.errors import DataError
from oneclip.evaluate.feature_extractor import FeatureExtractor
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.evaluate.recall import first_ranks
from oneclip.evaluate.zero_shot import zero_shot_classifier
from oneclip.hub.file_types import UnsupportedFiles, split_images, walk_files
from oneclip.image import ImageSource
from oneclip.text.prompts import Template


class Classification:
    """Zero-shot classification task: predict the class with the most similar prompts.

    See Radford et al. 2021, section 3.1.

    Args:
        name: of the task.
        images: N of them.
        labels: the class of each image, as an index into `classes`.
        classes: C different names.
        templates: prompts with `{}` in place of the class name; a class is the mean over its prompts.

    Attributes:
        per_class: accuracy of each class in the last call.
        skipped: images that could not be read in the last call, with the reason.
        not_read: images and videos of the folder in formats that are not read.

    Raises:
        DataError: if there are no images, fewer than two classes, or two classes with the same name.
    """

    headline = "acc1"

    def __init__(
        self,
        name: str,
        images: Sequence[ImageSource],
        labels: Sequence[int],
        classes: Sequence[str],
        *,
        templates: Sequence[Template] = SIMPLE_TEMPLATES,
    ) -> None:
        if len(set(classes)) < 2 or len(set(classes)) < len(classes):
            raise DataError(
                f"{name} has the classes {', '.join(map(repr, classes[:5])) or 'none'}; expected at least two, "
                "with different names"
            )
        if not images:
            raise DataError(f"{name} has no images to evaluate on")
        self.name, self.templates = name, templates
        self.images, self.labels, self.classes = list(images), list(labels), list(classes)
        self.skipped: dict[str, str] = {}
        self.per_class: dict[str, float] = {}
        self.not_read = UnsupportedFiles()

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, templates: Sequence[Template] = SIMPLE_TEMPLATES
    ) -> Classification:
        """Read FOLDER/CLASS/image, at any depth below CLASS; underscores in a class name are spaces.

        Raises:
            DataError: if there are fewer than two classes, or a class has no images.
        """
        folder = Path(folder)
        images, labels, classes, not_read = read_classes(folder)
        task = cls(folder.name or str(folder), images, labels, classes, templates=templates)
        task.not_read = not_read
        return task

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, extractor: FeatureExtractor) -> dict[str, float]:
        """Evaluate a model.

        Returns:
            `acc1` and, with at least five classes, `acc5`: accuracy, where a class that ties with the right one
            counts as ranked before it; `mean_per_class_recall`: the mean of `acc1` over the classes.

        Raises:
            DataError: if no image can be read.
        """
        embeddings, kept, skipped = extractor.encode_images(self.images)
        self.skipped = {one.name: str(one.error) for one in skipped}
        if not kept:
            raise DataError(
                f"none of the {len(self.images)} images of {self.name} can be read: {skipped[0].error}"
            )
        weights = zero_shot_classifier(extractor.encode_texts, self.classes, self.templates)  # (D, C)
        labels = [self.labels[i] for i in kept]
        rank = first_ranks(embeddings, weights.T, [[label] for label in labels])
        correct = (rank == 0).double()
        class_ids = torch.tensor(labels)
        self.per_class = {
            name: float(correct[class_ids == i].mean())
            for i, name in enumerate(self.classes)
            if (class_ids == i).any()
        }
        acc5 = {"acc5": float((rank < 5).double().mean())} if len(self.classes) >= 5 else {}
        mean = sum(self.per_class.values()) / len(self.per_class)
        return {"acc1": float(correct.mean())} | acc5 | {"mean_per_class_recall": mean}


def read_classes(folder: Path) -> tuple[list[str], list[int], list[str], UnsupportedFiles]:
    """List the images of a folder of classes.

    Returns:
        paths, the class index of each, class names, and the images and videos in formats that are not read.

    Raises:
        DataError: if there are fewer than two classes, or a class has no images.
    """
    folders = class_folders(folder)
    images: list[str] = []
    labels: list[int] = []
    not_read = UnsupportedFiles()
    for label, path in enumerate(folders):
        found = images_of_class(path, not_read)
        images += found
        labels += [label] * len(found)
    if len(folders) < 2:
        raise DataError(
            f"{folder} has {len(folders)} folder{'s' * (len(folders) != 1)}; expected one folder of images for each of "
            "two or more classes, or a table of images and captions"
        )
    return images, labels, [class_name(path.name) for path in folders], not_read


def has_classes(folder: Path) -> bool:
    """Return True if the first folder inside `folder` contains images."""
    return any(split_images(walk_files(path))[0] for path in class_folders(folder)[:1])


def class_folders(folder: Path) -> list[Path]:
    """Return the folders inside a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def class_name(folder: str) -> str:
    """Return the class that a folder is named for: underscores are spaces."""
    return folder.replace("_", " ").strip()


def images_of_class(folder: Path, not_read: UnsupportedFiles) -> list[str]:
    """List the images of one class, sorted, and add the files in other formats to `not_read`.

    Raises:
        DataError: if there are no images.
    """
    found, unsupported = split_images(walk_files(folder))
    not_read.update(unsupported)
    if not found:
        raise DataError(
            f"the class {folder} has no images (.jpg, .png, .webp, …); remove the folder, or add images"
            + (f". {unsupported.sentence}" if unsupported else "")
        )
    return found
