"""Encode the images of a split for one or several models, each image decoded once, into caches by content.

Shapes: N images, D joint embedding.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from oneclip.embed.cache import EmbeddingCache
from oneclip.embed.items import Failure, Item
from oneclip.embed.prefetch import DecodedItem, StageTimer, UnreadableItem, prefetch_items
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.throughput import EmbedProgress, ThroughputMeter
from oneclip.evaluate.data.dataset import Sample
from oneclip.evaluate.encoded import Embeddings, EncodedSplit, TextEncoder
from oneclip.evaluate.evaluated_model import EvaluatedModel
from oneclip.hub.cache import cache_folder
from oneclip.image import check_header, open_image

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

Report = Callable[[EmbedProgress], None]
Cache: TypeAlias = "str | os.PathLike[str] | Literal[False] | None"
REMEDY = "use --cache none (in Python, cache=False)"
Pixels = dict[int, Any]  # tensors (3, H, W), by the number of their preprocessing


class EmbeddingCaches:
    """Caches of image and text embeddings, one for each model. A context manager.

    Args:
        folder: of the caches; None for a temporary folder, which is removed at the end.
        remedy: how to do without the caches, for errors.
    """

    def __init__(self, folder: Path | None, remedy: str = REMEDY) -> None:
        self._remedy = remedy
        self._open = ExitStack()
        self.folder = folder or Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self._caches: dict[EmbeddingMetadata, EmbeddingCache] = {}

    def __enter__(self) -> EmbeddingCaches:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def images_of(self, model: EvaluatedModel) -> EmbeddingCache:
        """Return the cache of a model's image embeddings.

        Embeddings of incomplete files are apart, because an evaluation that refuses such files must not find them.

        Raises:
            OutputError: if it cannot be written.
        """
        complete = model.encoder.truncated == "refuse"
        return self._cache(model, model.metadata, self.folder if complete else self.folder / "truncated")

    def texts_of(self, model: EvaluatedModel) -> EmbeddingCache:
        """Return the cache of a model's text embeddings; see `images_of`."""
        return self._cache(model, model.text_metadata, self.folder)

    def _cache(self, model: EvaluatedModel, metadata: EmbeddingMetadata, folder: Path) -> EmbeddingCache:
        if metadata not in self._caches:
            cache = EmbeddingCache(folder, metadata, model.encoder.embed_dim, remedy=self._remedy)
            self._caches[metadata] = self._open.enter_context(cache)
        return self._caches[metadata]


def default_cache() -> Path:
    """Return the folder of the caches: `embeddings` in the folder of downloads, see `oneclip.hub.cache_folder`."""
    return cache_folder() / "embeddings"


def open_caches(cache: Cache = None, remedy: str = REMEDY) -> EmbeddingCaches:
    """Open the caches.

    Args:
        cache: their folder; None for `default_cache()`, or a temporary folder if that cannot be written; False for a
            temporary folder.
        remedy: see `EmbeddingCaches`.
    """
    if cache is None:
        folder = default_cache()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cache = folder if os.access(folder, os.W_OK) else False
        except OSError:
            cache = False
    return EmbeddingCaches(None if cache is False else Path(cache), remedy)


