"""Zero-shot classification: build a classifier from class names and prompt templates, and evaluate it.

Shapes: N images, C classes, T templates, B texts of a batch, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from oneclip.engine import mean_class_embeddings
from oneclip.errors import TextError
from oneclip.evaluate.classification import class_labels, embedding_batches, predict, score_predictions
from oneclip.evaluate.data.dataset import EvaluationDataset, Templates
from oneclip.evaluate.encoded import EncodedSplit, Score, TextEncoder
from oneclip.text.labels import probabilities
from oneclip.text.prompts import fill_templates

TextBatches: TypeAlias = Iterable[list[list[str]]]
CLASSES_PER_BATCH = 50  # texts of similar length are encoded together, so more is faster
CLIP_BENCHMARK_SCALE = 100.0  # of cosines, which decides how they are rounded


def zero_shot_classifier(
    encode: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Templates,
    *,
    names_per_batch: int | None = 10,
    progress: Callable[[TextBatches], TextBatches] = iter,
) -> Tensor:
    """Average each class over its prompts (Radford et al. 2021, section 3.1.4).

    The cosines (N, C) are the unit-length image embeddings (N, D) times the result.

    Args:
        encode: texts to (B, D) features, which are normalized here.
        names: of the C classes.
        templates: T strings with `{}` in place of the name, or functions of the name; or a mapping from each name to
            its prompts.
        names_per_batch: how many classes are encoded together, each with all its prompts; None for all.
        progress: wraps the batches, to show progress; a batch has a list of texts for each of its classes.

    Returns:
        (D, C), each column of unit length; no gradient.

    Raises:
        TextError: if there are no names or no templates, a template has no placeholder, or a mapping lacks a name.
    """
    if isinstance(names, str) or not len(names):
        raise TextError(f"names is {names!r}; expected a list with at least one name")
    texts = [_prompts(name, templates) for name in names]
    size = len(texts) if names_per_batch is None else names_per_batch
    if size < 1:
        raise TextError(f"names_per_batch is {names_per_batch}; expected at least 1, or None for all")
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    with torch.no_grad():
        embeddings = [
            mean_class_embeddings(features, 1)
            for batch in progress(batches)
            for features in torch.split(
                encode([text for row in batch for text in row]), [len(row) for row in batch]
            )
        ]
    return torch.cat(embeddings).T


def _prompts(name: str, templates: Templates) -> list[str]:
    if not isinstance(templates, Mapping):
        return fill_templates(name, templates)
    prompts = templates.get(name)
    if isinstance(prompts, str) or not prompts:
        raise TextError(
            f"the templates have no prompts for the class {name!r}; expected a list for each class"
        )
    return list(prompts)


def score_zero_shot(
    dataset: EvaluationDataset,
    split: EncodedSplit,
    text: TextEncoder,
    *,
    templates: Templates,
    compat: bool = False,
) -> Score:
    """Evaluate zero-shot classification of images that have one class each (Radford et al. 2021, section 3.1).

    Args:
        dataset: with at least two classes.
        split: N images.
        text: the text side of the model.
        templates: see `zero_shot_classifier`.
        compat: compute exactly as CLIP_benchmark; otherwise a class that ties with the right one counts as ranked
            before it.

    Returns:
        metrics of `oneclip.evaluate.classification.score_predictions`; the confidence is the probability that
        `Encoder.classify` returns.

    Raises:
        DataError: if there are no images or classes, or an image has no class.
        TextError: see `zero_shot_classifier`.
    """
    labels = class_labels(dataset, split)
    weights = dataset_classifier(dataset, text, templates)  # (D, C)
    factor = CLIP_BENCHMARK_SCALE if compat else 1.0

    def to_probabilities(scores: Tensor) -> Tensor:
        logits = scores * (text.logit_scale / factor) + (text.logit_bias or 0.0)
        return torch.from_numpy(probabilities(logits.numpy(), independent=text.logit_bias is not None))

    scores = (factor * images @ weights for images in embedding_batches(split))
    predictions = predict(scores, labels, to_probabilities, compat=compat)
    return score_predictions(dataset, split, predictions, compat=compat)


def dataset_classifier(dataset: EvaluationDataset, text: TextEncoder, templates: Templates) -> Tensor:
    """Return the zero-shot classifier (D, C) of a data set."""
    return zero_shot_classifier(
        lambda texts: torch.from_numpy(text.encode(texts)),
        dataset.classes,
        templates,
        names_per_batch=CLASSES_PER_BATCH,
    )
