"""Linear probe: a classifier of one's own on the image embeddings of a model.

Shapes: N images, C classes, D joint embedding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from oneclip.embed.rows import EmbeddingMetadata
from oneclip.encoder import load as load_encoder
from oneclip.encoding.checks import check_positive
from oneclip.engine import resolve_device
from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.classification import class_labels, embedding_batches, predict, score_predictions
from oneclip.evaluate.compat_linear_probe import CompatSchedule, fit_with_schedule
from oneclip.evaluate.data.dataset import EvaluationDataset
from oneclip.evaluate.encoded import EncodedSplit, Score
from oneclip.evaluate.given_embeddings import given_embeddings
from oneclip.evaluate.logistic_regression import (
    LinearClassifier,
    Regularization,
    choose_regularization,
    fit_logistic_regression,
    split_folds,
)
from oneclip.evaluate.probe_file import Label, SavedProbe, plain_labels, read_probe, write_probe
from oneclip.progress import Progress
from oneclip.text.labels import probabilities

if TYPE_CHECKING:
    from oneclip.encoder import Encoder
    from oneclip.encoding.encoded import Images


__all__ = ["CompatSchedule", "LinearProbe", "score_linear_probe", "solver_device"]


class LinearProbe:
    """Multinomial logistic regression on the image embeddings of a model.

        probe = oneclip.LinearProbe(model).fit(images, labels)
        probe.predict(["new.jpg"])  # ["a cat"]

    The probe is that of scikit-learn's `LogisticRegression(C=probe.C)` on the embeddings of unit length.

    Args:
        model: an encoder, or the name of one.
        C: inverse regularization strength, as in scikit-learn; None to choose it by the accuracy on images that are
            held out.
        seed: of the division into images to fit and images to hold out.
        batch_size: number of images that go through the model at once.

    Attributes:
        classes: of the labels, sorted.
        C: that the classifier was fitted with.
        accuracy: on the images that were held out; None if there were none.
        made_by: what the probe was made of and how; JSON values.
    """

    def __init__(
        self, model: Encoder | str, *, C: float | None = None, seed: int = 0, batch_size: int = 32
    ) -> None:
        _check_options(C, seed)
        check_positive("batch_size", batch_size)
        self.encoder = load_encoder(model) if isinstance(model, (str, os.PathLike)) else model
        self.C = None if C is None else float(C)
        self.seed, self.batch_size = int(seed), batch_size
        self.classes: list[Any] = []
        self.accuracy: float | None = None
        self.made_by: dict[str, Any] = {}
        self._chosen = self.C
        self._classifier: LinearClassifier | None = None

    def fit(
        self,
        images: Images | NDArray[np.float32],
        labels: Iterable[Label],
        *,
        validation: tuple[Images | NDArray[np.float32], Iterable[Label]] | None = None,
        progress: Progress = False,
    ) -> LinearProbe:
        """Fit the classifier; what was fitted before is forgotten.

        C is chosen by the accuracy on `validation`, or by five-fold cross-validation. The classifier is then fitted to
        all images, those of `validation` included.

        Args:
            images: N images as in `Encoder.encode_images`, or their embeddings (N, D).
            labels: N strings or N integers, of at least two classes.
            validation: images and labels to choose C with; labels of the same classes.
            progress: as in `Encoder.encode_images`.

        Returns:
            The probe itself.

        Raises:
            DataError: for fewer than two classes, another number of labels, labels of mixed types or empty ones, or
                `validation` without images or with other classes.
            ShapeError: for embeddings of another width, or that are not finite.
            ImageError: for an image that cannot be read.
        """
        names = plain_labels(labels)
        classes = _sorted_classes(names)
        held_out_names = _validation_labels(validation, classes)
        embeddings = self._encode(images, progress)
        _check_count(embeddings, names, "images")
        held_out = embeddings[:0]
        if validation is not None:
            held_out = self._encode(validation[0], progress)
            _check_count(held_out, held_out_names, "validation images")
        self.classes = classes
        index = {name: i for i, name in enumerate(self.classes)}
        targets = np.array([index[name] for name in [*names, *held_out_names]], dtype=np.int64)
        rows = np.concatenate([embeddings, held_out])
        device = solver_device(self.encoder.device)
        chosen = Regularization(self._chosen) if self._chosen is not None else None
        if chosen is None:
            fitted, validated = np.arange(len(names)), np.arange(len(names), len(rows))
            folds = [(fitted, validated)] if len(validated) else split_folds(targets, self.seed)
            chosen = choose_regularization(rows, targets, len(self.classes), folds, device=device)
        self._classifier = fit_logistic_regression(rows, targets, len(self.classes), chosen.C, device=device)
        self.C, self.accuracy = chosen.C, chosen.accuracy
        self.made_by = {
            "images": len(rows),
            "held_out": chosen.images,
            "C": chosen.C,
            "accuracy": chosen.accuracy,
            "seed": self.seed,
        }
        return self

    def predict(self, images: Images | NDArray[np.float32], *, progress: Progress = False) -> list[Any]:
        """Return the most probable label of each image.

        Args:
            images: N images as in `Encoder.encode_images`, or their embeddings (N, D).
            progress: as in `Encoder.encode_images`.
        """
        return [self.classes[i] for i in self._logits(images, progress).argmax(axis=1)]

    def probabilities(
        self, images: Images | NDArray[np.float32], *, progress: Progress = False
    ) -> NDArray[np.float32]:
        """Return the probability of each class: (N, C) float32; the columns are `classes`, each row adds up to 1.

        Args:
            images: N images as in `Encoder.encode_images`, or their embeddings (N, D).
            progress: as in `Encoder.encode_images`.
        """
        return probabilities(self._logits(images, progress), independent=False)

    def _logits(self, images: Images | NDArray[np.float32], progress: Progress) -> NDArray[np.float64]:
        classifier = self._fitted()
        return classifier.scores(torch.from_numpy(self._encode(images, progress))).numpy()

    def _encode(self, images: Images | NDArray[np.float32], progress: Progress) -> NDArray[np.float32]:
        """Encode images; embeddings are normalized."""
        embeddings = given_embeddings(images, self.encoder.embed_dim)
        if embeddings is not None:
            return embeddings
        return self.encoder.encode_images(images, batch_size=self.batch_size, progress=progress)

    def _fitted(self) -> LinearClassifier:
        if self._classifier is None:
            raise ConfigError("the probe is not fitted; call fit(images, labels) first")
        return self._classifier

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier and what it was made by to a safetensors file; the model is not in it.

        Raises:
            ConfigError: if the probe is not fitted.
            OutputError: if the file cannot be written; an existing file is then unchanged.
        """
        metadata = EmbeddingMetadata.for_encoder(self.encoder, "exact")
        write_probe(path, SavedProbe(self.classes, metadata, self.made_by, self._fitted()))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Encoder | str | None = None) -> LinearProbe:
        """Load a probe.

        Args:
            path: of the file.
            model: the model that the probe was made with; None to load the one of the same name.

        Raises:
            CheckpointError: if the file is damaged, or not a probe.
            DataError: if the model, its preprocessing or its precision is another one.
        """
        saved = read_probe(path)
        if model is None:
            model = load_encoder(saved.embeddings.model, precision=saved.embeddings.precision)
        probe = cls(model)
        different = EmbeddingMetadata.for_encoder(probe.encoder, "exact").differences(saved.embeddings)
        if different:
            first, *others = different
            details = f" ({'; '.join(others)})" if others else ""
            raise DataError(
                f"{path} was made with {first}{details}; use the model that it was made with, or make a "
                "probe for this one"
            )
        probe.classes, probe.made_by, probe._classifier = saved.classes, saved.made_by, saved.classifier
        probe.C, probe.accuracy = saved.made_by.get("C"), saved.made_by.get("accuracy")
        return probe


