"""Index of a server: what is asked of it, and its update while it is searched."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from oneclip.errors import OneCLIPError
from oneclip.search.index import Index
from oneclip.search.places import SearchPlace
from oneclip.serve.errors import NotReadyError
from oneclip.serve.index_search import IndexSearch
from oneclip.serve.recent_cache import RecentCache

if TYPE_CHECKING:
    from oneclip.embed.throughput import EmbedProgress
    from oneclip.encoding import BaseEncoder
    from oneclip.search.results import UpdateResult

LOGGER = logging.getLogger("oneclip")


class Stopped(Exception):
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
        encoder: whose model made the index, or will.

    Raises:
        ConfigError: if another model made the index.
        DataError, OutputError: if it cannot be opened.
    """

    def __init__(self, name: str, place: SearchPlace, encoder: BaseEncoder) -> None:
        self.name, self.place, self.state = name, place, UpdateState()
        self.index = Index(place.path, model=encoder)
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

        The result raises NotReadyError if a folder of the index is not there: its files would be missing from the
        groups, and the index does not change when it returns.
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
                raise Stopped

        self._check_roots()
        groups = find_duplicates(self.index, near, under=self.place.under, report=report)
        self._check_roots()  # again, since it may have left meanwhile
        return {
            "index": str(self.index.path),
            "model": self.index.model_name,
            "groups": [group.to_dict() for group in groups],
        }

    def _check_roots(self) -> None:
        """Raise NotReadyError if a searched folder cannot be read, such as one on a disk that was unmounted."""
        for root in self.index.catalogue.roots():
            try:
                with os.scandir(root) as entries:
                    is_there = any(entries)
            except OSError:
                is_there = False
            if not is_there and self._is_searched(root):
                raise NotReadyError(f"the folder {root} cannot be read", retry_after=10)

    def _is_searched(self, root: str) -> bool:
        under = self.place.under
        return under is None or os.path.commonpath((root, under)) in (root, under)

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
                raise Stopped

        try:
            # a connection of its own: a search does not wait for what the update reads and writes
            with Index(self.place.path, model=self.index.encoder) as index:
                roots = [] if self.place.root is None else [self.place.root]
                self._search.prepare()
                result = index.update(*roots, under=self.place.relative, report=report)
                self._search.prepare()
        except Stopped:
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


def _log(name: str, result: UpdateResult) -> None:
    if result.failures or any((result.added, result.changed, result.moved, result.removed)):
        LOGGER.info("index %s: %s", name, result)
