"""Data set of an evaluation: samples of one or several splits, class names and templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from oneclip.embed.items import Failure, Item
from oneclip.errors import DataError
from oneclip.hub.file_types import UnsupportedFiles
from oneclip.text.prompts import Template

Kind = Literal["classes", "multilabel", "captions", "caption_selection"]
Templates = Sequence[Template] | Mapping[str, Sequence[str]]
"""Prompt templates for all classes, or whole prompts for each class name."""


@dataclass(frozen=True)
class Sample:
    """Image of a data set, with what is known about it.

    Attributes:
        item: the image; `item.read()` may be called several times.
        label: index of its class; -1 if it has none.
        labels: of a multilabel data set, the indices of all its classes.
        texts: of captions, those of this image; of caption selection, the captions of its instance.
        group: value of the column that divides the images into groups; "" if there is none.
        instance: of caption selection, the number of its instance; images of one instance follow each other, and the
            image at position i of an instance belongs to caption i.
    """

    item: Item
    label: int = -1
    labels: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    group: str = ""
    instance: int = -1


class LazySplit:
    """Split whose samples are listed whenever it is iterated.

    Args:
        name: of the split and its data set, for messages.
        list_samples: returns an iterator over all samples.

    Raises:
        DataError: on iterating, if there are no samples.
    """

    def __init__(self, name: str, list_samples: Callable[[], Iterator[Sample | Failure]]) -> None:
        self._name, self._list_samples = name, list_samples

    def __iter__(self) -> Iterator[Sample | Failure]:
        is_empty = True
        for sample in self._list_samples():
            is_empty = False
            yield sample
        if is_empty:
            raise DataError(f"{self._name} has no images; expected at least one")


@dataclass
class EvaluationDataset:
    """Images to evaluate on.

    Attributes:
        name: for tables and file names, such as "wds/imagenet1k" or "my_photos".
        kind: what a sample has: one class, several classes, captions, or captions of which one is right.
        splits: samples by the name of the split. "test" is always there and is what is evaluated; "train", "val" and
            others only if the data set has them. Each can be iterated several times, in the same order, and yields a
            `Failure` for what cannot be listed.
        classes: names of the C classes; empty for captions.
        templates: of the data set itself; None for those that the caller chooses.
        language: of class names and captions.
        source: where it comes from, for messages and reports.
        not_read: images and videos in formats that are not read; complete after iterating.
    """

    name: str
    kind: Kind
    splits: Mapping[str, Iterable[Sample | Failure]]
    classes: list[str] = field(default_factory=list)
    templates: Templates | None = None
    language: str = "en"
    source: str = ""
    not_read: UnsupportedFiles = field(default_factory=UnsupportedFiles)

    def split(self, name: str) -> Iterable[Sample | Failure]:
        """Return a split by its name.

        Raises:
            DataError: if the data set does not have it.
        """
        if name not in self.splits:
            raise DataError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]


USUAL_SPLITS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
"""Other names of splits, and how they are called here."""


def arrange_splits(
    found: Mapping[str, Iterable[Sample | Failure]], wanted: str | None, source: str
) -> dict[str, Iterable[Sample | Failure]]:
    """Choose the split to evaluate, and call it "test".

    Args:
        found: splits by the names that the data set gives them; "" for a data set without splits.
        wanted: name of the split to evaluate; None for "test", without it "val", or the only split.
        source: for messages.

    Raises:
        DataError: if the wanted split is missing, or none was named and there are several others.
    """
    by_name = {USUAL_SPLITS.get(name.lower(), name) or "test": samples for name, samples in found.items()}
    has = ", ".join(name or "no splits" for name in found) or "none"
    if wanted is not None:
        chosen = USUAL_SPLITS.get(wanted.lower(), wanted)
        if chosen not in by_name:
            raise DataError(f"{source} has no split {wanted!r}; available: {has}")
    else:
        chosen = next((name for name in ("test", "val") if name in by_name), next(iter(by_name), ""))
        if chosen not in ("test", "val") and len(by_name) != 1:
            raise DataError(f"{source} has no split 'test'; choose one of {has}")
    others = {name: samples for name, samples in by_name.items() if name not in (chosen, "test")}
    return {**others, "test": by_name[chosen]}
