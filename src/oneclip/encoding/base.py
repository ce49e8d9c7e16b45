"""Base class of encoders, without torch: batches of images and texts, labels and their ranking.

Shapes: N items, M labels, B items of a batch, L tokens, D joint embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence, Sized
from contextlib import closing
from functools import partial
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray

from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.encoding.checks import cfg_of, check_choice, check_positive, check_tokenizer, is_tokenizer
from oneclip.encoding.encoded import (
    Decode,
    Encoded,
    Features,
    Images,
    Labels,
    Places,
    Raise,
    Ranking,
    Skip,
    split_skipped,
)
from oneclip.encoding.pipeline import Pipeline, pipelined
from oneclip.errors import TextError
from oneclip.image import Truncated
from oneclip.image.decode import ImageSource
from oneclip.image.prefetch import is_single_image, prefetch_images
from oneclip.progress import Progress, report_progress
from oneclip.text import Tokenizer
from oneclip.text.batching.length_buckets import bucket_by_length
from oneclip.text.labels import Templates, check_distinct, label_prompts, rank_labels


class BaseEncoder(ABC):
    """Encoder of images and texts, whatever computes the towers.

    Args:
        tokenizer: texts to (N, L) ids; or a function that returns it, called at the first text, if its files may be
            missing.
        name: of the model in messages and stored results.
        max_pixels: images with more pixels are refused; None for the limit of `oneclip.image.open_image`.
        truncated: "refuse" or "accept" image files whose pixel data is incomplete.

    Attributes:
        cfg: configuration of the model.
    """

    cfg: ModelCfg

    def __init__(
        self,
        tokenizer: Tokenizer | Callable[[], Tokenizer],
        *,
        name: str,
        max_pixels: int | None = None,
        truncated: Truncated = "refuse",
    ) -> None:
        self.name, self.max_pixels, self.truncated = name, max_pixels, truncated
        self._tokenizer: Tokenizer | None = tokenizer if is_tokenizer(tokenizer) else None
        self._find_tokenizer = cast("Callable[[], Tokenizer]", tokenizer)

    # ------------------------------------------------------------------------------------------ what a backend provides

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the number of dimensions of an embedding."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of preprocessed images, in pixels."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """L, the greatest number of tokens of a text."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Precision of the arithmetic, such as "fp32" or "int8"."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """Factor of similarities before they become probabilities: the exponential of the model's parameter."""

    @property
    @abstractmethod
    def logit_bias(self) -> float | None:
        """Number that is added to scaled similarities; None for a model trained with the softmax loss."""

    @property
    @abstractmethod
    def preprocess(self) -> Any:
        """Preprocessing of one PIL image."""

    @abstractmethod
    def pipeline(self, decode: Decode = "exact") -> Pipeline:
        """Make the path of batches through the towers; `decode` is that of `encode_images`."""

    @abstractmethod
    def probabilities(self, image_features: Any, text_features: Any) -> Any:
        """Compute the probabilities (N, M) of labels from features of images (N, D) and labels (M, D)."""

    @abstractmethod
    def similarity(self, images: Any, texts: Any) -> Any:
        """Compute the cosine similarity (N, M) of images and texts, or of their features."""

    @abstractmethod
    def weights_digest(self) -> str:
        """Return the SHA-256 that is equal for encoders of the same weights."""

    @abstractmethod
    def token_ids(
        self,
        texts: Sequence[str],
        overflow: Literal["error", "truncate"] = "error",
        context_length: int | None = None,
    ) -> NDArray[np.int64]:
        """Tokenize texts for `Pipeline.start_texts`.

        Args:
            texts: N texts.
            overflow: "error" or "truncate", for a text with more than L tokens.
            context_length: L; None for that of the model.

        Returns:
            (N, L) int64 ids, with padding.

        Raises:
            TextTypeError, TextTooLongError: as of `encode_texts`.
        """

    @abstractmethod
    def mean_of_prompts(self, features: Features, labels: int) -> Features:
        """Average the features of the prompts of each label: (M * K, D) to (M, D), of unit length."""

    # --------------------------------------------------------------------------------------------- what all of them do

    @property
    def preprocess_cfg(self) -> PreprocessCfg:
        """Configuration of `preprocess`.

        Raises:
            ConfigError: if `preprocess` has no configuration.
        """
        return cfg_of(self.preprocess)

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of texts to (N, L) ids.

        Raises:
            TokenizerNotFoundError, DownloadError: if its files are missing; the message names them.
            ConfigError: when assigned, if it is not a tokenizer.
        """
        if self._tokenizer is None:
            self._tokenizer = self._find_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        check_tokenizer(tokenizer)
        self._tokenizer = tokenizer

    @overload
    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int = ...,
        on_error: Raise = ...,
        decode: Decode = ...,
        progress: Progress = ...,
    ) -> Features: ...

    @overload
    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int = ...,
        on_error: Skip,
        decode: Decode = ...,
        progress: Progress = ...,
    ) -> Encoded: ...

    def encode_images(
        self,
        images: Images,
        *,
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        decode: Decode = "exact",
        progress: Progress = False,
    ) -> Features | Encoded:
        """Encode images.

        Args:
            images: paths, bytes, open files, PIL images and arrays (H, W, 3), in any mixture; or one of these.
            batch_size: number of images that go through the model at once.
            on_error: "raise" an error for the first image that cannot be read, or "skip" the image.
            decode: "exact" for `preprocess`, bit for bit as published; "fast" is faster for large images and gives
                nearly the same pixels, see `oneclip.image.FastPreprocess`.
            progress: True for a bar on stderr, or a function that is called with the number of images just done.

        Returns:
            (N, D) float32 of unit length, always with two axes: (1, D) for one image, (0, D) for none.
            With `on_error="skip"` an `Encoded`, which can be unpacked: `features, kept, skipped = …`.

        Raises:
            ImageError: for an image that cannot be read; the message names the image.
        """
        parts: list[Encoded] = []
        with report_progress(progress, count_images(images), "images") as advance:
            for part in self.stream_images(images, batch_size=batch_size, on_error=on_error, decode=decode):
                parts.append(part)
                advance(len(part.kept) + len(part.skipped))
        encoded = Encoded.joined(parts, self.embed_dim)
        return encoded.features if on_error == "raise" else encoded

    def stream_images(
        self,
        images: Images,
        *,
        batch_size: int = 32,
        on_error: Raise | Skip = "raise",
        decode: Decode = "exact",
    ) -> Generator[Encoded, None, None]:
        """Encode images batch by batch; arguments as of `encode_images`.

        Yields:
            An `Encoded` for each batch; its indices count from the first of all images.
        """
        check_choice("decode", decode, ("exact", "fast"))
        pipeline = self.pipeline(decode)
        batches = self._read(images, pipeline.preprocess, batch_size, on_error)
        with closing(pipelined(batches, pipeline.start_images, pipeline.depth)) as started:
            for (kept, skipped), pending in started:
                yield Encoded(pending(), kept, skipped)

    def _read(
        self, images: Images, preprocess: Any, batch_size: int, on_error: Raise | Skip
    ) -> Generator[tuple[Places, list[Any]], None, None]:
        """Open and preprocess images in threads; see `split_skipped` for the batches."""
        check_choice("on_error", on_error, ("raise", "skip"))
        check_positive("batch_size", batch_size)
        batches = prefetch_images(
            images, preprocess, batch_size, max_pixels=self.max_pixels, truncated=self.truncated
        )
        return split_skipped(batches, on_error)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 512,
        overflow: Literal["error", "truncate"] = "error",
        progress: Progress = False,
    ) -> Features:
        """Encode texts; equal texts are computed once, and shared prefixes once if the tower allows it.

        Args:
            texts: several texts, or one.
            batch_size: number of texts that go through the model at once.
            overflow: "error" or "truncate", for a text with more tokens than the model reads.
            progress: True for a bar on stderr, or a function that is called with the number of texts just done.

        Returns:
            (N, D) float32 of unit length, in the order of `texts`; (1, D) for one text, (0, D) for none.

        Raises:
            TextTypeError: for a text that is not a string.
            TextTooLongError: for a text that is too long, unless it may be truncated; the message names the text.
        """
        check_choice("overflow", overflow, ("error", "truncate"))
        check_positive("batch_size", batch_size)
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:  # the tokenizer's files may be missing
            return np.empty((0, self.embed_dim), dtype=np.float32)
        try:
            unique = list(dict.fromkeys(texts))
        except TypeError:  # an item is not hashable, so it is not a string: the tokenizer raises for it
            unique = texts
        features = np.empty((len(unique), self.embed_dim), dtype=np.float32)
        tokenize = partial(self.token_ids, overflow=overflow)
        with report_progress(progress, len(texts), "texts") as advance:
            try:
                pipeline = self.pipeline()
                batches = bucket_by_length(unique, tokenize, batch_size, self.tokenizer.pad_token_id)
                for rows, pending in pipelined(batches, pipeline.start_texts, pipeline.depth):
                    features[rows] = pending()
                    advance(len(rows))
            except TextError:
                tokenize(texts)  # raises the same error with the index in the caller's list
                raise
            advance(len(texts) - len(unique))
        row_of = {text: row for row, text in enumerate(unique)}
        return features[[row_of[text] for text in texts]] if len(unique) < len(texts) else features

    @overload
    def classify(  # type: ignore[overload-overlap]  # a string is one image, never several
        self, images: ImageSource, labels: Labels, template: Templates | None = ..., top: int | None = ...
    ) -> Ranking: ...

    @overload
    def classify(
        self,
        images: Iterable[ImageSource],
        labels: Labels,
        template: Templates | None = ...,
        top: int | None = ...,
    ) -> list[Ranking]: ...

    def classify(
        self, images: Images, labels: Labels, template: Templates | None = None, top: int | None = None
    ) -> Ranking | list[Ranking]:
        """Rank labels by how well they fit an image.

        Args:
            images: one image, or several, as in `encode_images`.
            labels: what the image may show; all different.
            template: a sentence with `{}` in place of the label, such as "a photo of a {}"; a function of the label;
                or a list of these, see `encode_labels`.
            top: number of labels to return; None for all.

        Returns:
            `[("a cat", 0.98), ("a dog", 0.02)]`, best first, for one image; a list of these for several. See
            `probabilities` for the meaning of the numbers.

        Raises:
            ImageError: for an image that cannot be read.
            TextError: for labels that are empty, too long or equal, or a template without `{}`.
        """
        if top is not None:
            check_positive("top", top)
        names = [labels] if isinstance(labels, str) else list(labels)
        label_features = self.encode_labels(names, template)
        rows = self.probabilities(self.encode_images(images), label_features)
        rankings = [rank_labels(names, row, top) for row in rows]
        return rankings[0] if is_single_image(images) else rankings

    def encode_labels(self, labels: Labels, template: Templates | None = None) -> Features:
        """Encode the labels of `classify`; labels that would make its result meaningless are refused.

        Args:
            labels: M labels.
            template: as of `classify`. The embeddings of several templates are averaged and normalized again, as in
                published zero-shot classifiers (Radford et al. 2021, section 3.1.4).

        Returns:
            (M, D) float32 of unit length.

        Raises:
            TextError: as of `classify`.
        """
        names = [labels] if isinstance(labels, str) else list(labels)
        prompts = label_prompts(names, template)
        texts = [text for row in prompts for text in row]
        ids = self.token_ids(texts)
        check_distinct(names, ids.reshape(len(names), -1))
        features = self.encode_texts(texts)
        return features if len(texts) == len(names) else self.mean_of_prompts(features, len(names))


def count_images(images: Images) -> int | None:
    """Return the number of images; None if it is unknown, as for a generator."""
    return 1 if is_single_image(images) else len(images) if isinstance(images, Sized) else None
