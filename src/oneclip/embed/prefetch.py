"""Read, hash and decode items in threads ahead of the model."""

from __future__ import annotations

import hashlib
import io
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oneclip.embed.items import Failure, FileStamp, Item, ItemSource
from oneclip.errors import OneCLIPError
from oneclip.hardware import decoding_threads
from oneclip.hub.addresses import regular_file_size

READERS = 16  # threads that read; they mostly wait for disk or network
MAX_UNDECODED_BYTES = 64 << 20  # limit on content that was read and is not decoded yet
LARGE_FILE_BYTES = 32 << 20  # bytes; the header of a larger file is checked before it is read


@dataclass(frozen=True)
class DecodedItem:
    """Item that was read.

    Attributes:
        item: the item.
        digest: SHA-256 of its content in hexadecimal digits; empty if its file is unchanged and was not read.
        value: the result of `decode`, or of `lookup`.
        is_known: whether `value` is the result of `lookup`.
        stamp: size and modification time of its file before it was read, if it has one.
    """

    item: Item
    digest: str
    value: Any
    is_known: bool = False
    stamp: FileStamp | None = None


@dataclass(frozen=True)
class UnreadableItem:
    """Item that cannot be encoded.

    Attributes:
        item: the item.
        reason: for messages.
        digest: SHA-256 of its content, if it could be read.
        stamp: size and modification time of its file before it was read, if known.
    """

    item: Item
    reason: str
    digest: str | None = None
    stamp: FileStamp | None = None


class StageTimer:
    """Seconds that threads spend reading, decoding, waiting for items, and computing."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(("reading", "decoding", "waiting", "model"), 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Add the duration of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[what] += time.perf_counter() - start

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds of another timer."""
        with self._lock:
            for what, more in seconds.items():
                self._seconds[what] += more

    def read(self) -> dict[str, float]:
        """Return the seconds so far."""
        with self._lock:
            return dict(self._seconds)


def bottleneck(before: dict[str, float], now: dict[str, float]) -> str:
    """Return the slowest stage between two readings of a timer: "reading", "decoding" or "the model"."""
    spent = {what: now[what] - before[what] for what in now}
    if spent["waiting"] < spent["model"]:
        return "the model"
    return "reading" if spent["reading"] > spent["decoding"] else "decoding"


class _ByteBudget:
    """Limit on bytes in memory that are not decoded yet; an item larger than the limit waits until it is alone."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._is_closed = most, 0, False
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until there is room, then reserve it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._taken or self._taken + size <= self._most
            )
            self._taken += size

    def release(self, size: int) -> None:
        """Release bytes; a negative size reserves more without waiting."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Let all waiting threads continue."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def prefetch_items(
    sources: Iterable[ItemSource],
    decode: Callable[[io.BytesIO], Any],
    lookup: Callable[[Item, str], Any],
    timer: StageTimer,
    *,
    depth: int,
    decoders: int | None = None,
    check_header: Callable[[str], None] | None = None,
    unchanged: Callable[[Item, FileStamp], bool] = lambda item, stamp: False,
) -> Generator[DecodedItem | UnreadableItem | Failure, None, None]:
    """Read and decode items ahead of the consumer; failures of sources are passed through.

    Reading and decoding use separate threads, because each decoding thread keeps the memory of its largest image.

    Args:
        sources: of the items.
        decode: turns the bytes of an item, with its name as attribute, into model input. Called in threads.
        lookup: returns what is known about an item and its hash, so that it need not be decoded; or None.
        timer: receives the time of reading and decoding.
        depth: maximum number of items that are ready or in progress.
        decoders: number of decoding threads; by default one per processor, up to 8.
        check_header: raises for a large file, given by path, that need not be read.
        unchanged: returns whether there is an embedding of a file with this size and time, which is then not read.

    Yields:
        Items and failures in the order of the sources.
    """
    reader = _Prefetcher(
        decode, lookup, timer, depth, decoders or decoding_threads(), check_header, unchanged
    )
    threading.Thread(target=reader.list_items, args=(sources,), name="oneclip-list", daemon=True).start()
    try:
        while True:
            with timer.measure("waiting"):
                entry = reader.queue.get()
                if isinstance(entry, Future):
                    entry = entry.result()
            if entry is _END:
                return
            if isinstance(entry, _Raised):
                raise entry.error
            yield entry
    finally:
        reader.stop()


