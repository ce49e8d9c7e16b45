"""Items to preprocessed tensors or captions with the hash of their content, made in threads while a model computes."""

from __future__ import annotations

import hashlib
import io
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oneclip.embed.items import Failure, Item, Source, Stamp
from oneclip.errors import OneCLIPError
from oneclip.hub.addresses import size_of_file

READERS = 16  # threads that wait for a disk or a network, beside those that decode
WAITING_BYTES = 64 << 20  # of files that were read and are not decoded yet
LARGE = 32 << 20  # bytes of a file whose header is looked at before it is read


@dataclass(frozen=True)
class Ready:
    """An item that was read.

    Attributes:
        item: what it is.
        digest: SHA-256 of its content, in hexadecimal digits; empty if it was not read, since its file is unchanged.
        value: what `decode` made of it, or what `known` said of it.
        is_known: which of the two.
        stamp: size and time of its file before it was read, if it has one.
    """

    item: Item
    digest: str
    value: Any
    is_known: bool = False
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Unread:
    """An item that gives nothing to encode.

    Attributes:
        item: what it is.
        reason: why.
        digest: SHA-256 of its content, if that could be read.
    """

    item: Item
    reason: str
    digest: str | None = None


class Clock:
    """Seconds that threads spend with reading, decoding, waiting for either, and computing."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(("reading", "decoding", "waiting", "model"), 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Add the time of this block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[what] += time.perf_counter() - start

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add what another clock counted."""
        with self._lock:
            for what, more in seconds.items():
                self._seconds[what] += more

    def read(self) -> dict[str, float]:
        """The seconds so far."""
        with self._lock:
            return dict(self._seconds)


def limit(before: dict[str, float], now: dict[str, float]) -> str:
    """What a run waited for between two readings of its clock: "reading", "decoding" or "the model"."""
    spent = {what: now[what] - before[what] for what in now}
    if spent["waiting"] < spent["model"]:
        return "the model"
    return "reading" if spent["reading"] > spent["decoding"] else "decoding"


class _Budget:
    """How many bytes may be in memory before they are decoded; what is larger than all of it waits to be alone."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._is_closed = most, 0, False
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._taken or self._taken + size <= self._most
            )
            self._taken += size

    def give(self, size: int) -> None:
        """Make room; less than nothing to take without waiting."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody pass."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def read_ahead(
    sources: Iterable[Source],
    decode: Callable[[io.BytesIO], Any],
    known: Callable[[Item, str], Any],
    clock: Clock,
    *,
    ahead: int,
    decoders: int | None = None,
    look: Callable[[str], None] | None = None,
    unchanged: Callable[[Item, Stamp], bool] = lambda item, stamp: False,
) -> Generator[Ready | Unread | Failure, None, None]:
    """Read and decode items before they are asked for; what has no content of its own passes through.

    Threads that read are not those that decode, since each that decodes keeps the memory of the largest image it had.

    Args:
        sources: where the items are.
        decode: the bytes of one, with its name as attribute, to what the model takes. Called in threads.
        known: what is known of an item and its hash already, which saves decoding it; or None.
        clock: is told how long reading and decoding take.
        ahead: how many items may be ready or under way.
        decoders: how many are decoded at once; by default as many as there are processors, up to 8.
        look: raises for a large file, by its path, that need not be read.
        unchanged: whether there is a vector of an item, made of a file of this size and time: it is then not read.

    Yields:
        in the order of the sources.
    """
    decoders = decoders or _processors()
    budget = _Budget(WAITING_BYTES)
    line: queue.Queue[Any] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="oneclip-read")
    pool = ThreadPoolExecutor(decoders, thread_name_prefix="oneclip-decode")

    def read(item: Item, result: Future[Ready | Unread]) -> None:
        taken = 0
        try:
            stamp = item.stamp()  # before it is read: whoever changes it meanwhile changes its time, too
            if stamp is not None and unchanged(item, stamp):
                return result.set_result(Ready(item, "", True, is_known=True, stamp=stamp))
            try:
                size, whole = item.size or 0, item.file if item.size is None else None
                if whole is not None:
                    size = size_of_file(whole)
                    if look is not None and size > LARGE:
                        try:
                            look(whole)
                        except OneCLIPError as error:
                            return result.set_result(Unread(item, _reason(item, error), _digest_of(whole)))
                budget.take(taken := size)
                with clock.counting("reading"):
                    content = item.read()
                    digest = hashlib.sha256(content).hexdigest()
            except Exception as error:  # of whatever reads it: a bad item never ends a run
                return result.set_result(Unread(item, _reason(item, error)))
            budget.give(taken - len(content))
            taken = len(content)
            found = known(item, digest)
            if found is not None:
                result.set_result(Ready(item, digest, found, is_known=True, stamp=stamp))
            elif not stop.is_set():
                pool.submit(decoded, item, digest, stamp, [content], result)
                taken = 0  # it is given back there
        except BaseException as error:  # of the output or the cache: it ends the run
            result.set_exception(error)
        finally:
            budget.give(taken)

    def decoded(
        item: Item, digest: str, stamp: Stamp | None, content: list[bytes], result: Future[Ready | Unread]
    ) -> None:
        size = len(content[0])
        try:
            with clock.counting("decoding"):
                value = decode(_Named(content.pop(), item.name))
            result.set_result(Ready(item, digest, value, stamp=stamp))
        except Exception as error:
            result.set_result(Unread(item, _reason(item, error), digest))
        except BaseException as error:
            result.set_exception(error)
        finally:
            budget.give(size)

    def submit(item: Item) -> Future[Ready | Unread]:
        result: Future[Ready | Unread] = Future()
        readers.submit(read, item, result)
        return result

    def put(entry: Any) -> None:
        while not stop.is_set():
            try:
                line.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def feed() -> None:
        end: Any = _END
        try:
            for source in sources:
                for found in _timed(iter(source), clock):
                    if stop.is_set():
                        return
                    put(submit(found) if isinstance(found, Item) else found)
        except BaseException as error:  # it is raised where the items are asked for
            end = _Raised(error)
        put(end)

    feeder = threading.Thread(target=feed, name="oneclip-list", daemon=True)
    feeder.start()
    try:
        while True:
            with clock.counting("waiting"):
                entry = line.get()
                if isinstance(entry, Future):
                    entry = entry.result()
            if entry is _END:
                return
            if isinstance(entry, _Raised):
                raise entry.error
            yield entry
    finally:
        stop.set()
        budget.close()
        for threads in (readers, pool):
            threads.shutdown(wait=False, cancel_futures=True)


class _Named(io.BytesIO):
    """Bytes that know their name, for the messages of whatever reads them."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@dataclass(frozen=True)
class _Raised:
    error: BaseException


_END = object()


def _timed(found: Iterator[Any], clock: Clock) -> Iterator[Any]:
    """Items, their listing counted as reading: of a compressed tar it is."""
    while True:
        with clock.counting("reading"):
            try:
                entry = next(found)
            except StopIteration:
                return
        yield entry


def _digest_of(path: str) -> str:
    """SHA-256 of a file, without all of it in memory."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _reason(item: Item, error: Exception) -> str:
    if isinstance(error, OneCLIPError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "it is too large for the memory"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return text if item.name in text else f"{item.name} cannot be read: {text}"


def _processors() -> int:
    """As many as are ours, up to 8: more would only wait for the model."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available))
