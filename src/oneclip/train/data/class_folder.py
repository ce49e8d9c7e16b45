"""A folder of classes to samples: each image with prompts that name its class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from oneclip.evaluate.image_folder import read_classes
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.text.prompts import Template, prompts
from oneclip.train.data.samples import LABEL, SAME, Sample, Samples, number_of


class ClassSamples(Samples):
    """The images of FOLDER/CLASS/image. Images of one class are no negatives of each other.

    Args:
        folder: as `oneclip evaluate` takes it.
        templates: prompts with `{}` where the name of the class goes, of which one is drawn each time.

    Attributes:
        classes: their names; `Batch.extra["label"]` counts them.

    Raises:
        DataError: if there are fewer than two classes, or one without images.
    """

    extras = (SAME, LABEL)

    def __init__(self, folder: str | Path, templates: Sequence[Template] = SIMPLE_TEMPLATES) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._pictures, self._labels, self.classes, not_read = read_classes(self.folder)
        self.not_read.update(not_read)
        self._captions = [prompts(name, templates) for name in self.classes]

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, number: int) -> Sample:
        label = self._labels[number]
        extra = {SAME: number_of(self.classes[label]), LABEL: label}
        return Sample(Path(self._pictures[number]), self._captions[label], extra)

    def name(self, number: int) -> str:
        return self._pictures[number]

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        digest = hashlib.sha256()
        for picture in self._pictures:
            digest.update(f"{Path(picture).relative_to(self.folder)}\0".encode("utf-8", "surrogateescape"))
        digest.update("\0".join(self._captions[0]).encode())
        return {"data": digest.hexdigest()[:16], "samples": len(self)}
