"""Images and texts to unit vectors, similarities and probabilities.

The encoder owns what every program around a CLIP model writes again:
reading images ahead of the model, batches, device and precision, texts sorted by length.

Shapes: N items, B items of a batch, L tokens, D joint embedding, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.encoder.array_types import Array, are_image_features, are_text_features, as_tensor, cosines, like
from oneclip.encoder.captioning import Captioned, Captioner
from oneclip.encoder.parts import (
    cfg_of,
    check_int8,
    check_model,
    check_preprocess,
    check_tokenizer,
    is_tokenizer,
)
from oneclip.encoder.pipeline import Begun, Feed, delayed
from oneclip.engine import DTYPES, PLANNED, Towers, mean_features, temperature, usable_device
from oneclip.errors import ConfigError, TextError
from oneclip.image import Preprocess, Truncated
from oneclip.image.prefetch import Picture, Skipped, is_picture, read_ahead
from oneclip.model import CLIP, CustomTextCLIP
from oneclip.model.vision_common import pair
from oneclip.progress import Progress, reporting
from oneclip.text import Tokenizer
from oneclip.text.batching.length_buckets import by_length
from oneclip.text.labels import Templates, check_distinct, label_prompts, probabilities, rank

Pictures: TypeAlias = Picture | Iterable[Picture]
Features: TypeAlias = NDArray[np.float32]
Ranking: TypeAlias = list[tuple[str, float]]
Labels: TypeAlias = str | Iterable[str]
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

    @classmethod
    def joined(cls, parts: Sequence[Encoded], embed_dim: int) -> Encoded:
        """Join batches in their order; of none, (0, D) features."""
        features = [np.empty((0, embed_dim), np.float32), *(part.features for part in parts)]
        return cls(
            np.concatenate(features),
            [index for part in parts for index in part.kept],
            [one for part in parts for one in part.skipped],
        )


class Encoder:
    """A model with its preprocessing and its tokenizer.

    The three can be assigned, and what encodes follows them. An encoder can be copied and pickled; its plans stay
    behind, and are made anew by the copy.

    Args:
        model: on its device and in its precision; it is put in evaluation mode.
        preprocess: one image to one (3, H, W) tensor.
        tokenizer: texts to (N, L) ids; or, where its files may be missing, a function that finds it, called when the
            first text comes.
        cfg: the configuration the model was built of.
        name: what to call it in messages and stored results.
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" files whose pixels break off, or "accept" what there is of them.
        precision: of what is computed, see `Towers`; None for that of the weights.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        preprocess: Preprocess,
        tokenizer: Tokenizer | Callable[[], Tokenizer],
        cfg: ModelCfg,
        *,
        name: str,
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
        precision: str | None = None,
    ) -> None:
        self.cfg, self.name, self.max_pixels, self.truncated = cfg, name, max_pixels, truncated
        self._preprocess, self._precision = preprocess, precision
        self._tokenizer: Tokenizer | None = tokenizer if is_tokenizer(tokenizer) else None
        self._find_tokenizer = cast("Callable[[], Tokenizer]", tokenizer)
        self._plan(model)

    def _plan(self, model: CLIP | CustomTextCLIP) -> None:
        self.towers = Towers(model, self._size_for(model), self.name, self._precision)

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if k != "towers"}, "model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({k: v for k, v in state.items() if k != "model"})
        self._plan(state["model"])

    def __repr__(self) -> str:
        pixels = "x".join(map(str, self.image_size))
        facts = f"{pixels} pixels, {self.embed_dim} numbers, {self.precision}, {self.device}"
        return f"<Encoder {self.name}: {facts}>"

    @property
    def model(self) -> CLIP | CustomTextCLIP:
        """The `torch.nn.Module`, in evaluation mode.

        One that is assigned is put in evaluation mode, too. It computes where it is, in the precision that was asked
        for, or in that of its weights where none was.

        Raises:
            ConfigError: when assigned, if it is no model of ours, or of another width.
        """
        return self.towers.model

    @model.setter
    def model(self, model: CLIP | CustomTextCLIP) -> None:
        check_model(model, self.embed_dim, self.name)
        self._plan(model)

    @property
    def preprocess(self) -> Preprocess:
        """One image to one (3, H, W) tensor; one that is assigned may be any function of a PIL image."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, preprocess: Preprocess) -> None:
        check_preprocess(preprocess)
        self._preprocess = preprocess
        self.towers.image_size = self.image_size

    @property
    def preprocess_cfg(self) -> PreprocessCfg:
        """What `preprocess` was made from.

        Raises:
            ConfigError: if it does not say.
        """
        return cfg_of(self.preprocess)

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to (N, L) ids; found when first needed, where it was not when the model was loaded.

        Raises:
            TokenizerNotFoundError, DownloadError: if its files are missing; they say which.
            ConfigError: when assigned, if it is no tokenizer.
        """
        if self._tokenizer is None:
            self._tokenizer = self._find_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        check_tokenizer(tokenizer)
        self._tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.towers.device

    def to(self, device: str | torch.device) -> Encoder:
        """Move the model; the precision stays, and plans are made anew.

        In fp16 on a CPU there are no packed weights: the model's own become fp16, as `oneclip.load` has them there.

        Returns:
            the encoder itself.

        Raises:
            ConfigError: if there is no such device, or it does not compute in the precision; nothing was moved.
        """
        place = usable_device(device)
        check_int8(self.precision, place)
        if self._precision is None or self._precision in PLANNED.get(place.type, ()):
            self.model.to(place)
        else:
            self.model.to(place, DTYPES[self._precision])
            self._precision = None
        self._plan(self.model)
        return self

    @property
    def precision(self) -> str:
        """One of "fp32", "bf16", "fp16" and "int8": of what is computed."""
        return self.towers.precision

    @property
    def embed_dim(self) -> int:
        """D, the width of the space that images and texts share."""
        return self.cfg.embed_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the model sees, in pixels."""
        return self._size_for(self.model)

    def _size_for(self, model: CLIP | CustomTextCLIP) -> tuple[int, int]:
        """What `preprocess` says, or what a model says where that is any function."""
        cfg = getattr(self._preprocess, "cfg", None)
        own = getattr(model.visual, "image_size", self.cfg.vision_cfg.image_size)
        return pair(cfg.size if isinstance(cfg, PreprocessCfg) else own)

    @property
    def context_length(self) -> int:
        """L, the most tokens of a text that the model reads."""
        return self.towers.context_length

    @property
    def logit_scale(self) -> float:
        """What similarities are multiplied by before they become probabilities: the exponential of the parameter."""
        return temperature(self.model)[0]

    @property
    def logit_bias(self) -> float | None:
        """What is added to them after that; None for a model trained with the softmax loss."""
        return temperature(self.model)[1]

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
        parts: list[Encoded] = []
        with reporting(progress, total, "pictures") as advance:
            for part in self.stream_images(images, batch_size=batch_size, on_error=on_error, decode=decode):
                parts.append(part)
                advance(len(part.kept) + len(part.skipped))
        found = Encoded.joined(parts, self.embed_dim)
        return found.features if on_error == "raise" else found

    def stream_images(
        self,
        images: Pictures,
        *,
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        decode: Decode = "exact",
    ) -> Generator[Encoded, None, None]:
        """`encode_images`, batch by batch: for more pictures than one wants to wait for or to hold.

        Yields:
            an `Encoded` a batch; its indices count from the first picture of all.
        """
        _check_choice("on_error", on_error, ("raise", "skip"))
        _check_positive("batch_size", batch_size)
        _check_choice("decode", decode, ("exact", "fast"))
        feed = Feed(self, decode)
        batches = read_ahead(
            images, feed.preprocess, batch_size, max_pixels=self.max_pixels, truncated=self.truncated
        )
        with closing(batches), closing(delayed(self._begin(feed, batches, on_error), by=feed.ahead)) as begun:
            for features, kept, skipped in begun:
                yield Encoded(features(), kept, skipped)

    def _begin(
        self, feed: Feed, batches: Iterator[list[Tensor | Skipped]], on_error: Raise | Skip
    ) -> Generator[tuple[Begun, list[int], list[Skipped]], None, None]:
        for pixels, kept, skipped in _parted(batches, on_error):
            yield feed.pictures(pixels) if pixels else self._no_features, kept, skipped

    def encode_pixels(self, batch: Array) -> Array:
        """Run the visual tower alone: (B, 3, H, W) floats, as `preprocess` makes them, on any device.

        Args:
            batch: a torch tensor or a NumPy array.

        Returns:
            (B, D), not normalised, without gradient: of a tensor a tensor, on the model's device and in its
            precision; of an array an array of float32.

        Raises:
            ShapeError: if the batch is not of that shape, or holds integers.
            ConfigError: if `preprocess` makes images of another size than the model takes.
        """
        return like(batch, self.towers.image(as_tensor(batch, "batch")))

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
        if not captions:  # which needs no tokenizer
            return self._no_features()
        try:
            unique = list(dict.fromkeys(captions))
        except TypeError:  # unhashable, hence not a string: the tokenizer says which
            unique = captions
        features = np.empty((len(unique), self.embed_dim), dtype=np.float32)
        tokenize = partial(self.tokenizer, context_length=self.context_length, overflow=overflow)
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

    def encode_tokens(self, ids: Array) -> Array:
        """Run the text tower alone: (B, L) ids, as `tokenizer` makes them, on any device.

        L may be less, unless the tower reads the padding too, as SigLIP's does: it takes whole rows only.

        Args:
            ids: a torch tensor or a NumPy array.

        Returns:
            (B, D), not normalised, without gradient, of the kind that was given: see `encode_pixels`.

        Raises:
            ShapeError: if ids are not of that shape, not integers, or shorter than the tower takes.
            TokenRangeError: if an id is outside the vocabulary.
        """
        return like(ids, self.towers.text(as_tensor(ids, "ids")))

    @overload
    def classify(  # type: ignore[overload-overlap]  # a string is one image, never several
        self, images: Picture, labels: Labels, template: Templates | None = ..., top: int | None = ...
    ) -> Ranking: ...

    @overload
    def classify(
        self,
        images: Iterable[Picture],
        labels: Labels,
        template: Templates | None = ...,
        top: int | None = ...,
    ) -> list[Ranking]: ...

    def classify(
        self, images: Pictures, labels: Labels, template: Templates | None = None, top: int | None = None
    ) -> Ranking | list[Ranking]:
        """Say which label fits an image best.

        Args:
            images: an image, or several, as `encode_images` takes them.
            labels: what it may show; no two of them alike.
            template: a sentence with `{}` where the label goes, such as "a photo of a {}", a function of the label,
                or a list of these, see `encode_labels`.
            top: how many labels to return; None for all.

        Returns:
            `[("a cat", 0.98), ("a dog", 0.02)]`, best first, for one image; for several, a list of
            such lists. See `probabilities` for what the numbers mean.

        Raises:
            ImageError: for an image that cannot be read.
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
        total = 1 if is_picture(images) else len(images) if isinstance(images, Sized) else None
        captions: list[str] = []
        with reporting(progress, total, "pictures") as advance:
            for part in self.stream_captions(images, prompt=prompt, batch_size=batch_size, **search):
                captions += part.captions
                advance(len(part.captions))
        return captions[0] if is_picture(images) else captions

    def stream_captions(
        self,
        images: Pictures,
        *,
        prompt: str = "",
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        **search: Any,
    ) -> Generator[Captioned, None, None]:
        """`caption`, batch by batch: with `on_error="skip"` images that cannot be read are left out and listed.

        Yields:
            a `Captioned` a batch; its indices count from the first image of all.
        """
        _check_choice("on_error", on_error, ("raise", "skip"))
        _check_positive("batch_size", batch_size)
        captioner = Captioner(self.model, self.tokenizer, prompt, self.name, search)
        batches = read_ahead(
            images, self.preprocess, batch_size, max_pixels=self.max_pixels, truncated=self.truncated
        )
        with closing(batches):
            for pixels, kept, skipped in _parted(batches, on_error):
                captions: list[str] = []
                if pixels:
                    captions = captioner.write(torch.stack(pixels).to(self.device, self.towers.dtype))
                yield Captioned(captions, kept, skipped)

    def encode_labels(self, labels: Labels, template: Templates | None = None) -> Features:
        """Encode what `classify` chooses from, refusing labels that would make its answer meaningless.

        Args:
            labels: M of them.
            template: as of `classify`. Of several the embeddings are averaged and normalised again, as published
                zero-shot classifiers are made (Radford et al. 2021, section 3.1.4).

        Returns:
            (M, D) float32 of unit length.

        Raises:
            TextError: as of `classify`.
        """
        names = [labels] if isinstance(labels, str) else list(labels)
        prompts = label_prompts(names, template)
        texts = [text for row in prompts for text in row]
        ids = self.tokenizer(texts, self.context_length, overflow="error")
        check_distinct(names, ids.numpy().reshape(len(names), -1))
        features = self.encode_texts(texts)
        if len(texts) == len(names):
            return features
        return mean_features(torch.from_numpy(features), len(names)).numpy()

    @overload
    def similarity(self, images: Tensor, texts: str | Iterable[str] | Features | Tensor) -> Tensor: ...

    @overload
    def similarity(
        self, images: Pictures | Features, texts: str | Iterable[str] | Features | Tensor
    ) -> Features: ...

    def similarity(
        self, images: Pictures | Features | Tensor, texts: str | Iterable[str] | Features | Tensor
    ) -> Features | Tensor:
        """Compare images with texts.

        Args:
            images: N of them as `encode_images` takes them, or their features, a tensor or an array (N, D) of floats.
                (A gray image of floats that is exactly D wide goes in a list.)
            texts: M of them as `encode_texts` takes them, or their features, likewise.

        Returns:
            (N, M) float32, the cosine of each image with each text; a tensor if the features of the images are one.

        Raises:
            ShapeError: for features of another shape.
            ImageError, TextError: for images and texts that cannot be encoded.
        """
        width = self.embed_dim
        found: Any = images if are_image_features(images, width) else self.encode_images(images)
        labels: Any = texts if are_text_features(texts) else self.encode_texts(texts)
        result: Features | Tensor = like(found, cosines(found, labels, width))
        return result

    def probabilities(self, image_features: Array, text_features: Features | Tensor) -> Array:
        """Features of images (N, D) and of labels (M, D) to probabilities (N, M).

        A model trained with the softmax loss, as nearly all are, says which label it is: a row adds up to 1,
        also when no label fits. One with a `logit_bias` was trained with the sigmoid loss (Zhai et al. 2023):
        it says of each label by itself whether it fits.

        Args:
            image_features: a torch tensor or a NumPy array.
            text_features: either of them, too.

        Returns:
            (N, M) float32 without gradient, of the kind of `image_features`, and where they are.

        Raises:
            ShapeError: for features of another shape.
        """
        similar, bias = cosines(image_features, text_features, self.embed_dim), self.logit_bias
        logits = (self.logit_scale * similar + (bias or 0.0)).cpu().numpy()
        found = torch.from_numpy(probabilities(logits, independent=bias is not None))
        return like(image_features, found.to(similar.device))

    def _no_features(self) -> Features:
        return np.empty((0, self.embed_dim), dtype=np.float32)


def _parted(
    batches: Iterable[list[Tensor | Skipped]], on_error: Raise | Skip
) -> Iterator[tuple[list[Tensor], list[int], list[Skipped]]]:
    """Split each batch into the images that were read, their places among all images, and the others.

    Raises:
        ImageError: for the first image that could not be read, with `on_error="raise"`.
    """
    first = 0
    for results in batches:
        skipped = [result for result in results if isinstance(result, Skipped)]
        if skipped and on_error == "raise":
            raise skipped[0].error
        kept = [first + i for i, result in enumerate(results) if isinstance(result, Tensor)]
        first += len(results)
        yield [result for result in results if isinstance(result, Tensor)], kept, skipped


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is {value!r} and must be {' or '.join(map(repr, choices))}")


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r} and must be a whole number from 1 on")
