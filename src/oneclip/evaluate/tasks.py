"""Evaluation tasks: data, and the metrics of a model on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oneclip.errors import DataError
from oneclip.evaluate.feature_extractor import FeatureExtractor, ModuleAdapter
from oneclip.evaluate.image_folder import Classification
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.evaluate.retrieval import Retrieval
from oneclip.hub.pairs import read_pairs
from oneclip.image import Preprocess
from oneclip.text.prompts import Template


class Task(Protocol):
    """Data that a model is evaluated on.

    Attributes:
        name: in tables and files.
        headline: the key of the main metric; higher is better.
        skipped: images that could not be used in the last call, with the reason.
    """

    name: str
    headline: str
    skipped: dict[str, str]

    def __call__(self, extractor: FeatureExtractor) -> dict[str, float]:
        """Return the metrics of a model."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
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
    """Open a table of images and captions as retrieval, or a folder of classes as zero-shot classification.

    Args:
        source: a CSV or Parquet file, or a folder with one folder of images per class.
        images: what paths in a table are relative to; None for the table's folder.
        image_column, caption_column, separator: see `oneclip.hub.pairs.read_pairs`.
        templates: for classes; see `oneclip.evaluate.zero_shot_classifier`.
        skip_missing: leave out images that a table names and that do not exist, instead of raising.

    Raises:
        DataError: if it is neither, or has nothing to evaluate on.
        MissingExtraError: for Parquet without pyarrow.
    """
    source = Path(source)
    if source.is_dir():
        return Classification.from_folder(source, templates=templates)
    if not source.exists():
        raise DataError(
            f"{source} does not exist; expected a table of images and captions (.csv, .tsv, .parquet), or a folder "
            "with one folder of images per class"
        )
    pairs = read_pairs(source, image_column=image_column, caption_column=caption_column, separator=separator)
    return Retrieval.from_pairs(
        pairs, images if images is not None else source.parent, skip_missing=skip_missing
    )


class TaskSuite:
    """Several tasks as one, whose main metric is the mean of theirs.

    Args:
        name: of the suite.
        tasks: with different names.
    """

    headline = "mean"

    def __init__(self, name: str, tasks: Sequence[Task]) -> None:
        self.name, self.tasks = name, tasks
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return sum(map(len, self.tasks))

    def __call__(self, extractor: FeatureExtractor) -> dict[str, float]:
        """Return `mean`, and the metrics of each task as `TASK/METRIC`."""
        results = {task.name: task(extractor) for task in self.tasks}
        self.skipped = {name: why for task in self.tasks for name, why in task.skipped.items()}
        mean = sum(results[task.name][task.headline] for task in self.tasks) / len(self.tasks)
        each = {f"{task}/{key}": value for task, found in results.items() for key, value in found.items()}
        return {self.headline: mean} | each


class EvaluationHook:
    """Callable for `Trainer(evaluate=…)` that evaluates the model in training on a task.

    Args:
        task: what to evaluate on.
        preprocess, tokenize: those of the model, as after training.
        batch_size, device, computing: see `ModuleAdapter`.
        shared: wraps the extractor in one that shares the work among processes.
        options: further arguments of `ModuleAdapter`.
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
        shared: Callable[[FeatureExtractor], FeatureExtractor] | None = None,
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
        """Images that could not be read, with the reason."""
        return self.task.skipped

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Evaluate a model in evaluation mode."""
        extractor: FeatureExtractor = ModuleAdapter(model, **self._options)
        return self.task(self._shared(extractor) if self._shared is not None else extractor)
