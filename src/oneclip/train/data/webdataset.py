"""Tar files in webdataset's form to samples, read by ranges through an index of each tar."""

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
from oneclip.hub.addresses import expand, is_address
from oneclip.hub.file_types import NotRead, image_suffixes
from oneclip.hub.ranges import Range, read_ranges
from oneclip.progress import Progress, reporting
from oneclip.train.data.samples import Sample, Samples
from oneclip.train.data.tar_index import TarIndex, compressed, tar_index

REMOTE_RUN = 16  # samples of a tar behind an address that are asked for at once
_KEPT = 1 << 24  # samples whose places are in memory; tars that have more are looked up again


class Rows(NamedTuple):
    """The samples of one tar: (n,) int64 numbers of their keys, and where picture and caption are."""

    keys: bytes
    numbers: NDArray[np.int64]
    pictures: NDArray[np.int64]  # (n, 2): first byte, and the one after the last
    captions: NDArray[np.int64]  # (n, 2)


class ShardSamples(Samples):
    """Pictures and captions in tar files: `000123.jpg` beside `000123.txt` or `000123.json`.

    Args:
        places: paths or addresses (https, and what fsspec knows: s3://, gs://, …), with `{000..009}`, `*` and `?`
            replaced by what they mean.
        captions: the kind of a caption's member, "txt", or "json" for one that has it under a name.
        field: that name. A list there is several captions.
        skip_broken: use what can be read of tars that are cut short, and leave out those that are none; they are
            then in `skipped`.
        threads: that index.
        progress: of indexing, as `oneclip.progress.reporting` takes it.

    Attributes:
        left_out: how many keys lack a picture or a caption.

    Raises:
        DataError: if a tar is missing, damaged or compressed, or none has a sample.
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
        words = [places] if isinstance(places, str) else places
        self.places = [place for word in words for place in expand(word)]
        self.captions, self.field, self.skip_broken = captions, field, skip_broken
        self.run = REMOTE_RUN if any(map(is_address, self.places)) else 1
        self._forget()
        tars = list(range(len(self.places)))
        random.Random(os.getpid()).shuffle(tars)  # processes that begin together share the work
        found = {}
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="oneclip-index") as pool,
            reporting(progress, len(tars), "tars") as done,
        ):
            for tar, facts in zip(tars, pool.map(self._examine, tars), strict=True):
                found[tar] = facts
                done(1)
        counts, lacking, digests, not_read = zip(*(found[tar] for tar in sorted(tars)), strict=True)
        for others in not_read:
            self.not_read.update(others)
        self.left_out = sum(lacking)
        self._starts = np.cumsum([0, *counts])
        self._digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
        if not len(self):
            raise DataError(self._nothing())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, number: int) -> Sample:
        sample = self.read_run([number])[0]
        if isinstance(sample, Exception):
            raise sample
        return sample

    def read_run(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        """Several samples; neighbours in a tar are read at once.

        Raises:
            DownloadError: if a tar cannot be reached: that is no broken sample.
        """
        found: dict[int, Sample | Exception] = {}
        for tar in dict.fromkeys(self._tar_of(number) for number in numbers):
            own = [number for number in numbers if self._tar_of(number) == tar]
            found |= zip(own, self._read_tar(tar, [n - int(self._starts[tar]) for n in own]), strict=True)
        return [found[number] for number in numbers]

    def name(self, number: int) -> str:
        tar = self._tar_of(number)
        rows = self._rows_of(tar)
        key = rows.keys.split(b"\0")[int(rows.numbers[number - int(self._starts[tar])])]
        return f"{self.places[tar]}/{key.decode('utf-8', 'surrogateescape')}"

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": self._digest, "samples": len(self)}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_rows", "_kept", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._rows: OrderedDict[int, Rows] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- contents

    def _read_tar(self, tar: int, inside: Sequence[int]) -> list[Sample | Exception]:
        place, rows, first = self.places[tar], self._rows_of(tar), int(self._starts[tar])
        ranges: list[Range] = []
        for number in inside:
            ranges += [tuple(rows.pictures[number].tolist()), tuple(rows.captions[number].tolist())]
        try:
            contents = read_ranges(place, ranges)
        except DownloadError:
            raise
        except OSError as error:
            raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
        samples: list[Sample | Exception] = []
        for number, picture, caption in zip(inside, contents[::2], contents[1::2], strict=True):
            try:
                samples.append(Sample(picture, self._texts(caption)))
            except Exception as error:  # of Unicode and JSON, which may also be too deep
                name = self.name(first + number)
                samples.append(DataError(f"the caption of {name} cannot be read: {error}"))
        return samples

    def _texts(self, content: bytes) -> list[str]:
        text = content.decode("utf-8-sig")
        if not self._is_json:
            return [text.strip()]
        values = json.loads(text)
        value = values.get(self.field) if isinstance(values, dict) else None
        return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]

    @property
    def _is_json(self) -> bool:
        return self.captions.rpartition(".")[2] == "json"

    # ---------------------------------------------------------------- indexes

    def _tar_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1

    def _examine(self, tar: int) -> tuple[int, int, str, NotRead]:
        """How many samples a tar has, how many keys lack something, a digest, and what is not read. Keeps places."""
        place = self.places[tar]
        if place.lower().endswith((".gz", ".tgz")):
            raise compressed(place)
        index = tar_index(place)
        if index.damage:
            message = f"{place} is cut short or damaged after {_count(index)} samples: {index.damage}"
            if not self.skip_broken:
                raise DataError(
                    f"{message}. Fetch or write it again, or have what is whole used (skip_broken)"
                )
            self.skipped[place] = message
        rows = self._keep(tar, index)
        return len(rows.numbers), _count(index) - len(rows.numbers), index.digest, _not_read(index)

    def _rows_of(self, tar: int) -> Rows:
        with self._lock:
            if tar in self._rows:
                self._rows.move_to_end(tar)
                return self._rows[tar]
        rows = self._keep(tar, tar_index(self.places[tar]))
        if len(rows.numbers) != self._starts[tar + 1] - self._starts[tar]:
            raise DataError(f"{self.places[tar]} has changed since the training began; start it again")
        return rows

    def _keep(self, tar: int, index: TarIndex) -> Rows:
        rows = self._choose(index)
        with self._lock:
            if tar in self._rows:  # another thread was first
                return rows
            self._rows[tar] = rows
            self._kept += len(rows.numbers)
            while self._kept > _KEPT and len(self._rows) > 1:
                self._kept -= len(self._rows.popitem(last=False)[1].numbers)
        return rows

    def _choose(self, index: TarIndex) -> Rows:
        """The samples that have both a picture and a caption: the first of each."""
        suffixes = image_suffixes()
        pictures = _first(index, [kind for kind in index.kinds if f".{kind}" in suffixes])
        captions = _first(index, [kind for kind in index.kinds if kind == self.captions])
        numbers, of_pictures, of_captions = np.intersect1d(
            index.samples[pictures], index.samples[captions], assume_unique=True, return_indices=True
        )
        spans = np.stack([index.starts, index.starts + index.sizes], axis=1)
        return Rows(
            index.keys,
            numbers.astype(np.int64),
            spans[pictures[of_pictures]],
            spans[captions[of_captions]],
        )

    def _nothing(self) -> str:
        kinds = sorted({kind for place in self.places[:1] for kind in tar_index(place).kinds})
        return (
            f"no sample of {self.places[0]}{' and others' * (len(self.places) > 1)} has both a picture and a caption "
            f"(.{self.captions}); it has {', '.join('.' + kind for kind in kinds) or 'no files'}. "
            "Name the kind of captions (captions='json')"
            + (f". {self.not_read.sentence}" if self.not_read else "")
        )


def _count(index: TarIndex) -> int:
    return int(index.samples[-1]) + 1 if len(index.samples) else 0


def _not_read(index: TarIndex) -> NotRead:
    """Images and videos in a tar that are not read here."""
    suffixes, found = image_suffixes(), NotRead()
    for number, kind in enumerate(index.kinds):
        if f".{kind}" not in suffixes:
            found.see(f"a.{kind}", int(np.count_nonzero(index.kind == number)))
    return found


def _first(index: TarIndex, kinds: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of members of these kinds, the first of each sample."""
    wanted = [index.kinds.index(kind) for kind in kinds]
    there = np.flatnonzero(np.isin(index.kind, wanted))
    return there[np.unique(index.samples[there], return_index=True)[1]]
