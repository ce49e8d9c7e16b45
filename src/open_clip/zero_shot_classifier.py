"""`open_clip.zero_shot_classifier`: build zero-shot classifiers from class names and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from oneclip.evaluate import zero_shot_classifier

__all__ = ["build_zero_shot_classifier", "build_zero_shot_classifier_legacy"]

Item = TypeVar("Item")


def batched(iterable: Iterable[Item], n: int) -> Iterator[list[Item]]:
    """Yield items in lists of `n`; the last may be shorter."""
    items = iter(iterable)
    while batch := list(islice(items, n)):
        yield batch


def build_zero_shot_classifier(
    model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    classnames: Sequence[str],
    templates: Sequence[Callable[[str], str] | str],
    num_classes_per_batch: int | None = 10,
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> Tensor:
    """Compute the weights (D, C) of a zero-shot classifier, as `oneclip.evaluate.zero_shot_classifier` does.

    Args:
        model: a model with `encode_text`.
        tokenizer: converts texts to ids.
        classnames: names of the C classes.
        templates: functions of a class name, or strings with `{}`.
        num_classes_per_batch: number of classes encoded together; None or 0 for all.
        device: device of the ids.
        use_tqdm: show a progress bar.
    """

    def encode(texts: list[str]) -> Tensor:
        features: Tensor = model.encode_text(tokenizer(texts).to(device))
        return features

    return zero_shot_classifier(
        encode,
        classnames,
        templates,
        names_per_batch=num_classes_per_batch or None,
        progress=_progress_bar(num_classes_per_batch or len(classnames)) if use_tqdm else iter,
    )


def build_zero_shot_classifier_legacy(
    model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    classnames: Sequence[str],
    templates: Sequence[Callable[[str], str] | str],
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> Tensor:
    """Compute the classifier as `build_zero_shot_classifier` does, one class at a time."""
    return build_zero_shot_classifier(model, tokenizer, classnames, templates, 1, device, use_tqdm)


def _progress_bar(classes_per_batch: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
    from tqdm import tqdm  # installed with huggingface_hub

    return lambda batches: tqdm(batches, unit_scale=classes_per_batch)
