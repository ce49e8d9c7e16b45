"""Build a zero-shot classifier from class names and prompt templates.

Shapes: C classes, T templates, B texts of a batch, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from oneclip.engine import mean_class_embeddings
from oneclip.errors import TextError
from oneclip.text.prompts import Template, fill_templates

TextBatches: TypeAlias = Iterable[list[list[str]]]


def zero_shot_classifier(
    encode: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[Template],
    *,
    names_per_batch: int | None = 10,
    progress: Callable[[TextBatches], TextBatches] = iter,
) -> Tensor:
    """Average each class over its prompts (Radford et al. 2021, section 3.1.4).

    The cosines (N, C) are the unit-length image embeddings (N, D) times the result.

    Args:
        encode: texts to (B, D) features, which are normalized here.
        names: of the C classes.
        templates: T strings with `{}` in place of the name, or functions of the name.
        names_per_batch: how many classes are encoded together, each with all its prompts; None for all.
        progress: wraps the batches, to show progress; a batch has a list of texts for each of its classes.

    Returns:
        (D, C), each column of unit length; no gradient.

    Raises:
        TextError: if there are no names or no templates, or a template has no placeholder.
    """
    if isinstance(names, str) or not len(names):
        raise TextError(f"names is {names!r}; expected a list with at least one name")
    texts = [fill_templates(name, templates) for name in names]
    size = len(texts) if names_per_batch is None else names_per_batch
    if size < 1:
        raise TextError(f"names_per_batch is {names_per_batch}; expected at least 1, or None for all")
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    with torch.no_grad():
        embeddings = [
            mean_class_embeddings(encode([text for row in batch for text in row]), len(batch))
            for batch in progress(batches)
        ]
    return torch.cat(embeddings).T
