"""Indexes of a server: opened at the start, and kept up to date in a thread while they are searched."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from oneclip.errors import DataError, OutputError
from oneclip.image.decode import pixel_limit
from oneclip.search.catalogue import FILE, Catalogue
from oneclip.search.places import SearchPlace, find_index, require_images
from oneclip.search.updating import watch_pause
from oneclip.serve.errors import DeadlineError, NotReadyError, RequestError
from oneclip.serve.recent_cache import RecentCache
from oneclip.serve.served_index import LOGGER, ServedIndex, Stopped
from oneclip.serve.thumbnails import Thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoding import BaseEncoder
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.settings import ServeSettings

STOP_SECONDS = 60.0  # for a batch that is being encoded when the server stops
THREADS = 4  # that search at once
RECENT_QUERIES = 2_000  # whose embeddings are kept
T = TypeVar("T")


class ServedIndexes:
    """Indexes of a server.

    Args:
        settings: of the server; `index` names indexes, and folders of images, which get an index if they have none.
        embedder: whose model makes and searches them.

    Raises:
        ConfigError: if another model made one of them.
        DataError, OutputError: if one of them cannot be opened.
    """

    def __init__(self, settings: ServeSettings, embedder: Embedder) -> None:
        self.thumbnails = Thumbnails()
        self.vectors: RecentCache[NDArray[Any]] = RecentCache(RECENT_QUERIES)  # of queries, by their content
        self._timeout = settings.timeout
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="oneclip-search")
        self._slow_pool = ThreadPoolExecutor(1, thread_name_prefix="oneclip-duplicates")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._indexes: dict[str, ServedIndex] = {}
        encoder = _without_limit(embedder.encoder)
        try:
            for place in _places(settings.index):
                name = _unused_name(place, self._indexes)
                self._indexes[name] = ServedIndex(name, place, encoder)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[ServedIndex]:
        return iter(self._indexes.values())

    def __len__(self) -> int:
        return len(self._indexes)

    def find(self, name: str | None = None) -> ServedIndex:
        """Return an index by name; without a name, the only one, or the first.

        Raises:
            RequestError: 404 if there is none.
        """
        if not self._indexes:
            raise RequestError(
                404, "this server has no index; start it with --index FOLDER", param="index", code="no_index"
            )
        if name is None:
            return next(iter(self))
        if name not in self._indexes:
            raise RequestError(
                404,
                f"no index {name[:100]!r}; there is {', '.join(self._indexes)}",
                param="index",
                code="unknown_index",
            )
        return self._indexes[name]

    @property
    def is_ready(self) -> bool:
        """Whether all can be searched: new ones once their first update is complete."""
        return all(index.is_ready for index in self)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a thread of the searches.

        Raises:
            DeadlineError: if it takes too long.
            NotReadyError: if the server stops.
        """
        return await self._wait(lambda: self._pool.submit(function, *arguments))

    async def duplicates(self, index: ServedIndex, near: float) -> dict[str, Any]:
        """Find the duplicates of an index, as `oneclip duplicates --json` prints them.

        Raises:
            DeadlineError: if it takes too long; it goes on, and a later request gets the result.
            NotReadyError: if the server stops.
        """
        return await self._wait(lambda: index.duplicates(near, self._slow_pool, self._stop))

    async def _wait(self, begin: Callable[[], Future[T]]) -> T:
        try:
            future = begin()
        except RuntimeError as error:  # the pool was shut down
            raise NotReadyError("the server stops; try another one, or again") from error
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), self._timeout)
        except asyncio.TimeoutError as error:
            raise DeadlineError(self._timeout) from error
        except Stopped as error:
            raise NotReadyError("the server stops; try another one, or again") from error
        except (DataError, OutputError) as error:  # such as a catalogue on a disk that was unmounted
            raise NotReadyError(f"the index cannot be read: {error}", retry_after=10) from error

    def start(self) -> None:
        """Begin to update the indexes in a thread, now and whenever files change."""
        if self._indexes:
            self._thread = threading.Thread(target=self._keep_updated, name="indexes", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the update once the present batch is encoded, and close the indexes."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        for pool in (self._pool, self._slow_pool):
            pool.shutdown(cancel_futures=True)
        for index in self:
            index.close()

    def _keep_updated(self) -> None:
        due = dict.fromkeys(self, 0.0)
        while True:
            index = min(due, key=lambda one: due[one])
            if self._stop.wait(max(0.0, due[index] - time.monotonic())):
                return
            started = time.monotonic()
            try:
                index.update(self._stop)
            except Exception:  # a fault of ours: the other indexes are still updated
                LOGGER.exception("index %s could not be updated", index.name)
                index.state.problem = "internal error, see the log of the server"
            due[index] = time.monotonic() + watch_pause(time.monotonic() - started)


def _without_limit(encoder: BaseEncoder) -> BaseEncoder:
    """Return the encoder without a limit of pixels that is lower than the usual one.

    Such a limit protects a server from requests. In an index, which other programs search too, it would mark images as
    unreadable.
    """
    if encoder.max_pixels is None or encoder.max_pixels >= pixel_limit():
        return encoder
    other = object.__new__(type(encoder))  # a copy would pack the weights once more
    vars(other).update({**vars(encoder), "max_pixels": None})
    return other


def indexed_model(settings: ServeSettings) -> tuple[str, str] | None:
    """Return model and precision of the first index that has images, for a server without `--model`; None without one.

    Raises:
        DataError: if the index is missing or damaged.
    """
    for place in _places(settings.index):
        if not (place.path / FILE).is_file():
            continue
        with closing(Catalogue(place.path)) as catalogue:
            metadata = catalogue.info("metadata")
            if metadata is not None:
                return str(catalogue.info("model") or metadata["model"]), str(metadata["precision"])
    return None


def _places(locations: Sequence[str]) -> list[SearchPlace]:
    """Find the indexes that `--index` names, each once.

    Raises:
        DataError: for a location that is neither an index nor a folder of images.
    """
    places = []
    for location in locations:
        place = find_index(location)
        if place.is_new:
            require_images(str(place.root))
        places.append(place)
    return list(dict.fromkeys(places))


def _unused_name(place: SearchPlace, used: dict[str, ServedIndex]) -> str:
    """Return a name for addresses: that of the folder of images; of several folders, that of the index."""
    folder = place.under or place.root
    if folder is None:
        with closing(Catalogue(place.path)) as catalogue:
            roots = list(catalogue.roots())
        folder = roots[0] if len(roots) == 1 else str(place.path).removesuffix(".index")
    name = re.sub(r"[^\w.-]+", "-", os.path.basename(folder), flags=re.ASCII).strip("-.") or "index"
    number = 1
    while (unused := name if number == 1 else f"{name}-{number}") in used:
        number += 1
    return unused
