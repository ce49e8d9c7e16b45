"""Data set of an evaluation: samples of one or several splits, class names and templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from oneclip.embed.items import Failure, Item
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


@dataclass
class EvaluationDataset:
    """Images to evaluate on.

    Attributes:
        name: for tables and file names, such as "wds/imagenet1k" or "my_photos".
        kind: what a sample has: one class, several classes, captions, or captions of which one is right.
        splits: samples by the name of the split, "train", "val" or "test"; each can be iterated several times, in the
            same order, and yields a `Failure` for what cannot be listed.
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