def encode_split(
    models: Sequence[EvaluatedModel],
    samples: Iterable[Sample | Failure],
    caches: EmbeddingCaches,
    *,
    batch_size: int = 32,
    report: Report = lambda report: None,
) -> list[EncodedSplit]:
    """Encode the images of a split for each model; each image is read and decoded once.

    Embeddings are cached batch by batch, so that an interrupted run continues where it stopped.

    Args:
        models: one or several.
        samples: of the split; a `Failure` is passed on to `EncodedSplit.skipped`.
        caches: of embeddings.
        batch_size: images per forward pass.
        report: called with the progress, at most twice a second.

    Returns:
        One `EncodedSplit` per model, with the same samples.

    Raises:
        CheckpointError: if an embedding is not finite.
        OutputError: if the cache cannot be written.
    """
    preprocessings = _Preprocessings([model.encoder for model in models])
    columns = [
        _EmbeddingColumn(model.encoder, caches.images_of(model), caches.folder, batch_size)
        for model in models
    ]
    used: list[Sample] = []
    skipped: list[Failure] = []
    listed: deque[Sample] = deque()  # samples whose items are being read
    timer = StageTimer()
    meter = ThroughputMeter(timer, len(samples) if isinstance(samples, Sized) else None, report)
    with ExitStack() as stack:
        for column in columns:
            stack.enter_context(closing(column))
        found = prefetch_items(
            [_SampleSource(samples, listed)],
            partial(preprocessings.decode, missing=partial(_missing, columns)),
            partial(_find, columns),
            timer,
            depth=2 * batch_size + 8,
            check_header=partial(check_header, max_pixels=models[0].encoder.max_pixels),
        )
        with closing(found):
            for entry in found:
                meter.advance()
                if isinstance(entry, Failure):
                    skipped.append(entry)
                    continue
                sample = listed.popleft()
                if isinstance(entry, UnreadableItem):
                    skipped.append(Failure(entry.item.name, entry.reason))
                    continue
                used.append(sample)
                with timer.measure("model"):
                    _add(columns, preprocessings.numbers, entry)
        with timer.measure("model"):
            return [EncodedSplit(column.finish(), used, skipped) for column in columns]


def text_encoder(model: EvaluatedModel, caches: EmbeddingCaches) -> TextEncoder:
    """Return the text side of a model; each text is encoded once, in this run and in others with the same cache."""
    encoder = model.encoder

    def encode(texts: Sequence[str]) -> Embeddings:
        cache = caches.texts_of(model)
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        known = {digest: cache.find(digest) for digest in dict.fromkeys(digests)}
        new = {d: text for d, text in zip(digests, texts, strict=True) if known[d] is None}
        made = dict(zip(new, encoder.encode_texts(list(new.values()), overflow="truncate"), strict=True))
        cache.add(made)
        rows = [made[d] if d in made else known[d] for d in digests]
        return np.array(rows, np.float32).reshape(len(texts), encoder.embed_dim)

    return TextEncoder(encode, encoder.logit_scale, encoder.logit_bias)


