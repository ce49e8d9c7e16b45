"""A sample's number to its picture and captions: what every kind of training data is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from oneclip.errors import ImageNotFoundError
from oneclip.hub.addresses import read_bytes
from oneclip.hub.file_types import NotRead
from oneclip.image import ImageSource


def fetched(address: str) -> bytes:
    """The bytes of a picture behind an address.

    Raises:
        ImageNotFoundError: if there is none.
        DownloadError: if the address does not give it.
    """
    try:
        return read_bytes(address)
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{address}: no such file") from error


SAME = "same"
"""In `Batch.extra`: pairs with the same number, 0 or more, are no negatives of each other."""
LABEL = "label"
"""In `Batch.extra`: the number of the class; -1 for a pair that has none."""


class Sample(NamedTuple):
    """A picture, not decoded yet, and what is said of it."""

    picture: ImageSource
    captions: Sequence[str]  # one is drawn each time
    extra: Mapping[str, int] = {}  # further numbers, for `Batch.extra`; a default that nothing writes to


def number_of(name: str) -> int:
    """A number, 0 or more, that practically no other name has, the same in every process."""
    return (
        int.from_bytes(
            hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
        )
        >> 1
    )


class Samples(ABC):
    """Pictures with captions, read by number in any order, from any thread.

    Whoever makes a kind of it gives `__len__`, `read` and `identity`; objects of it can be pickled.

    Attributes:
        run: how many samples that follow one another should be read at once; 1 where each may as well be read
            alone. The order of a training keeps so many together.
        skipped: names of what was left out beforehand, and why.
        left_out: how many rows or keys lack a picture or a caption.
        not_read: images and videos in tars that are not read here.
        extras: the names of the numbers that its samples have in `extra`; -1 stands for one that is missing.
    """

    run: int = 1
    extras: tuple[str, ...] = ()
    left_out: int = 0

    def __init__(self) -> None:
        self.skipped: dict[str, str] = {}
        self.not_read = NotRead()

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are; at least one."""

    @abstractmethod
    def read(self, number: int) -> Sample:
        """Sample `number`, from 0.

        Raises:
            Exception: of any kind, if this one cannot be had: it counts as broken, others do not.
        """

    def read_run(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        """Several samples, each of them or why it cannot be had."""
        return [self._try(number) for number in numbers]

    def name(self, number: int) -> str:
        """What a sample is called in messages, also if it cannot be read."""
        return f"sample {number}"

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str | int | float]:
        """Plain values that change when the samples, or their order, do."""

    def _try(self, number: int) -> Sample | Exception:
        try:
            return self.read(number)
        except Exception as error:
            return error
