"""Indexes of a server: opened at the start, and kept up to date in a thread while they are searched."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from oneclip.errors import OneCLIPError, OutputError
from oneclip.search.catalogue import FILE, Catalogue
from oneclip.search.index import Index
from oneclip.search.places import SearchPlace, find_index, require_images
from oneclip.search.updating import watch_pause
from oneclip.serve.errors import DeadlineError, NotReadyError, RequestError
from oneclip.serve.index_search import IndexSearch
from oneclip.serve.recent_cache import RecentCache
from oneclip.serve.thumbnails import Thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.embed.throughput import EmbedProgress
    from oneclip.search.results import UpdateResult
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.settings import ServeSettings

LOGGER = logging.getLogger("oneclip")
STOP_SECONDS = 60.0  # for a batch that is being encoded when the server stops
THREADS = 4  # that search at once
RECENT_QUERIES = 2_000  # whose embeddings are kept
T = TypeVar("T")


class _Stopped(Exception):
    """End of an update, or of a search for duplicates, because the server stops."""


@dataclass
class UpdateState:
    """What the update of an index does.

    Attributes:
        is_updating: whether it runs now.
        done: images that were read in this update.
        total: images to read; None before they are counted.
        problem: why the index is not up to date; None if it is.
    """

    is_updating: bool = False
    done: int = 0
    total: int | None = None
    problem: str | None = None


class ServedIndex:
    """Index that is searched while it is updated.

    Args:
        name: in addresses.
        place: of the index, and the part of it to search.
        embedder: whose model made the index, or will.

    Raises:
        ConfigError: if another model made the index.
        DataError, OutputError: if it cannot be opened.
    """

    def __init__(self, name: str, place: SearchPlace, embedder: Embedder) -> None:
        self.name, self.place, self.state = name, place, UpdateState()
        self.index = Index(place.path, model=embedder.encoder)
        self._is_known = self.index.metadata is not None
        if self._is_known:
            _ = self.index.encoder  # compares the model
        self._search = IndexSearch(self.index, place.under)
        self._duplicates: RecentCache[Future[dict[str, Any]]] = RecentCache(4)
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether it can be searched: a new one once its first update is complete, by whatever process."""
        return self._is_known or self.updated_at is not None

    @property
    def updated_at(self) -> str | None:
        """Time of the last complete update that changed the index, in ISO 8601."""
        found: str | None = self.index.catalogue.info("updated_at")
        return found

    @property
    def search(self) -> IndexSearch:
        """The search of the index.

        Raises:
            NotReadyError: before the first images are in it.
        """
        if self.index.metadata is None:
            state = self.state
            if state.problem is not None:
                raise NotReadyError(f"the index {self.name} cannot be made: {state.problem}", retry_after=10)
            done = f" ({state.done} of {state.total} images)" if state.total else ""
            raise NotReadyError(f"the index {self.name} is being made{done}; try again")
        return self._search

    def describe(self) -> dict[str, Any]:
        """Return what GET /v1/indexes says about the index."""
        return {
            "name": self.name,
            "path": str(self.index.path),
            "model": self.index.model_name,
            "roots": [
                {"path": root, "is_reachable": os.path.isdir(root)} for root in self.index.catalogue.roots()
            ],
            "under": self.place.under,
            "is_ready": self.is_ready,
            "update": asdict(self.state),
            "updated_at": self.updated_at,
            **self._search.describe(),
        }

    def duplicates(
        self, near: float, pool: ThreadPoolExecutor, stop: threading.Event
    ) -> Future[dict[str, Any]]:
        """Begin to find duplicates, unless that was done since the last change; return what will be the result.

        Args:
            near: least cosine of near images.
            pool: to compute in.
            stop: ends the computation.
        """
        key = (self.index.catalogue.generation(), near)
        with self._lock:
            found = self._duplicates.get(key)
            if found is None or (found.done() and (found.cancelled() or found.exception() is not None)):
                found = pool.submit(self._find_duplicates, near, stop)
                self._duplicates.put(key, found)
            return found

    def _find_duplicates(self, near: float, stop: threading.Event) -> dict[str, Any]:
        from oneclip.search.duplicates import find_duplicates

        def report(count: int) -> None:
            if stop.is_set():
                raise _Stopped

        groups = find_duplicates(self.index, near, under=self.place.under, report=report)
        return {
            "index": str(self.index.path),
            "model": self.index.model_name,
            "groups": [group.to_dict() for group in groups],
        }

    def update(self, stop: threading.Event) -> None:
        """Bring the index up to date; what prevents it becomes the problem of `state`.

        Args:
            stop: ends the update once the present batch is encoded. What is done is kept.
        """
        state = self.state
        state.is_updating, state.done, state.total = True, 0, None

        def report(progress: EmbedProgress) -> None:
            state.done, state.total = progress.done, progress.total
            if stop.is_set():
                raise _Stopped

        try:
            # a connection of its own: a search does not wait for what the update reads and writes
            with Index(self.place.path, model=self.index.encoder) as index:
                roots = [] if self.place.root is None else [self.place.root]
                result = index.update(*roots, under=self.place.relative, report=report)
        except _Stopped:
            return
        except (OneCLIPError, OSError) as error:  # such as another process that updates it
            self._set_problem(str(error))
        else:
            self._is_known = True
            self._set_problem("; ".join(map(str, result.unlisted)) or None)
            _log(self.name, result)
        finally:
            state.is_updating = False

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self.state.problem:
            LOGGER.warning("index %s is not up to date: %s", self.name, problem)
        self.state.problem = problem


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
        try:
            for place in _places(settings.index):
                name = _unused_name(place, self._indexes)
                self._indexes[name] = ServedIndex(name, place, embedder)
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
        except _Stopped as error:
            raise NotReadyError("the server stops; try another one, or again") from error
        except OutputError as error:  # such as a catalogue on a disk that was unmounted
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


def _log(name: str, result: UpdateResult) -> None:
    if result.failures or any((result.added, result.changed, result.moved, result.removed)):
        LOGGER.info("index %s: %s", name, result)
