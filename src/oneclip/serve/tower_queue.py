"""Queue of a tower, and the thread that encodes what waits in it, batch by batch."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from oneclip.encoder import Features
    from oneclip.serve.metrics import Metrics
    from oneclip.serve.pending import PendingRequest

logger = logging.getLogger(__name__)

MAX_DEATHS = 2  # an item that was in the hands of so many threads that died is given up


@dataclass(eq=False)
class QueuedItem:
    """Item that waits for its tower.

    Attributes:
        request: of which it is a part.
        index: among the items of the request.
        value: input of the model.
        queued_at: when it came, by `time.perf_counter`.
        deaths: number of threads that died while they had it.
    """

    request: PendingRequest
    index: int
    value: Any
    queued_at: float = field(default_factory=time.perf_counter)
    deaths: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for its embedding."""
        return self.request.wants(self.index)


Batch: TypeAlias = (
    "list[tuple[list[QueuedItem], Any]]"  # for each row: the items that get it, and the model's input
)
Start: TypeAlias = "Callable[[Sequence[Any]], Callable[[], Features]]"
Arrange: TypeAlias = Callable[[list[QueuedItem]], Iterable[Batch]]


def in_order(items: list[QueuedItem]) -> Iterator[Batch]:
    """Arrange items as one batch."""
    yield [([item], item.value) for item in items]