def score_linear_probe(
    dataset: EvaluationDataset,
    splits: Mapping[str, EncodedSplit],
    *,
    seed: int = 0,
    compat: CompatSchedule | None = None,
) -> Score:
    """Fit a linear probe to the split "train", and evaluate it on "test".

    C is chosen by the accuracy on the split "val", or without one by five-fold cross-validation. The classifier is then
    fitted to both splits.

    Args:
        dataset: of the splits, with the names of the classes.
        splits: "train", "test" and maybe "val".
        seed: of the division into folds; with `compat`, of all random numbers.
        compat: train with CLIP_benchmark's schedule, and report only its metrics.

    Returns:
        `lp_acc1`, `lp_acc5` and `lp_mean_per_class_recall`; and without `compat` `lp_ece`, and `lp_worst_group_acc1` if
        the images have groups. What was chosen is in `details`.

    Raises:
        DataError: if the data set has fewer than two classes, or the training images have.
    """
    test = splits["test"]
    labels = {name: class_labels(dataset, split) for name, split in splits.items()}
    if compat is not None:
        classifier, weight_decay = fit_with_schedule(splits, labels, compat, seed)
        details: dict[str, Any] = {"weight_decay": weight_decay, **asdict(compat)}
    else:
        rows = [np.asarray(splits[name].embeddings) for name in ("train", "val") if name in splits]
        embeddings, targets = np.concatenate(rows), np.concatenate([labels["train"], labels.get("val", [])])
        targets = targets.astype(np.int64)
        device, count = solver_device(resolve_device(None)), len(rows[0])
        order = np.arange(len(targets))
        folds = [(order[:count], order[count:])] if "val" in splits else split_folds(targets, seed)
        chosen = choose_regularization(embeddings, targets, len(dataset.classes), folds, device=device)
        classifier = fit_logistic_regression(
            embeddings, targets, len(dataset.classes), chosen.C, device=device
        )
        details = {"regularization": asdict(chosen), "train_images": len(targets)}
    predictions = predict(
        map(classifier.scores, embedding_batches(test)),
        labels["test"],
        lambda scores: scores.softmax(dim=1),
        compat=compat is not None,
    )
    score = score_predictions(dataset, test, predictions, prefix="lp_", compat=compat is not None)
    if compat is not None and labels["test"].max() < 5:  # CLIP_benchmark's condition
        score.metrics["lp_acc5"] = float("nan")
    score.details |= details
    return score


