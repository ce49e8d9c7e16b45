"""Zero-shot labels: prompts for them, and their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import TextError, TextTypeError
from oneclip.text.prompts import Template, fill_templates

Templates: TypeAlias = Template | Sequence[Template]


def label_prompts(labels: Sequence[str], templates: Templates | None = None) -> list[list[str]]:
    """Fill each label into each template.

    Args:
        labels: what an image may show.
        templates: a sentence with `{}` in place of the label, such as "a photo of a {}"; a function of the label; or
            a list of these. None for the label alone.

    Returns:
        for each label, one text per template.

    Raises:
        TextError: if there are no labels, a label is empty, or a template has no placeholder.
        TextTypeError: if a label is not a string, or a function does not return one.
    """
    if not labels:
        raise TextError("no labels given; give at least one")
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            raise TextTypeError(f"label {number} is {type(label).__name__}, expected a string: {label!r}")
        if not label.strip():
            raise TextError(f"label {number} is empty; give words that describe an image")
    if templates is None:
        return [[label] for label in labels]
    several = [templates] if isinstance(templates, str) or callable(templates) else list(templates)
    return [fill_templates(label, several) for label in labels]


def check_distinct(labels: Sequence[str], ids: NDArray[np.integer[Any]]) -> None:
    """Check that no two labels have the same token ids: they would share one probability.

    Args:
        labels: as given.
        ids: (M, K) token ids of each label.

    Raises:
        TextError: naming the two labels.
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
    """Convert logits of images and labels to probabilities.

    Args:
        logits: (N, M) similarity times logit scale, plus the logit bias if the model has one.
        independent: False for a softmax over each row ("which label fits?"), True for a sigmoid of each logit
            ("does this label fit?"; Zhai et al. 2023).

    Returns:
        (N, M) float32.
    """
    wide = logits.astype(np.float64)
    if independent:
        return (0.5 * (1 + np.tanh(wide / 2))).astype(np.float32)  # a sigmoid that cannot overflow
    weights = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def rank_labels(
    labels: Sequence[str], row: NDArray[np.floating[Any]], top: int | None = None
) -> list[tuple[str, float]]:
    """Return labels with their probabilities, best first; ties keep the order given."""
    order = np.argsort(-row, kind="stable")[:top]
    return [(labels[i], float(row[i])) for i in order]


def label_scores(
    labels: Sequence[str],
    probabilities: NDArray[np.floating[Any]],
    similarities: NDArray[np.floating[Any]],
    top: int | None = None,
) -> list[list[dict[str, Any]]]:
    """Return what `oneclip classify --json` prints of each image: its labels with their numbers, best first.

    Args:
        labels: M of them.
        probabilities: (N, M), see `probabilities`.
        similarities: (N, M) cosines.
        top: number of labels to return for each image; None for all.
    """
    return [
        [
            {
                "label": labels[i],
                "probability": round(float(row[i]), 6),
                "similarity": round(float(similar[i]), 6),
            }
            for i in np.argsort(-row, kind="stable")[:top]
        ]
        for row, similar in zip(probabilities, similarities, strict=True)
    ]
