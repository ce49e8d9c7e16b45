"""Part of the report with the worst mistakes: the image, what was predicted, and where the model saw it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from oneclip.embed.items import Failure
from oneclip.errors import OneCLIPError
from oneclip.evaluate.data.dataset import EvaluationDataset, Sample
from oneclip.evaluate.encoded import Predictions
from oneclip.evaluate.report.elements import folded
from oneclip.evaluate.result import Result
from oneclip.evaluate.scoring import templates_of
from oneclip.html import data_address
from oneclip.image.thumbnail import encode_thumbnail, make_thumbnail
from oneclip.text.prompts import fill_templates

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

IMAGES = 240  # of all results of a report together
MAPPED = 24  # of them, with heat maps, which take the time of a few images each
IMAGES_OF_RESULT = range(3, 13)  # fewest and most images of a result
MAX_TEXTS = 500  # among which the closest one is looked for
LEARNED = ("linear_probe", "few_shot")  # a map of texts says nothing about what was learned from images
PIXELS = 192  # the longer side of an image on the page

Encoders = Mapping[str, "Encoder"]


@dataclass(frozen=True)
class Mistake:
    """Image that was not recognized.

    Attributes:
        sample: the image.
        said: the class or text that was predicted; "" if unknown.
        expected: the right one.
        note: what else is known, plain text.
    """

    sample: Sample
    said: str
    expected: str
    note: str


class MistakesPart:
    """Make the part with mistakes for each group of results; limits hold for the whole report.

    Args:
        results: number of results in the report.
        encoders: by the name of the model, for heat maps; may be empty.
    """

    def __init__(self, results: int, encoders: Encoders) -> None:
        self.count = max(IMAGES_OF_RESULT[0], min(IMAGES_OF_RESULT[-1], IMAGES // max(results, 1)))
        self.mapped = min(6, max(1, MAPPED // max(results, 1)))
        self.encoders = encoders
        self._listed: tuple[EvaluationDataset, list[Sample]] | None = None

    def render(self, results: Sequence[Result]) -> str:
        """Show the worst mistakes of each model; results are of the same data set and task."""
        parts = []
        for result in results:
            mistakes = find_mistakes(result, self._samples(result), self.count, self._encoder(result))
            if mistakes:
                cards = self._cards(result, mistakes)
                parts.append(
                    cards if len(results) == 1 else folded(result.model, cards, is_open=result is results[0])
                )
        if not parts:
            return ""
        has_confidence = results[0].score.predictions is not None
        about = f"Wrong answers{', the most confident first' if has_confidence else ''}."
        if any(self._encoder(result) for result in results):
            about += (
                f" The first {self.mapped} of each model have heat maps, which take time. They show where the "
                "image is more similar to one of the two texts than to the other: evidence of similarity, not a "
                "segmentation. Their colours share one scale per image."
            )
        return f"<h3>Worst mistakes</h3>\n<p>{about}</p>{''.join(parts)}"

    def _encoder(self, result: Result) -> Encoder | None:
        """Return the encoder that explains a result; None if it was not decided by texts."""
        return None if result.task in LEARNED else self.encoders.get(result.model)

    def _samples(self, result: Result) -> Sequence[Sample]:
        """Return the images of a result in the order of its items; empty if they are unknown.

        A result that was read from a file has no embeddings; the images of its data set are listed again, once
        for all models.
        """
        dataset = result.dataset
        if result.encoded is not None:
            return result.encoded.samples
        if self._listed is None or self._listed[0] is not dataset:
            try:
                found = [one for one in dataset.split("test") if not isinstance(one, Failure)]
            except OneCLIPError:  # such as a data set that was moved
                found = []
            self._listed = dataset, found
        skipped = {failure.name for failure in result.skipped}
        return [sample for sample in self._listed[1] if sample.item.name not in skipped]

    def _cards(self, result: Result, mistakes: Sequence[Mistake]) -> str:
        encoder = self._encoder(result)
        cards = [
            _card(mistake, encoder if i < self.mapped else None, result.dataset)
            for i, mistake in enumerate(mistakes)
        ]
        return f'<ul class="cards{"" if encoder else " plain"}">{"".join(cards)}</ul>\n'


def find_mistakes(
    result: Result, samples: Sequence[Sample], most: int, encoder: Encoder | None = None
) -> list[Mistake]:
    """Find the worst mistakes of a result.

    Args:
        result: of a task that knows which images were recognized.
        samples: its images, in the order of its items.
        most: how many.
        encoder: finds the text that was closest instead, in retrieval among few texts.

    Returns:
        Mistakes, the most confident first where there is a confidence; empty if the images are unknown.
    """
    predictions = result.score.predictions
    if predictions is not None and len(samples) == len(predictions.labels):
        return _wrong_classes(predictions, result.dataset.classes, samples, most)
    if result.dataset.kind == "captions":
        return _missed_texts(result, [sample for sample in samples if sample.texts], most, encoder)
    if result.dataset.kind == "caption_selection":
        return _wrong_captions(result, samples, most)
    return []


def _wrong_classes(
    predictions: Predictions, classes: Sequence[str], samples: Sequence[Sample], most: int
) -> list[Mistake]:
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    worst = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:most]
    return [
        Mistake(
            samples[i],
            classes[predictions.predicted[i]],
            classes[predictions.labels[i]],
            f"confidence {predictions.confidence[i]:.0%}",
        )
        for i in worst.tolist()
    ]


def _missed_texts(
    result: Result, samples: Sequence[Sample], most: int, encoder: Encoder | None
) -> list[Mistake]:
    found = {
        int(name.partition("@")[2]): values for name, values in result.score.items.items() if "text_" in name
    }
    found = {k: values for k, values in found.items() if len(values) == len(samples)}
    for k in sorted(found, reverse=True):
        missed = np.flatnonzero(found[k] == 0)[:most].tolist()
        if missed:
            note = f"none of its texts is among the {k} closest" if k > 1 else "its texts are not the closest"
            closest = _closest_texts([samples[i] for i in missed], samples, encoder)
            return [
                Mistake(samples[i], said, samples[i].texts[0], note)
                for i, said in zip(missed, closest, strict=True)
            ]
    return []


def _closest_texts(images: Sequence[Sample], samples: Sequence[Sample], encoder: Encoder | None) -> list[str]:
    """Return the text that is closest to each image; "" without an encoder or with too many texts."""
    texts = list(dict.fromkeys(text for sample in samples for text in sample.texts))
    if encoder is None or len(texts) > MAX_TEXTS:
        return [""] * len(images)
    try:
        scores = encoder.similarity([io.BytesIO(sample.item.read()) for sample in images], texts)
    except (OneCLIPError, OSError):
        return [""] * len(images)
    return [texts[i] for i in np.asarray(scores).argmax(axis=1)]


def _wrong_captions(result: Result, samples: Sequence[Sample], most: int) -> list[Mistake]:
    instances: dict[int, list[Sample]] = {}
    for sample in samples:
        instances.setdefault(sample.instance, []).append(sample)
    size = max(map(len, instances.values()), default=0)
    complete = [members for members in instances.values() if len(members) == size and members[0].texts]
    items = result.score.items
    if len(items.get("acc", ())) != len(complete):
        return []
    mistakes = []
    for i in np.flatnonzero(items["acc"] == 0)[:most].tolist():
        texts = complete[i][0].texts
        parts = [
            what for what, name in (("images", "image_acc"), ("captions", "text_acc")) if not items[name][i]
        ]
        note = f"wrong choice of {' and '.join(parts)}"
        mistakes.append(Mistake(complete[i][0], texts[1] if len(texts) > 1 else "", texts[0], note))
    return mistakes


def _card(mistake: Mistake, encoder: Encoder | None, dataset: EvaluationDataset) -> str:
    name = mistake.sample.item.name
    try:
        content = mistake.sample.item.read()
    except (OneCLIPError, OSError) as error:
        return f"<li><p>{escape(name)} cannot be read again: {escape(str(error))}</p></li>\n"
    figures = [_figure(make_thumbnail(io.BytesIO(content), PIXELS), "")]
    if encoder is not None:
        figures += [_figure(image, text) for text, image in _why(encoder, content, mistake, dataset)]
    said = f'predicted <b class="predicted">{escape(mistake.said)}</b>, ' if mistake.said else ""
    return (
        f'<li><div class="images">{"".join(figures)}</div>'
        f'<p>{said}right is <b class="expected">{escape(mistake.expected)}</b></p>'
        f'<p class="soft">{escape(mistake.note)} · {escape(name)}</p></li>\n'
    )


def _why(
    encoder: Encoder, content: bytes, mistake: Mistake, dataset: EvaluationDataset
) -> Iterable[tuple[str, Image.Image]]:
    """Compute the heat maps of the predicted and the right text; none if the model cannot."""
    labels = list(dict.fromkeys(text for text in (mistake.said, mistake.expected) if text))
    small = make_thumbnail(io.BytesIO(content), 2 * max(encoder.image_size))
    if small is None:
        return []
    try:
        maps = encoder.explain(small, [_prompt(label, dataset) for label in labels])
        return [(f"why “{label}”", maps.overlay(i)) for i, label in enumerate(labels)]
    except OneCLIPError:
        return []


def _prompt(label: str, dataset: EvaluationDataset) -> str:
    """Return the text of a label: the first prompt of a class, or the caption itself."""
    if label not in dataset.classes:
        return label
    templates: Any = templates_of(dataset)
    prompts = templates[label] if isinstance(templates, Mapping) else fill_templates(label, templates[:1])
    return prompts if isinstance(prompts, str) else prompts[0]


def _figure(image: Image.Image | None, caption: str) -> str:
    if image is None:
        return '<figure class="soft">not readable</figure>'
    image = image.copy()
    image.thumbnail((PIXELS, PIXELS))
    address = data_address(encode_thumbnail(image))
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{address}" alt="{escape(caption)}">{below}</figure>'