def solver_device(device: torch.device) -> torch.device:
    """Return where to fit a classifier of a model's embeddings: float64 is missing on some devices."""
    return device if device.type == "cuda" else torch.device("cpu")


def _check_options(C: object, seed: object) -> None:
    """Raise ConfigError for values or types that are out of range; NumPy's numbers are numbers."""
    is_number = isinstance(C, Real) and not isinstance(C, bool) and 0 < float(C) < math.inf
    if C is not None and not is_number:
        raise ConfigError(f"C is {C!r}; expected a number above 0, or None to choose it")
    if not isinstance(seed, Integral) or int(seed) < 0:
        raise ConfigError(f"seed is {seed!r}; expected an integer of 0 or more")


def _sorted_classes(labels: Sequence[Label]) -> list[Any]:
    """Return the different labels, sorted; DataError for fewer than two."""
    classes = sorted(set(labels))  # all of one type
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no labels"
        raise DataError(f"found {found}; expected images of at least two classes")
    return classes


def _validation_labels(
    validation: tuple[Any, Iterable[Label]] | None, classes: Sequence[Label]
) -> list[Label]:
    """Return the labels of validation images; DataError for none, or for other classes."""
    if validation is None:
        return []
    if not isinstance(validation, (tuple, list)) or len(validation) != 2:
        raise DataError("validation is not a pair; expected (images, labels)")
    labels = plain_labels(validation[1])
    if not labels:
        raise DataError("validation has no labels; expected images and labels, or None to divide the images")
    unknown = [label for label in dict.fromkeys(labels) if label not in classes]
    if unknown:
        raise DataError(
            f"the validation label {unknown[0]!r} is not a class of the images to learn from; expected one of "
            f"{', '.join(map(repr, classes[:10]))}{', …' * (len(classes) > 10)}"
        )
    return labels


def _check_count(embeddings: NDArray[np.float32], labels: Sequence[Label], what: str) -> None:
    if len(embeddings) != len(labels):
        raise DataError(
            f"{len(embeddings)} {what} and {len(labels)} labels given; expected one label per image"
        )
