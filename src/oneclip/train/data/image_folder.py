"""Training data from a folder of classes: each image with prompts that name its class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from oneclip.evaluate.image_folder import read_classes
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.text.prompts import Template, fill_templates
from oneclip.train.data.dataset import LABEL, SAME, PairDataset, Sample, stable_id


class ImageFolderDataset(PairDataset):
    """The images of FOLDER/CLASS/IMAGE. Images of one class are not negatives of each other.

    Args:
        folder: in the layout that `oneclip evaluate` reads.
        templates: prompts with `{}` for the class name. One is drawn each time a sample is used.

    Attributes:
        classes: class names; `Batch.extra["label"]` is an index into them.

    Raises:
        DataError: if there are fewer than two classes, or a class has no images.
    """

    extras = (SAME, LABEL)

    def __init__(self, folder: str | Path, templates: Sequence[Template] = SIMPLE_TEMPLATES) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._images, self._labels, self.classes, not_read = read_classes(self.folder)
        self.not_read.update(not_read)
        self._captions = [fill_templates(name, templates) for name in self.classes]

    def __len__(self) -> int:
        return len(self._images)

    def read(self, number: int) -> Sample:
        label = self._labels[number]
        extra = {SAME: stable_id(self.classes[label]), LABEL: label}
        return Sample(Path(self._images[number]), self._captions[label], extra)

    def name(self, number: int) -> str:
        return self._images[number]

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(f"{Path(image).relative_to(self.folder)}\0".encode("utf-8", "surrogateescape"))
        digest.update("\0".join(self._captions[0]).encode())
        return {"data": digest.hexdigest()[:16], "samples": len(self)}
