"""What a model can be evaluated on: a task is data and how a model's answers to it are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oneclip.errors import DataError
from oneclip.evaluate.feature_extractor import OfModule, Subject
from oneclip.evaluate.image_folder import Classification
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.evaluate.retrieval import Retrieval
from oneclip.hub.pairs import read_table
from oneclip.image import Preprocess
from oneclip.text.prompts import Template


class Task(Protocol):
    """Data that a model is evaluated on.

    Attributes:
        name: what it is called in tables and files.
        headline: the key of the one figure that stands for all; more is better.
        skipped: pictures that could not be used the last time, and why.
    """

    name: str
    headline: str
    skipped: dict[str, str]

    def __call__(self, subject: Subject) -> dict[str, float]:
        """The figures of a model."""
        ...

    def __len__(self) -> int:
        """How many pictures it has."""
        ...


def open_task(
    source: str | Path,
    *,
    images: str | Path | None = None,
    image_column: str = "filepath",
    caption_column: str = "caption",
    separator: str | None = None,
    templates: Sequence[Template] = SIMPLE_TEMPLATES,
    skip_missing: bool = False,
) -> Classification | Retrieval:
    """A table of pictures and captions to retrieval, a folder of classes to zero-shot classification.

    Args:
        source: a CSV or Parquet file, or a folder with a folder of pictures for each class.
        images: what paths of a table are relative to; None for the table's folder.
        image_column, caption_column, separator: see `oneclip.hub.pairs.read_table`.
        templates: for classes; see `oneclip.evaluate.zero_shot_classifier`.
        skip_missing: leave out pictures that a table names and that are not there, instead of raising.

    Raises:
        DataError: if it is neither, or has nothing to evaluate on.
        MissingExtraError: for Parquet without pyarrow.
    """
    source = Path(source)
    if source.is_dir():
        return Classification.of_folder(source, templates=templates)
    if not source.exists():
        raise DataError(
            f"{source} does not exist; expected a table of pictures and captions (.csv, .tsv, .parquet), or a folder "
            "with a folder of pictures for each class"
        )
    pairs = read_table(source, image_column=image_column, caption_column=caption_column, separator=separator)
    return Retrieval.of_pairs(
        pairs, images if images is not None else source.parent, skip_missing=skip_missing
    )


class Together:
    """Several tasks as one, whose headline is the mean of theirs.

    Args:
        name: of all of them.
        tasks: each with a name of its own.
    """

    headline = "mean"

    def __init__(self, name: str, tasks: Sequence[Task]) -> None:
        self.name, self.tasks = name, tasks
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return sum(map(len, self.tasks))

    def __call__(self, subject: Subject) -> dict[str, float]:
        """`mean`, and the figures of each task behind its name."""
        found = {task.name: task(subject) for task in self.tasks}
        self.skipped = {name: why for task in self.tasks for name, why in task.skipped.items()}
        mean = sum(found[task.name][task.headline] for task in self.tasks) / len(self.tasks)
        each = {f"{task}/{key}": value for task, results in found.items() for key, value in results.items()}
        return {self.headline: mean} | each


class HeldOut:
    """An `evaluate` hook for `oneclip.train.Trainer`: a task, and what it takes to show it to a model in training.

    Args:
        task: what to evaluate on.
        preprocess, tokenize: those of the model, as after training.
        shared: makes a subject one whose work several processes share.
        options: further arguments of `OfModule`.
    """

    def __init__(
        self,
        task: Task,
        preprocess: Preprocess,
        tokenize: Callable[[Sequence[str]], Tensor],
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        computing: Callable[[], AbstractContextManager[None]] = nullcontext,
        shared: Callable[[Subject], Subject] | None = None,
        **options: Any,
    ) -> None:
        self.task, self._shared = task, shared
        self._options: dict[str, Any] = {
            "preprocess": preprocess,
            "tokenize": tokenize,
            "batch_size": batch_size,
            "device": device,
            "computing": computing,
            **options,
        }

    @property
    def skipped(self) -> dict[str, str]:
        """Pictures that could not be read, and why."""
        return self.task.skipped

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Evaluate a model, which is in evaluation mode."""
        subject: Subject = OfModule(model, **self._options)
        return self.task(self._shared(subject) if self._shared is not None else subject)
