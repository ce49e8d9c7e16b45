"""Pictures and captions to unit vectors and probabilities.

The encoder owns what every program around a CLIP model writes again:
reading pictures ahead of the model, batches, device and precision, captions sorted by length.

Shapes: N items, B items of a batch, L tokens, D joint embedding, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.config import ModelCfg
from oneclip.encoder.captioning import Captioner, readable
from oneclip.encoder.feed import Begun, Feed, delayed
from oneclip.engine import Towers
from oneclip.errors import ConfigError, TextError
from oneclip.image import Preprocess
from oneclip.image.ahead import Picture, Skipped, is_picture, read_ahead
from oneclip.model import CLIP, CustomTextCLIP
from oneclip.progress import Progress, reporting
from oneclip.text import Tokenizer
from oneclip.text.buckets import by_length
from oneclip.text.labels import check_distinct, label_captions, probabilities, rank

Pictures: TypeAlias = Picture | Iterable[Picture]
Features: TypeAlias = NDArray[np.float32]
Ranking: TypeAlias = list[tuple[str, float]]
Labels: TypeAlias = str | Sequence[str]
Raise: TypeAlias = Literal["raise"]
Skip: TypeAlias = Literal["skip"]
Decode: TypeAlias = Literal["exact", "fast"]


class Encoded(NamedTuple):
    """Features of the pictures that could be read, and what became of the others.

    Attributes:
        features: (M, D) float32, unit length; a row for each picture that could be read.
        kept: for each row, the index of its picture in the caller's list.
        skipped: the other pictures, each with `index`, `name` and `error`.
    """

    features: Features
    kept: list[int]
    skipped: list[Skipped]


class Encoder:
    """A model with its preprocessing and its tokenizer.

    Args:
        model: on its device and in its precision; it is put in evaluation mode.
        preprocess: one picture to one (3, H, W) tensor.
        tokenizer: captions to (N, L) ids.
        cfg: the configuration the model was built of.
        name: what to call it in messages and stored results.
        max_pixels: pictures with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        precision: of what is computed, see `Towers`; None for that of the weights.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        cfg: ModelCfg,
        *,
        name: str,
        max_pixels: int | None = None,
        precision: str | None = None,
    ) -> None:
        self.model, self.preprocess, self.tokenizer = model, preprocess, tokenizer
        self.cfg, self.name, self.max_pixels = cfg, name, max_pixels
        self.towers = Towers(model, cfg, self.image_size, name, precision)

    def __repr__(self) -> str:
        pixels = "x".join(map(str, self.image_size))
        facts = f"{pixels} pixels, {self.embed_dim} numbers, {self.precision}, {self.device}"
        return f"<Encoder {self.name}: {facts}>"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.towers.device

    @property
    def precision(self) -> str:
        """One of "fp32", "bf16", "fp16" and "int8": of what is computed."""
        return self.towers.precision

    @property
    def embed_dim(self) -> int:
        """D, the width of the space that pictures and captions share."""
        return self.cfg.embed_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the model sees, in pixels."""
        size = self.preprocess.cfg.size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @overload
    def encode_images(
        self,
        images: Pictures,
        *,
        batch_size: int = ...,
        on_error: Raise = ...,
        decode: Decode = ...,
        progress: Progress = ...,
    ) -> Features: ...

    @overload
    def encode_images(
        self,
        images: Pictures,
        *,
        batch_size: int = ...,
        on_error: Skip,
        decode: Decode = ...,
        progress: Progress = ...,
    ) -> Encoded: ...

    def encode_images(
        self,
        images: Pictures,
        *,
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        decode: Decode = "exact",
        progress: Progress = False,
    ) -> Features | Encoded:
        """Encode pictures.

        Args:
            images: paths, bytes, open files, PIL images and arrays (H, W, 3), mixed at will; or a single one.
            batch_size: how many pictures go through the model at once.
            on_error: "raise" at the first picture that cannot be read, or "skip" it.
            decode: "exact" for `preprocess`, bit for bit as published, or "fast" for nearly the same of large
                pictures, sooner: see `oneclip.image.FastPreprocess`.
            progress: True for a bar on stderr, or a function that is told how many pictures more are done.

        Returns:
            (N, D) float32 of unit length. There are always two axes: (1, D) for one picture, (0, D) for none.
            With `on_error="skip"` an `Encoded`, to be unpacked: `features, kept, skipped = …`.

        Raises:
            ImageError: for a picture that cannot be read; it names the picture.
        """
        total = 1 if is_picture(images) else len(images) if isinstance(images, Sized) else None
        parts = [Encoded(self._no_features(), [], [])]
        with reporting(progress, total, "pictures") as advance:
            for part in self.stream_images(images, batch_size=batch_size, on_error=on_error, decode=decode):
                parts.append(part)
                advance(len(part.kept) + len(part.skipped))
        features = np.concatenate([part.features for part in parts])
        if on_error == "raise":
            return features
        return Encoded(features, [i for p in parts for i in p.kept], [s for p in parts for s in p.skipped])

    def stream_images(
        self,
        images: Pictures,
        *,
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        decode: Decode = "exact",
    ) -> Iterator[Encoded]:
        """`encode_images`, batch by batch: for more pictures than one wants to wait for or to hold.

        Yields:
            an `Encoded` a batch; its indices count from the first picture of all.
        """
        _check_choice("on_error", on_error, ("raise", "skip"))
        _check_positive("batch_size", batch_size)
        _check_choice("decode", decode, ("exact", "fast"))
        feed = Feed(self, decode)
        batches = read_ahead(images, feed.preprocess, batch_size, max_pixels=self.max_pixels)
        with closing(batches), closing(delayed(self._begin(feed, batches, on_error), by=feed.ahead)) as begun:
            for features, kept, skipped in begun:
                yield Encoded(features(), kept, skipped)

    def _begin(
        self, feed: Feed, batches: Iterator[list[Tensor | Skipped]], on_error: Raise | Skip
    ) -> Generator[tuple[Begun, list[int], list[Skipped]], None, None]:
        first = 0
        for results in batches:
            skipped = [result for result in results if isinstance(result, Skipped)]
            if skipped and on_error == "raise":
                raise skipped[0].error
            pixels = [result for result in results if isinstance(result, Tensor)]
            kept = [first + i for i, result in enumerate(results) if isinstance(result, Tensor)]
            first += len(results)
            yield feed.pictures(pixels) if pixels else self._no_features, kept, skipped

    def encode_pixels(self, batch: Tensor) -> Tensor:
        """Run the visual tower alone: (B, 3, H, W) floats, as `preprocess` makes them, on any device.

        Returns:
            (B, D) on the model's device and in its precision, not normalised, without gradient.

        Raises:
            ShapeError: if the batch is not of that shape, or holds integers.
        """
        return self.towers.image(batch)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 512,
        overflow: Literal["error", "truncate"] = "error",
        progress: Progress = False,
    ) -> Features:
        """Encode captions: equal ones once, and what several begin with once where the tower allows it.

        Args:
            texts: captions, or a single one.
            batch_size: how many captions go through the model at once.
            overflow: what becomes of a caption with more tokens than the model reads: "error" or "truncate".
            progress: True for a bar on stderr, or a function that is told how many captions more are done.

        Returns:
            (N, D) float32 of unit length, in the order of `texts`; (1, D) for one caption, (0, D) for none.

        Raises:
            TextTypeError: for a caption that is not a string.
            TextTooLongError: for one that is too long, unless it may be truncated; it names the caption.
        """
        _check_choice("overflow", overflow, ("error", "truncate"))
        _check_positive("batch_size", batch_size)
        captions = [texts] if isinstance(texts, str) else list(texts)
        try:
            unique = list(dict.fromkeys(captions))
        except TypeError:  # unhashable, hence not a string: the tokenizer says which
            unique = captions
        features = np.empty((len(unique), self.embed_dim), dtype=np.float32)
        tokenize = partial(self.tokenizer, overflow=overflow)
        with reporting(progress, len(captions), "captions") as advance:
            try:
                feed = Feed(self)
                batches = by_length(unique, tokenize, batch_size, self.tokenizer.pad_token_id)
                for rows, begun in delayed(
                    ((rows, feed.captions(ids)) for rows, ids in batches), by=feed.ahead
                ):
                    features[rows] = begun()
                    advance(len(rows))
            except TextError:
                tokenize(captions)  # raises the same, with the caption's place in the caller's list
                raise
            advance(len(captions) - len(unique))
        row_of = {caption: row for row, caption in enumerate(unique)}
        return (
            features[[row_of[caption] for caption in captions]] if len(unique) < len(captions) else features
        )

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Run the text tower alone: (B, L) ids, as `tokenizer` makes them, on any device.

        L may be less, unless the tower reads the padding too, as SigLIP's does: it takes whole rows only.

        Returns:
            (B, D) on the model's device and in its precision, not normalised, without gradient.

        Raises:
            ShapeError: if ids are not of that shape, not integers, or shorter than the tower takes.
            TokenRangeError: if an id is outside the vocabulary.
        """
        return self.towers.text(ids)

    @overload
    def classify(  # type: ignore[overload-overlap]  # a string is one picture, never several
        self, images: Picture, labels: Labels, template: str | None = ..., top: int | None = ...
    ) -> Ranking: ...

    @overload
    def classify(
        self, images: Iterable[Picture], labels: Labels, template: str | None = ..., top: int | None = ...
    ) -> list[Ranking]: ...

    def classify(
        self, images: Pictures, labels: Labels, template: str | None = None, top: int | None = None
    ) -> Ranking | list[Ranking]:
        """Say which label fits a picture best.

        Args:
            images: a picture, or several, as `encode_images` takes them.
            labels: what it may show; no two of them alike.
            template: a sentence with `{}` where the label goes, such as "a photo of a {}".
            top: how many labels to return; None for all.

        Returns:
            `[("a cat", 0.98), ("a dog", 0.02)]`, best first, for one picture; for several, a list of
            such lists. See `probabilities` for what the numbers mean.

        Raises:
            ImageError: for a picture that cannot be read.
            TextError: for labels that are empty, too long or the same, or a template without `{}`.
        """
        if top is not None:
            _check_positive("top", top)
        names = [labels] if isinstance(labels, str) else list(labels)
        text_features = self.encode_labels(names, template)
        rankings = [
            rank(names, row, top) for row in self.probabilities(self.encode_images(images), text_features)
        ]
        return rankings[0] if is_picture(images) else rankings

    @overload
    def caption(self, images: Picture, **options: Any) -> str: ...

    @overload
    def caption(self, images: Iterable[Picture], **options: Any) -> list[str]: ...

    def caption(
        self,
        images: Pictures,
        *,
        prompt: str = "",
        batch_size: int = 32,
        progress: Progress = False,
        **search: Any,
    ) -> str | list[str]:
        """Say in words what pictures show; a CoCa can.

        Args:
            images: a picture, or several, as `encode_images` takes them.
            prompt: what every caption begins with.
            batch_size: how many pictures go through the model at once.
            progress: True for a bar on stderr, or a function that is told how many pictures more are done.
            search: how the words are chosen and how many, see `oneclip.model.CoCa.generate`.

        Returns:
            The caption of one picture, prompt included; for several, a list.

        Raises:
            ImageError: for a picture that cannot be read.
            ConfigError: if the model writes no captions, or `search` contradicts itself.
        """
        _check_positive("batch_size", batch_size)
        total = 1 if is_picture(images) else len(images) if isinstance(images, Sized) else None
        captioner = Captioner(self.model, self.tokenizer, prompt, self.name, search)
        captions: list[str] = []
        with reporting(progress, total, "pictures") as advance:
            for results in read_ahead(images, self.preprocess, batch_size, max_pixels=self.max_pixels):
                captions += captioner.write(readable(results).to(self.device, self.towers.dtype))
                advance(len(results))
        return captions[0] if is_picture(images) else captions

    def encode_labels(self, labels: Sequence[str], template: str | None = None) -> Features:
        """Encode what `classify` chooses from, refusing labels that would make its answer meaningless."""
        captions = label_captions(labels, template)
        check_distinct(labels, self.tokenizer(captions, overflow="error").tolist())
        return self.encode_texts(captions)

    def probabilities(self, image_features: Features, text_features: Features) -> Features:
        """Features of pictures (N, D) and of labels (M, D), unit length, to probabilities (N, M).

        A model trained with the softmax loss, as nearly all are, says which label it is: a row adds up to 1,
        also when no label fits. One with a `logit_bias` was trained with the sigmoid loss (Zhai et al. 2023):
        it says of each label by itself whether it fits.
        """
        bias = self.model.logit_bias
        logits = self.model.logit_scale.exp().item() * image_features @ text_features.T
        if bias is not None:
            logits = logits + bias.item()
        return probabilities(logits, independent=bias is not None)

    def _no_features(self) -> Features:
        return np.empty((0, self.embed_dim), dtype=np.float32)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r} and must be {' or '.join(map(repr, choices))}")


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r} and must be a whole number from 1 on")