class _Preprocessings:
    """The different preprocessings of several encoders; encoders that prepare images equally share the result.

    Attributes:
        numbers: of the preprocessing of each encoder.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        keys = [
            # an exported model takes arrays, of bytes if it normalizes them itself
            (
                str(encoder.preprocess_cfg.to_dict()),
                str(encoder.device),
                encoder.precision,
                type(encoder),
                getattr(getattr(encoder, "exported", None), "uint8_input", False),
            )
            for encoder in encoders
        ]
        distinct = list(dict.fromkeys(keys))
        self.numbers = [distinct.index(key) for key in keys]
        self._functions = [
            encoders[self.numbers.index(number)].pipeline().preprocess for number in range(len(distinct))
        ]
        self._max_pixels, self._truncated = encoders[0].max_pixels, encoders[0].truncated

    def decode(self, content: io.BytesIO, missing: Callable[[str], Sequence[int]]) -> Pixels:
        """Decode an image once, and prepare it for each encoder without an embedding of it. Called in threads.

        Args:
            content: bytes of the image file.
            missing: maps the digest of the content to the numbers of these encoders.
        """
        if len(self._functions) == 1:
            numbers = {0}
        else:
            needed = missing(hashlib.sha256(content.getbuffer()).hexdigest())
            numbers = {self.numbers[i] for i in needed}
        image = open_image(content, max_pixels=self._max_pixels, truncated=self._truncated)
        return {number: self._functions[number](image) for number in numbers}


class _EmbeddingColumn:
    """Embeddings of one model in the order of the samples, written to a temporary file as they are made.

    Args:
        encoder: the model.
        cache: of its embeddings.
        folder: of the temporary file.
        batch_size: images per forward pass.
    """

    def __init__(self, encoder: Encoder, cache: EmbeddingCache, folder: Path, batch_size: int) -> None:
        self.cache, self._batch_size, self._dim = cache, batch_size, encoder.embed_dim
        self._pipeline = encoder.pipeline()
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._rows = 0
        self._batch: list[tuple[int, str, Any]] = []  # row, digest, pixels
        self._started: deque[tuple[Sequence[int], Sequence[str], Callable[[], Embeddings]]] = deque()

    def close(self) -> None:
        """Close the file; embeddings that are mapped from it stay readable."""
        self._file.close()

    def add(self, digest: str, pixels: Any) -> None:
        """Add an image to the next batch."""
        self._batch.append((self._rows, digest, pixels))
        self._rows += 1
        if len(self._batch) == self._batch_size:
            self._start()
            if len(self._started) > self._pipeline.depth:
                self._store()

    def add_known(self, embedding: Embeddings) -> None:
        """Add an embedding (D,)."""
        self._write(self._rows, embedding)
        self._rows += 1

    def finish(self) -> Embeddings:
        """Encode what is left, and return all embeddings (N, D), mapped from the file."""
        self._start()
        while self._started:
            self._store()
        self._file.flush()
        shape = (self._rows, self._dim)
        return (
            np.memmap(self._file, np.float32, "r", shape=shape) if self._rows else np.empty(shape, np.float32)
        )

    def _start(self) -> None:
        if self._batch:
            rows, digests, pixels = zip(*self._batch, strict=True)
            self._batch = []
            self._started.append((rows, digests, self._pipeline.start_images(pixels)))

    def _store(self) -> None:
        rows, digests, fetch = self._started.popleft()
        embeddings = fetch()
        self.cache.add(dict(zip(digests, embeddings, strict=True)))
        for row, embedding in zip(rows, embeddings, strict=True):
            self._write(row, embedding)

    def _write(self, row: int, embedding: Embeddings) -> None:
        self._file.seek(row * self._dim * 4)
        self._file.write(embedding.astype(np.float32, copy=False).tobytes())


class _SampleSource:
    """Source of the items of samples; each sample is noted in `listed` when its item is read."""

    name, is_bulky = "samples", False

    def __init__(self, samples: Iterable[Sample | Failure], listed: deque[Sample]) -> None:
        self._samples, self._listed = samples, listed

    def count(self) -> int | None:
        return len(self._samples) if isinstance(self._samples, Sized) else None

    def __iter__(self) -> Iterator[Item | Failure]:
        for sample in self._samples:
            if isinstance(sample, Sample):
                self._listed.append(sample)
                yield sample.item
            else:
                yield sample


def _find(columns: Sequence[_EmbeddingColumn], item: Item, digest: str) -> list[Embeddings] | None:
    """Return the cached embeddings (D,) of an image for all models, or None if one of them has none."""
    found: list[Embeddings] = []
    for column in columns:
        embedding = column.cache.find(digest)
        if embedding is None:
            return None
        found.append(embedding)
    return found


def _missing(columns: Sequence[_EmbeddingColumn], digest: str) -> list[int]:
    """Return the numbers of the models without an embedding of this content."""
    return [i for i, column in enumerate(columns) if column.cache.find(digest) is None]


def _add(columns: Sequence[_EmbeddingColumn], numbers: Sequence[int], entry: DecodedItem) -> None:
    """Add an image that was read to the embeddings of each model."""
    for i, (column, number) in enumerate(zip(columns, numbers, strict=True)):
        if entry.is_known:
            column.add_known(entry.value[i])
            continue
        pixels: Mapping[int, Any] = entry.value
        known = None if number in pixels and len(columns) == 1 else column.cache.find(entry.digest)
        if known is not None:
            column.add_known(known)
        else:
            column.add(entry.digest, pixels[number])