class _Prefetcher:
    """Threads that list, read and decode items; arguments as of `prefetch_items`.

    Attributes:
        queue: futures of items, and failures, in the order of the sources.
    """

    def __init__(
        self,
        decode: Callable[[io.BytesIO], Any],
        lookup: Callable[[Item, str], Any],
        timer: StageTimer,
        depth: int,
        decoders: int,
        check_header: Callable[[str], None] | None,
        unchanged: Callable[[Item, FileStamp], bool],
    ) -> None:
        self._decode, self._lookup, self._timer = decode, lookup, timer
        self._check_header, self._unchanged = check_header, unchanged
        self._budget = _ByteBudget(MAX_UNDECODED_BYTES)
        self._stopped = threading.Event()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="oneclip-read")
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="oneclip-decode")
        self.queue: queue.Queue[Any] = queue.Queue(maxsize=depth)

    def list_items(self, sources: Iterable[ItemSource]) -> None:
        """Submit the items of all sources to the readers; an error is raised again in the consumer."""
        end: Any = _END
        try:
            for source in sources:
                for found in _timed(iter(source), self._timer):
                    if self._stopped.is_set():
                        return
                    self._put(self._submit(found) if isinstance(found, Item) else found)
        except BaseException as error:
            end = _Raised(error)
        self._put(end)

    def stop(self) -> None:
        """End all threads."""
        self._stopped.set()
        self._budget.close()
        for threads in (self._readers, self._decoders):
            threads.shutdown(wait=False, cancel_futures=True)

    def _put(self, entry: Any) -> None:
        while not self._stopped.is_set():
            try:
                self.queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def _submit(self, item: Item) -> Future[DecodedItem | UnreadableItem]:
        result: Future[DecodedItem | UnreadableItem] = Future()
        self._readers.submit(self._read, item, result)
        return result

    def _read(self, item: Item, result: Future[DecodedItem | UnreadableItem]) -> None:
        """Read and hash an item; submit it to the decoders unless it is known."""
        taken = 0
        try:
            stamp = item.stamp()  # before reading, so that a later change is noticed
            if stamp is not None and self._unchanged(item, stamp):
                return result.set_result(DecodedItem(item, "", True, is_known=True, stamp=stamp))
            try:
                size, path = item.size or 0, item.file if item.size is None else None
                if path is not None:
                    size = regular_file_size(path)
                    if (unusable := self._header_error(path, size)) is not None:
                        reason = _reason(item, unusable)
                        return result.set_result(UnreadableItem(item, reason, _digest_of(path), stamp))
                self._budget.acquire(taken := size)
                with self._timer.measure("reading"):
                    content = item.read()
                    digest = hashlib.sha256(content).hexdigest()
            except Exception as error:  # from any reader: a bad item never ends a run
                return result.set_result(UnreadableItem(item, _reason(item, error)))
            self._budget.release(taken - len(content))
            taken = len(content)
            found = self._lookup(item, digest)
            if found is not None:
                result.set_result(DecodedItem(item, digest, found, is_known=True, stamp=stamp))
            elif not self._stopped.is_set():
                self._decoders.submit(self._decode_item, item, digest, stamp, [content], result)
                taken = 0  # `_decode_item` releases the bytes
        except BaseException as error:  # from the output or the cache: it ends the run
            result.set_exception(error)
        finally:
            self._budget.release(taken)

    def _header_error(self, path: str, size: int) -> OneCLIPError | None:
        """Return why a large file need not be read, if its header shows that."""
        if self._check_header is not None and size > LARGE_FILE_BYTES:
            try:
                self._check_header(path)
            except OneCLIPError as error:
                return error
        return None

    def _decode_item(
        self,
        item: Item,
        digest: str,
        stamp: FileStamp | None,
        content: list[bytes],
        result: Future[DecodedItem | UnreadableItem],
    ) -> None:
        size = len(content[0])
        try:
            with self._timer.measure("decoding"):
                value = self._decode(_NamedBytes(content.pop(), item.name))
            result.set_result(DecodedItem(item, digest, value, stamp=stamp))
        except Exception as error:
            result.set_result(UnreadableItem(item, _reason(item, error), digest, stamp))
        except BaseException as error:
            result.set_exception(error)
        finally:
            self._budget.release(size)


class _NamedBytes(io.BytesIO):
    """Bytes with a name, which decoders use in messages."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


@dataclass(frozen=True)
class _Raised:
    error: BaseException


_END = object()


def _timed(found: Iterator[Any], timer: StageTimer) -> Iterator[Any]:
    """Yield items and count their listing as reading: a compressed tar is read to list it."""
    while True:
        with timer.measure("reading"):
            try:
                entry = next(found)
            except StopIteration:
                return
        yield entry


def _digest_of(path: str) -> str:
    """Return the SHA-256 of a file without loading it into memory."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _reason(item: Item, error: Exception) -> str:
    if isinstance(error, OneCLIPError):
        text = str(error)
    elif isinstance(error, MemoryError):
        text = "it does not fit into memory"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return text if item.name in text else f"{item.name} cannot be read: {text}"
