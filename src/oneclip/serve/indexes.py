"""Indexes of a server: opened at the start, and kept up to date in a thread while they are searched."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oneclip.errors import OneCLIPError
from oneclip.search.catalogue import FILE, Catalogue
from oneclip.search.index import Index
from oneclip.search.places import SearchPlace, find_index, require_images
from oneclip.search.updating import watch_pause
from oneclip.serve.errors import RequestError

if TYPE_CHECKING:
    from oneclip.embed.throughput import EmbedProgress
    from oneclip.search.results import UpdateResult
    from oneclip.serve.embedder import Embedder
    from oneclip.serve.settings import ServeSettings

LOGGER = logging.getLogger("oneclip")
STOP_SECONDS = 60.0  # for a batch that is being encoded when the server stops


class _Stopped(Exception):
    """End of an update because the server stops."""


@dataclass
class UpdateState:
    """What the update of an index does.

    Attributes:
        is_updating: whether it runs now.
        done: images that were read in this update.
        total: images to read; None before they are counted.
        problem: why the index is not up to date; None if it is.
        is_first_done: whether an update has been completed since the start of the server.
    """

    is_updating: bool = False
    done: int = 0
    total: int | None = None
    problem: str | None = None
    is_first_done: bool = False


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
        self.is_new = self.index.metadata is None
        if not self.is_new:
            _ = self.index.encoder  # compares the model

    @property
    def is_ready(self) -> bool:
        """Whether it can be searched: a new one once its first update is complete, by whatever process."""
        return not self.is_new or self.state.is_first_done or self.updated_at is not None

    @property
    def updated_at(self) -> str | None:
        """Time of the last complete update that changed the index, in ISO 8601."""
        found: str | None = self.index.catalogue.info("updated_at")
        return found

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
            state.is_first_done = True
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
