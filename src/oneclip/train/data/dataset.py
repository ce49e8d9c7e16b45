"""Base class of all training datasets: pairs of an image and its captions, read by number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oneclip.errors import ImageNotFoundError
from oneclip.hub.addresses import read_bytes
from oneclip.hub.file_types import UnsupportedFiles
from oneclip.image import ImageSource

SAME = "same"
"""Key of `Batch.extra`: pairs with the same number (0 or more) are not negatives of each other."""
LABEL = "label"
"""Key of `Batch.extra`: the number of the class; -1 for a pair without a class."""


class Sample(NamedTuple):
    """An image, not decoded yet, and its captions."""

    image: ImageSource
    captions: Sequence[str]  # one is drawn each time the sample is used
    extra: Mapping[str, int] = {}  # more numbers, for `Batch.extra`; the default is never written to


class PairDataset(ABC):
    """Images with captions, read by number in any order and from any thread.

    A subclass implements `__len__`, `read` and `identity`, and its objects can be pickled.

    Attributes:
        block_size: how many consecutive samples should be read in one request; 1 if reading them one by one costs
            nothing. The sampler keeps that many neighbours together.
        skipped: samples that were left out when the dataset was opened: name and reason.
        left_out: number of rows or keys without an image or without a caption.
        not_read: images and videos in tars that this installation cannot read.
        extras: names of the numbers in `Sample.extra`. A sample that lacks one gets -1.
    """

    block_size: int = 1
    extras: tuple[str, ...] = ()
    left_out: int = 0

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self.not_read = UnsupportedFiles()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples, at least one."""

    @abstractmethod
    def read(self, number: int) -> Sample:
        """Read sample `number`, counted from 0.

        Raises:
            Exception: of any kind if this sample cannot be read. It then counts as broken; other samples do not.
        """

    def read_many(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        """Read several samples. Each result is a sample or the error that reading it raised."""
        found: list[Sample | Exception] = []
        for number in numbers:
            try:
                found.append(self.read(number))
            except Exception as error:
                found.append(error)
        return found

    def name(self, number: int) -> str:
        """Return the name of a sample for messages, even if the sample cannot be read."""
        return f"sample {number}"

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str | int | float]:
        """Plain values that change when the samples or their order change."""


def fetch_image(address: str) -> bytes:
    """Download the bytes of an image.

    Raises:
        ImageNotFoundError: if the address has no file.
        DownloadError: if the address cannot be read.
    """
    try:
        return read_bytes(address)
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{address}: no such file") from error


def stable_id(name: str) -> int:
    """Return a 63-bit number for a name: the same in every process, and different for different names in practice."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
