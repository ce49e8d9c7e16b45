"""`open_clip.zero_shot_classifier`: a model, a tokenizer, names and prompts to the weights of a classifier."""

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
    """Items in lists of `n`, the last perhaps shorter."""
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
    """Weights (D, C) of a zero-shot classifier, as `oneclip.evaluate.zero_shot_classifier`.

    Args:
        model: has `encode_text`.
        tokenizer: captions to ids.
        classnames: the C classes.
        templates: functions of a name, or strings with `{}` in them.
        num_classes_per_batch: classes encoded together; None or 0 for all.
        device: where the ids go.
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
        progress=_bar(num_classes_per_batch or len(classnames)) if use_tqdm else iter,
    )


def build_zero_shot_classifier_legacy(
    model: Any,
    tokenizer: Callable[[list[str]], Tensor],
    classnames: Sequence[str],
    templates: Sequence[Callable[[str], str] | str],
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> Tensor:
    """The same, one class at a time."""
    return build_zero_shot_classifier(model, tokenizer, classnames, templates, 1, device, use_tqdm)


def _bar(classes_per_batch: int) -> Callable[[Iterable[Any]], Iterable[Any]]:
    from tqdm import tqdm  # huggingface_hub brings it

    return lambda batches: tqdm(batches, unit_scale=classes_per_batch)
