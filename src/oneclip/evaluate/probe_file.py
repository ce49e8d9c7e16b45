"""File of a linear probe: safetensors with a description in JSON; the model is not in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from oneclip.checkpoint.readers.safetensors_reader import read_safetensors
from oneclip.config.precision import LOAD_PRECISIONS, check_precision
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import CheckpointError, CheckpointNotFoundError, DataError
from oneclip.evaluate.logistic_regression import LinearClassifier
from oneclip.hub.atomic import replace_file

FORMAT = 1
METADATA_KEY = "oneclip_probe"

Label: TypeAlias = str | int


@dataclass(frozen=True)
class SavedProbe:
    """Content of a probe's file.

    Attributes:
        classes: C names or integers.
        embeddings: what the embeddings were made with that the classifier was fitted to.
        made_by: how the classifier was made; JSON values.
        classifier: of the C classes.
    """

    classes: list[Label]
    embeddings: EmbeddingMetadata
    made_by: dict[str, Any]
    classifier: LinearClassifier


def write_probe(path: str | os.PathLike[str], probe: SavedProbe) -> None:
    """Write a probe.

    Raises:
        OutputError: if the file cannot be written; an existing file is then unchanged.
    """
    from safetensors.torch import save_file

    description = {
        "format": FORMAT,
        "classes": probe.classes,
        "embeddings": probe.embeddings.to_dict(),
        "made_by": probe.made_by,
    }
    tensors = {"weight": probe.classifier.weight.contiguous(), "bias": probe.classifier.bias.contiguous()}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: json.dumps(description, ensure_ascii=False)})


def read_probe(path: str | os.PathLike[str]) -> SavedProbe:
    """Read a probe, and check it.

    Raises:
        CheckpointError: if the file does not exist, is damaged, or is not a probe.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"{path} is not a file; expected a linear probe, as `oneclip probe` writes it"
        )
    try:
        tensors, metadata = read_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is not a linear probe, as `oneclip probe` writes it, or it is damaged"
        ) from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is not a linear probe; `oneclip probe DATA -o {path.name}` makes one")
    try:
        values = json.loads(metadata[METADATA_KEY])
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {values['format']!r:.20}; this version reads format {FORMAT}: update oneclip"
            )
        embeddings = EmbeddingMetadata.from_dict(values["embeddings"])
        check_precision(embeddings.precision, LOAD_PRECISIONS)
        probe = SavedProbe(
            plain_labels(values["classes"]),
            embeddings,
            dict(values["made_by"]),
            LinearClassifier(tensors["weight"].double(), tensors["bias"].double()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its description is incomplete ({error!r})") from error
    weight, bias, count = probe.classifier.weight, probe.classifier.bias, len(probe.classes)
    if count < 2 or weight.ndim != 2 or len(weight) != count or tuple(bias.shape) != (count,):
        raise CheckpointError(
            f"{path} is damaged: {count} classes, weights {tuple(weight.shape)} and biases {tuple(bias.shape)}"
        )
    return probe


def plain_labels(labels: Iterable[Any]) -> list[Label]:
    """Convert labels, such as NumPy integers, to Python strings or integers.

    Raises:
        DataError: for other types, both types, or an empty string.
    """
    if isinstance(labels, str):
        raise DataError(f"labels is the string {labels!r:.60}; expected a list with one label per image")
    plain = [label.item() if hasattr(label, "item") else label for label in labels]
    kinds = {type(label) for label in plain}
    if len(kinds) > 1 or not kinds <= {str, int}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"labels are of type {names}; expected only strings, or only integers")
    empty = [i for i, label in enumerate(plain) if isinstance(label, str) and not label.strip()]
    if empty:
        raise DataError(f"label {empty[0]} is empty; expected the name of a class, such as 'a cat'")
    return plain
