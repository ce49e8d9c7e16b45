"""Labels to the texts that stand for them, and logits to labels ranked by probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import TextError, TextTypeError
from oneclip.text.prompts import Template, prompts

Templates: TypeAlias = Template | Sequence[Template]


def label_prompts(labels: Sequence[str], templates: Templates | None = None) -> list[list[str]]:
    """Put each label into each template.

    Args:
        labels: what an image may show.
        templates: a sentence with `{}` where the label goes, such as "a photo of a {}", a function of the label, or
            several of these; None for the label alone.

    Returns:
        for each label, a text for each template.

    Raises:
        TextError: if there is no label, one is empty, or a template has no `{}` in it.
        TextTypeError: if a label is not a string, or a function gives none.
    """
    if not labels:
        raise TextError("no labels were given; give at least one")
    for place, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise TextTypeError(f"label {place} is not a string but {type(label).__name__}: {label!r}")
        if not label.strip():
            raise TextError(f"label {place} is empty; give words that describe an image")
    if templates is None:
        return [[label] for label in labels]
    several = [templates] if isinstance(templates, str) or callable(templates) else list(templates)
    return [prompts(label, several) for label in labels]


def check_distinct(labels: Sequence[str], ids: NDArray[np.integer[Any]]) -> None:
    """Refuse labels that the model cannot tell apart: they would share one probability.

    Args:
        labels: as given.
        ids: the token ids of each, (M, K).

    Raises:
        TextError: naming the two.
    """
    first: dict[bytes, int] = {}
    for index, tokens in enumerate(ids):
        twin = first.setdefault(tokens.tobytes(), index)
        if twin != index:
            one, other = labels[twin], labels[index]
            same = (
                f"{one!r} is given twice"
                if one == other
                else f"{one!r} and {other!r} are the same to this model"
            )
            raise TextError(f"label {same}; the two would share one probability, so leave one out")


def probabilities(logits: NDArray[np.floating[Any]], *, independent: bool) -> NDArray[np.float32]:
    """Logits (N, M) of images and labels to probabilities (N, M).

    Args:
        logits: similarity times temperature, plus the bias if there is one.
        independent: False for a softmax over each row ("which label is it"), True for a sigmoid of each
            number ("does this label fit"; Zhai et al. 2023).
    """
    wide = logits.astype(np.float64)
    if independent:
        return (0.5 * (1 + np.tanh(wide / 2))).astype(np.float32)  # the sigmoid, without overflow
    weights = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def rank(
    labels: Sequence[str], row: NDArray[np.floating[Any]], top: int | None = None
) -> list[tuple[str, float]]:
    """Labels with their probabilities, best first; equal ones in the order given."""
    order = np.argsort(-row, kind="stable")[:top]
    return [(labels[i], float(row[i])) for i in order]