class TowerQueue:
    """Queue of a tower, with its thread.

    The thread takes what is there. Only while more items are about to come does it wait, until there are enough for a
    batch: `max_wait` seconds for the next one, and longer if no request would be answered earlier, because each that
    waits has more items to come.

    An item that makes its batch fail is found by encoding the items of the batch one by one. If the thread dies,
    another takes its place and its items.

    Args:
        kind: "image" or "text", for metrics and messages.
        start: starts to encode the inputs of B items, and returns a function that waits for their features (B, D).
        max_batch: greatest number B.
        max_wait: seconds.
        metrics: of the server.
        depth: batches to start before the first result is fetched, see `EncodePipeline`.
        window: items that are taken at once; `arrange` makes batches of them.
        arrange: makes batches of items, leaving none out.
        on_taken: called with the number of items that were taken from the queue.
    """

    def __init__(
        self,
        kind: str,
        start: Start,
        *,
        max_batch: int,
        max_wait: float,
        metrics: Metrics,
        depth: int = 0,
        window: int | None = None,
        arrange: Arrange = in_order,
        on_taken: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.kind, self._start_batch, self._arrange, self._on_taken = kind, start, arrange, on_taken
        self._max_batch, self._max_wait, self._depth = max_batch, max_wait, depth
        self._window = window or max_batch
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[QueuedItem] = deque()
        self._expected = 0  # items that were announced and have not come yet
        self._is_closed = False
        self._taken: dict[QueuedItem, None] = {}  # by the thread, and not settled yet; in their order
        self._thread = self._start_thread()

    def announce(self, request: PendingRequest) -> None:
        """Say that the items of a request are about to come: by `put`, or `withdraw` if they do not come after all."""
        with self._changed:
            self._expected += request.count
            request.expected = request.count

    def withdraw(self, request: PendingRequest, count: int = 1) -> None:
        """Say that items of a request do not come."""
        self._arrived(request, [], count)

    def put(self, request: PendingRequest, items: Sequence[QueuedItem]) -> None:
        """Add items of a request."""
        self._arrived(request, items, len(items))

    def close(self, timeout: float) -> None:
        """Encode all that was announced, and end the thread; give up after `timeout` seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        until = time.monotonic() + timeout
        while (thread := self._thread).is_alive() and (left := until - time.monotonic()) > 0:
            thread.join(left)  # another one may have taken its place

    def _arrived(self, request: PendingRequest, items: Sequence[QueuedItem], count: int) -> None:
        with self._changed:
            was_empty = not self._waiting
            self._waiting.extend(items)
            self._expected -= count
            request.expected -= count
            if was_empty or not request.expected or len(self._waiting) >= self._max_batch:
                self._changed.notify()  # for others it would go on waiting
            if not self._thread.is_alive():
                self._replace_thread()

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name=f"oneclip-{self.kind}-tower", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            logger.exception("the thread of the %s tower died; another takes its place", self.kind)
            with self._changed:
                self._replace_thread()

    def _replace_thread(self) -> None:
        """Put the items of a thread that died back into the queue, and start another thread."""
        self._metrics.threads_replaced.labels(self.kind).inc()
        for item in reversed(list(self._taken)):
            item.deaths += 1
            if item.deaths < MAX_DEATHS:
                self._waiting.appendleft(item)
            else:
                item.request.settle(item.index, error=RuntimeError("its thread died"))
        self._taken.clear()
        self._thread = self._start_thread()

    def _work(self) -> None:
        """Encode batches until the queue is closed and empty."""
        started: deque[_StartedBatch] = deque()
        while self._encode_waiting(started):
            pass

    def _encode_waiting(self, started: deque[_StartedBatch]) -> bool:
        """Encode what waits; return False at the end. While it waits for more, it keeps nothing of older items."""
        items = self._take(block=not started)
        if items is None:
            return False
        for batch in self._arrange(items) if items else ():
            if (one := self._start(batch)) is not None:
                started.append(one)
            if len(started) > self._depth:
                self._finish(started.popleft())
        if started and not items:
            self._finish(started.popleft())
        return True

    def _take(self, block: bool) -> list[QueuedItem] | None:
        """Take the items that wait.

        Args:
            block: wait for items. Otherwise a batch is being computed, and less than another full one can wait for it.

        Returns:
            The items; None once the queue is closed and empty.
        """
        with self._changed:
            if block:
                while not self._waiting:
                    if self._is_closed and not self._expected:
                        return None
                    self._changed.wait()
                self._wait_for_batch()
            elif not self._waiting or (self._expected and len(self._waiting) < self._max_batch):
                return []
            # an item that a thread died of would take its neighbours with it again
            most = 1 if self._waiting[0].deaths else self._window
            items = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
            self._taken.update(dict.fromkeys(items))
        now = time.perf_counter()
        for item in items:
            self._metrics.wait_seconds.labels(self.kind).observe(now - item.queued_at)
            if not item.is_wanted:
                self._settle(item)
        self._on_taken(len(items))
        return [item for item in items if item in self._taken]

    def _wait_for_batch(self) -> None:
        """Wait while items are expected and come."""
        while self._expected and len(self._waiting) < self._max_batch:
            if all(item.request.expected for item in self._waiting):
                self._changed.wait()
                continue
            left = self._waiting[-1].queued_at + self._max_wait - time.perf_counter()
            if left <= 0:
                return
            self._changed.wait(left)

    def _start(self, batch: Batch) -> _StartedBatch | None:
        """Start to encode a batch; None if there is nothing left to wait for."""
        if not any(item.is_wanted for items, _ in batch for item in items):
            self._settle_rows(batch)
            return None
        began = time.perf_counter()
        self._metrics.batch_items.labels(self.kind).observe(len(batch))
        try:
            return _StartedBatch(batch, self._start_batch([value for _, value in batch]), began)
        except Exception as error:
            self._encode_singly(batch, error)
            return None

    def _finish(self, started: _StartedBatch) -> None:
        try:
            features = started.pending()
        except Exception as error:
            self._encode_singly(started.batch, error)
        else:
            self._metrics.compute_seconds.labels(self.kind).observe(time.perf_counter() - started.began)
            self._settle_rows(started.batch, features)

    def _encode_singly(self, batch: Batch, error: Exception) -> None:
        """Encode the rows of a batch that failed one by one, so that no other fails with the one that cannot be."""
        if len(batch) == 1:
            self._settle_rows(batch, error=error)
            return
        logger.warning("a batch of %d %ss failed, and is tried one by one: %s", len(batch), self.kind, error)
        for row in batch:
            try:
                self._settle_rows([row], self._start_batch([row[1]])())
            except Exception as own:
                self._settle_rows([row], error=own)

    def _settle_rows(
        self, batch: Batch, features: Features | None = None, error: Exception | None = None
    ) -> None:
        for row, (items, _) in enumerate(batch):
            for item in items:
                self._settle(item, None if features is None else features[row], error)

    def _settle(
        self, item: QueuedItem, features: Features | None = None, error: Exception | None = None
    ) -> None:
        self._taken.pop(item)  # first: an item must never be settled twice
        item.request.settle(item.index, features, error)


class _StartedBatch(NamedTuple):
    """Batch that is being computed."""

    batch: Batch
    pending: Callable[[], Features]
    began: float
