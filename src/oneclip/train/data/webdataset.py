"""Training data from tar files in the WebDataset layout, read by byte ranges through an index of each tar."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import DataError, DownloadError
from oneclip.hub.addresses import expand_pattern, is_address
from oneclip.hub.file_types import UnsupportedFiles, image_suffixes
from oneclip.hub.ranges import Range, read_ranges
from oneclip.progress import Progress, report_progress
from oneclip.train.data.dataset import PairDataset, Sample
from oneclip.train.data.tar_index import TarIndex, compressed_tar_error, tar_index

REMOTE_BLOCK_SIZE = 16  # samples of a remote tar that are read in one request
_CACHED_SAMPLES = 1 << 24  # samples whose byte ranges stay in memory; beyond that, an index is read again


class SampleSpans(NamedTuple):
    """Byte ranges of the n samples of one tar.

    Attributes:
        keys: all keys of the tar, joined by zero bytes.
        numbers: (n,) int64 number of each sample's key.
        images, captions: (n, 2) int64 first byte, and the byte after the last.
    """

    keys: bytes
    numbers: NDArray[np.int64]
    images: NDArray[np.int64]
    captions: NDArray[np.int64]


class WebDataset(PairDataset):
    """Images and captions in tar files: `000123.jpg` next to `000123.txt` or `000123.json`.

    Args:
        places: paths or addresses (https, and those that fsspec reads: s3://, gs://, …). `{000..009}`, `*` and `?` are
            expanded.
        captions: file type of the captions: "txt", or "json" for a caption in a field of a JSON file.
        field: name of that field. It contains one caption or a list of captions.
        skip_broken: use the readable part of truncated tars and leave out files that are not tars; both are then
            listed in `skipped`.
        threads: number of threads that index tars.
        progress: of indexing; see `oneclip.progress.reporting`.

    Attributes:
        left_out: number of keys without an image or without a caption.

    Raises:
        DataError: if a tar is missing, damaged or compressed, or no tar has a sample.
    """

    def __init__(
        self,
        places: str | Sequence[str],
        *,
        captions: str = "txt",
        field: str = "caption",
        skip_broken: bool = False,
        threads: int = 8,
        progress: Progress = False,
    ) -> None:
        super().__init__()
        patterns = [places] if isinstance(places, str) else places
        self.places = [place for pattern in patterns for place in expand_pattern(pattern)]
        self.captions, self.field, self.skip_broken = captions, field, skip_broken
        self.block_size = REMOTE_BLOCK_SIZE if any(map(is_address, self.places)) else 1
        self._reset_cache()
        tars = list(range(len(self.places)))
        random.Random(os.getpid()).shuffle(tars)  # processes that start together share the work
        found = {}
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="oneclip-index") as pool,
            report_progress(progress, len(tars), "tars") as done,
        ):
            for tar, summary in zip(tars, pool.map(self._index_tar, tars), strict=True):
                found[tar] = summary
                done(1)
        counts, lacking, digests, not_read = zip(*(found[tar] for tar in sorted(tars)), strict=True)
        for others in not_read:
            self.not_read.update(others)
        self.left_out = sum(lacking)
        self._starts = np.cumsum([0, *counts])
        self._digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        if not len(self):
            raise DataError(self._no_samples_message())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, number: int) -> Sample:
        sample = self.read_many([number])[0]
        if isinstance(sample, Exception):
            raise sample
        return sample

    def read_many(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        """Read several samples; neighbours in a tar are read in one request.

        Raises:
            DownloadError: if a tar cannot be reached. Its samples do not count as broken.
        """
        found: dict[int, Sample | Exception] = {}
        for tar in dict.fromkeys(self._tar_of(number) for number in numbers):
            own = [number for number in numbers if self._tar_of(number) == tar]
            found |= zip(own, self._read_tar(tar, [n - int(self._starts[tar]) for n in own]), strict=True)
        return [found[number] for number in numbers]

    def name(self, number: int) -> str:
        tar = self._tar_of(number)
        spans = self._spans_of(tar)
        key = spans.keys.split(b"\0")[int(spans.numbers[number - int(self._starts[tar])])]
        return f"{self.places[tar]}/{key.decode('utf-8', 'surrogateescape')}"

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": self._digest, "samples": len(self)}

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in vars(self).items()
            if key not in ("_spans", "_cached_samples", "_lock")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset_cache()

    def _reset_cache(self) -> None:
        self._spans: OrderedDict[int, SampleSpans] = OrderedDict()
        self._cached_samples = 0
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- contents

    def _read_tar(self, tar: int, inside: Sequence[int]) -> list[Sample | Exception]:
        place, spans, first = self.places[tar], self._spans_of(tar), int(self._starts[tar])
        ranges: list[Range] = []
        for number in inside:
            ranges += [tuple(spans.images[number].tolist()), tuple(spans.captions[number].tolist())]
        try:
            contents = read_ranges(place, ranges)
        except DownloadError:
            raise
        except OSError as error:
            raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
        samples: list[Sample | Exception] = []
        for number, image, caption in zip(inside, contents[::2], contents[1::2], strict=True):
            try:
                samples.append(Sample(image, self._parse_captions(caption)))
            except Exception as error:  # invalid Unicode or JSON, or JSON that is nested too deeply
                name = self.name(first + number)
                samples.append(DataError(f"the caption of {name} cannot be read: {error}"))
        return samples

    def _parse_captions(self, content: bytes) -> list[str]:
        text = content.decode("utf-8-sig")
        if self.captions.rpartition(".")[2] != "json":
            return [text.strip()]
        values = json.loads(text)
        value = values.get(self.field) if isinstance(values, dict) else None
        return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]

    # ---------------------------------------------------------------- indexes

    def _tar_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _index_tar(self, tar: int) -> tuple[int, int, str, UnsupportedFiles]:
        """Index a tar: number of samples, number of incomplete keys, digest, and files that cannot be read here."""
        place = self.places[tar]
        if place.lower().endswith((".gz", ".tgz")):
            raise compressed_tar_error(place)
        index = tar_index(place)
        if index.damage:
            message = f"{place} is truncated or damaged after {_count_keys(index)} samples: {index.damage}"
            if not self.skip_broken:
                raise DataError(
                    f"{message}. Download or write it again, or use its readable part (skip_broken, --skip)"
                )
            self.skipped[place] = message
        spans = self._cache(tar, index)
        count = len(spans.numbers)
        return count, _count_keys(index) - count, index.digest, _unreadable_files(index)

    def _spans_of(self, tar: int) -> SampleSpans:
        with self._lock:
            if tar in self._spans:
                self._spans.move_to_end(tar)
                return self._spans[tar]
        spans = self._cache(tar, tar_index(self.places[tar]))
        if len(spans.numbers) != self._starts[tar + 1] - self._starts[tar]:
            raise DataError(f"{self.places[tar]} has changed since the training started; start it again")
        return spans

    def _cache(self, tar: int, index: TarIndex) -> SampleSpans:
        spans = self._select_samples(index)
        with self._lock:
            if tar in self._spans:  # another thread was faster
                return spans
            self._spans[tar] = spans
            self._cached_samples += len(spans.numbers)
            while self._cached_samples > _CACHED_SAMPLES and len(self._spans) > 1:
                self._cached_samples -= len(self._spans.popitem(last=False)[1].numbers)
        return spans

    def _select_samples(self, index: TarIndex) -> SampleSpans:
        """Select the keys with an image and a caption, and the first file of each kind."""
        suffixes = image_suffixes()
        images = _first_members(index, [kind for kind in index.kinds if f".{kind}" in suffixes])
        captions = _first_members(index, [kind for kind in index.kinds if kind == self.captions])
        numbers, image_rows, caption_rows = np.intersect1d(
            index.samples[images], index.samples[captions], assume_unique=True, return_indices=True
        )
        spans = np.stack([index.starts, index.starts + index.sizes], axis=1)
        return SampleSpans(
            index.keys,
            numbers.astype(np.int64),
            spans[images[image_rows]],
            spans[captions[caption_rows]],
        )

    def _no_samples_message(self) -> str:
        kinds = sorted({kind for place in self.places[:1] for kind in tar_index(place).kinds})
        return (
            f"no sample of {self.places[0]}{' and others' * (len(self.places) > 1)} has both an image and a caption "
            f"(.{self.captions}); the file types found are: {', '.join('.' + kind for kind in kinds) or 'none'}. "
            "Set the file type of the captions (captions='json')"
            + (f". {self.not_read.sentence}" if self.not_read else "")
        )


def _count_keys(index: TarIndex) -> int:
    return int(index.samples[-1]) + 1 if len(index.samples) else 0


def _unreadable_files(index: TarIndex) -> UnsupportedFiles:
    """Count the images and videos in a tar that this installation cannot read."""
    suffixes, found = image_suffixes(), UnsupportedFiles()
    for number, kind in enumerate(index.kinds):
        if f".{kind}" not in suffixes:
            found.count_file(f"a.{kind}", int(np.count_nonzero(index.kind == number)))
    return found


def _first_members(index: TarIndex, kinds: Sequence[str]) -> NDArray[np.int64]:
    """Return the row of the first member of these kinds, for each sample that has one."""
    wanted = [index.kinds.index(kind) for kind in kinds]
    there = np.flatnonzero(np.isin(index.kind, wanted))
    return there[np.unique(index.samples[there], return_index=True)[1]]
