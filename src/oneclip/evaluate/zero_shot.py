"""Names of classes and prompts to the weights of a classifier that has seen no examples.

Shapes: C classes, T templates, B captions of a batch, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.errors import TextError

Template: TypeAlias = str | Callable[[str], str]
Batches: TypeAlias = Iterable[list[list[str]]]
T = TypeVar("T")


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
    captions = [prompts(name, templates) for name in _listed("names", names)]
    size = len(captions) if names_per_batch is None else names_per_batch
    if size < 1:
        raise TextError(f"names_per_batch is {names_per_batch} and must be at least 1, or None for all")
    batches = [captions[start : start + size] for start in range(0, len(captions), size)]
    with torch.no_grad():
        return torch.cat([_class_features(encode, batch) for batch in progress(batches)]).T


def prompts(name: str, templates: Sequence[Template]) -> list[str]:
    """A class's T captions.

    Raises:
        TextError: if there are no templates, or one has no place for the name.
    """
    return [_filled(template, name) for template in _listed("templates", templates)]


def _class_features(encode: Callable[[list[str]], Tensor], captions: list[list[str]]) -> Tensor:
    """Captions of some classes, T each, to a unit vector (D,) a class."""
    features = F.normalize(encode([caption for row in captions for caption in row]), dim=-1)
    means = features.reshape(len(captions), -1, features.shape[-1]).mean(dim=1)
    return F.normalize(means, dim=-1)


def _filled(template: Template, name: str) -> str:
    if not isinstance(template, str):
        return template(name)
    if "{" not in template:
        raise TextError(f"the template {template!r} has no {{}} where the name of the class goes")
    return template.format(name)


def _listed(what: str, items: Sequence[T]) -> Sequence[T]:
    if isinstance(items, str) or not len(items):
        raise TextError(f"{what} is {items!r}, and must be a list with at least one")
    return items
