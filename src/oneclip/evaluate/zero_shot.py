"""Names of classes and prompts to the weights of a classifier that has seen no examples.

Shapes: C classes, T templates, B captions of a batch, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from oneclip.engine import mean_features
from oneclip.errors import TextError
from oneclip.text.prompts import Template, prompts

Batches: TypeAlias = Iterable[list[list[str]]]


def zero_shot_classifier(
    encode: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[Template],
    *,
    names_per_batch: int | None = 10,
    progress: Callable[[Batches], Batches] = iter,
) -> Tensor:
    """Average each class over its prompts (Radford et al. 2021, section 3.1.4).

    Features of pictures, (N, D) of unit length, times the result are cosines (N, C).

    Args:
        encode: captions to (B, D) features, which are normalised here.
        names: of the C classes.
        templates: T strings with `{}` where the name goes, or functions of the name.
        names_per_batch: how many classes are encoded together, each with all its prompts; None for all.
        progress: wraps the batches, to show how far it is; each is a list of the captions of its classes.

    Returns:
        (D, C), each column of unit length; no gradient.

    Raises:
        TextError: if there are no names, no templates, or a template has no place for the name.
    """
    if isinstance(names, str) or not len(names):
        raise TextError(f"names is {names!r}, and must be a list with at least one")
    captions = [prompts(name, templates) for name in names]
    size = len(captions) if names_per_batch is None else names_per_batch
    if size < 1:
        raise TextError(f"names_per_batch is {names_per_batch} and must be at least 1, or None for all")
    batches = [captions[start : start + size] for start in range(0, len(captions), size)]
    with torch.no_grad():
        features = [
            mean_features(encode([text for row in batch for text in row]), len(batch))
            for batch in progress(batches)
        ]
    return torch.cat(features).T
