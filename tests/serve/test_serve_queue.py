"""Queue of a tower: what is batched, and what happens to items whose batch, thread or request ends."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from oneclip.errors import CheckpointError
from oneclip.serve.errors import ItemError, RequestError
from oneclip.serve.metrics import Metrics
from oneclip.serve.pending import PendingRequest
from oneclip.serve.tower_queue import QueuedItem, TowerQueue

T = TypeVar("T")
LONG = 60.0  # seconds; a test that takes as long has failed


class Tower:
    """A tower whose features of a number are the number. It can be held, and told to raise.

    Attributes:
        batches: the inputs of each batch.
        open: clear it to hold the tower.
        entered: set once a batch has begun.
        failing: called with each batch before it is computed.
    """

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()
        self.failing: Callable[[Sequence[float]], None] = lambda values: None

    def start(self, values: Sequence[float]) -> Callable[[], Any]:
        self.batches.append(list(values))
        self.entered.set()
        assert self.open.wait(LONG)
        self.failing(values)
        return lambda: np.array(values, dtype=np.float32)[:, None]


@pytest.fixture
def tower() -> Tower:
    return Tower()


@pytest.fixture
def make(tower: Tower) -> Iterator[Callable[..., TowerQueue]]:
    """Make queues that end with the test."""
    made: list[TowerQueue] = []

    def make(**options: Any) -> TowerQueue:
        options = {"max_batch": 4, "max_wait": LONG, "metrics": Metrics(), **options}
        made.append(TowerQueue("image", options.pop("start", tower.start), **options))
        return made[-1]

    yield make
    tower.open.set()
    for queue in made:
        queue.close(LONG)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, LONG))


def ask(queue: TowerQueue, values: Sequence[float]) -> PendingRequest:
    """Put the items of one request into a queue."""
    request = PendingRequest(values, 1)
    queue.announce(request)
    queue.put(request, [QueuedItem(request, index, value) for index, value in enumerate(values)])
    return request


def announce(queue: TowerQueue) -> PendingRequest:
    """Announce a request of one item that is still being decoded."""
    request = PendingRequest([None], 1)
    queue.announce(request)
    return request


async def answers(*requests: PendingRequest) -> list[Any]:
    found = await asyncio.gather(*(request.answer for request in requests), return_exceptions=True)
    return [one if isinstance(one, BaseException) else one[:, 0].tolist() for one in found]


async def hold(tower: Tower, queue: TowerQueue, value: float = -1) -> PendingRequest:
    """Let the tower work on an item until `tower.open` is set."""
    tower.open.clear()
    held = ask(queue, [value])
    assert await asyncio.to_thread(tower.entered.wait, LONG)
    return held


def test_items_of_different_requests_share_a_batch(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make()
        held = await hold(tower, queue)
        requests = [ask(queue, [1, 2]), ask(queue, [3])]
        tower.open.set()
        return await answers(held, *requests)

    assert run(main()) == [[-1], [1, 2], [3]]
    assert tower.batches == [[-1], [1, 2, 3]]


def test_no_batch_is_larger_than_the_limit(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        return await answers(ask(make(max_batch=4), range(10)))

    assert run(main()) == [list(range(10))]
    assert tower.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_lone_item_does_not_wait(make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        return await answers(ask(make(max_wait=10 * LONG), [7]))

    assert run(main()) == [[7]]


def test_an_item_waits_for_another_that_was_announced(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> None:
        queue = make(max_wait=10 * LONG)
        late = announce(queue)
        request = ask(queue, [1])
        queue.put(late, [QueuedItem(late, 0, 2)])
        assert await answers(request, late) == [[1], [2]]

    run(main())
    assert tower.batches == [[1, 2]]


def test_an_item_does_not_wait_for_one_that_was_withdrawn(make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make(max_wait=10 * LONG)
        late = announce(queue)
        request = ask(queue, [1])
        queue.withdraw(late)
        return await answers(request)

    assert run(main()) == [[1]]


def test_the_wait_for_announced_items_ends(make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make(max_wait=0.005)
        late = announce(queue)
        found = await answers(ask(queue, [1]))
        queue.withdraw(late)
        return found

    assert run(main()) == [[1]]


def test_items_of_a_request_wait_for_each_other(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make(max_wait=0)
        request = PendingRequest([1, 2, 3], 1)
        queue.announce(request)
        for index in range(3):
            queue.put(request, [QueuedItem(request, index, index)])
        return await answers(request)

    assert run(main()) == [[0, 1, 2]]
    assert tower.batches == [[0, 1, 2]]


def test_one_item_that_fails_its_batch_fails_alone(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    def fail(values: Sequence[float]) -> None:
        if 2 in values:
            raise CheckpointError("not finite")

    async def main() -> list[Any]:
        queue = make()
        held = await hold(tower, queue)
        tower.failing = fail
        requests = [ask(queue, [1]), ask(queue, [0, 2]), ask(queue, [3])]
        tower.open.set()
        return (await answers(held, *requests))[1:]

    first, error, last = run(main())
    assert [first, last] == [[1], [3]]
    assert isinstance(error, ItemError)
    assert error.index == 1
    assert str(error) == "not finite"


def test_a_batch_whose_result_cannot_be_fetched_is_tried_one_by_one(make: Callable[..., TowerQueue]) -> None:
    def start(values: Sequence[float]) -> Callable[[], Any]:
        def fetch() -> Any:
            if len(values) > 1:
                raise CheckpointError("not finite")
            return np.array([values], dtype=np.float32)

        return fetch

    async def main() -> list[Any]:
        return await answers(ask(make(start=start), [1, 2]))

    assert run(main()) == [[1, 2]]


def test_an_error_that_is_no_items_fault_is_the_servers(
    tower: Tower, make: Callable[..., TowerQueue]
) -> None:
    def fail(values: Sequence[float]) -> None:
        raise RuntimeError("a bug")

    async def main() -> list[Any]:
        tower.failing = fail
        return await answers(ask(make(), [1]))

    (error,) = run(main())
    assert isinstance(error, RequestError)
    assert (error.status, error.code) == (500, "internal_error")


def test_a_thread_that_dies_is_replaced_and_loses_nothing(
    tower: Tower, make: Callable[..., TowerQueue]
) -> None:
    metrics = Metrics()

    def die_once(values: Sequence[float]) -> None:
        tower.failing = lambda values: None
        raise SystemExit

    async def main() -> list[Any]:
        tower.failing = die_once
        queue = make(metrics=metrics)
        return [*await answers(ask(queue, [1, 2, 3])), *await answers(ask(queue, [4]))]

    assert run(main()) == [[1, 2, 3], [4]]
    assert b'oneclip_threads_replaced_total{kind="image"} 1.0' in metrics.render()[0]


def test_an_item_that_threads_die_of_is_given_up_alone(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    def die(values: Sequence[float]) -> None:
        if 2 in values:
            raise SystemExit

    async def main() -> list[Any]:
        queue = make()
        held = await hold(tower, queue)
        tower.failing = die
        requests = [ask(queue, [1]), ask(queue, [2]), ask(queue, [3])]
        tower.open.set()
        return (await answers(held, *requests))[1:]

    first, error, last = run(main())
    assert [first, last] == [[1], [3]]
    assert isinstance(error, RequestError)
    assert error.status == 500


def test_items_of_cancelled_requests_are_skipped(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make()
        held = await hold(tower, queue)
        cancelled, other = ask(queue, [1, 2]), ask(queue, [3])
        cancelled.cancel()
        tower.open.set()
        return await answers(held, other)

    assert run(main()) == [[-1], [3]]
    assert tower.batches == [[-1], [3]]


def test_close_answers_all_that_was_announced(tower: Tower, make: Callable[..., TowerQueue]) -> None:
    async def main() -> list[Any]:
        queue = make(max_batch=2)
        held = await hold(tower, queue)
        requests = [ask(queue, [1, 2, 3])]
        late = announce(queue)
        closing = asyncio.create_task(asyncio.to_thread(queue.close, LONG))
        queue.put(late, [QueuedItem(late, 0, 4)])
        tower.open.set()
        await closing
        return await answers(held, *requests, late)

    assert run(main()) == [[-1], [1, 2, 3], [4]]


def test_a_gpu_has_a_batch_started_before_the_last_one_is_fetched(make: Callable[..., TowerQueue]) -> None:
    events: list[str] = []

    def start(values: Sequence[float]) -> Callable[[], Any]:
        name = f"{values[0]:g}"
        events.append(f"start {name}")

        def fetch() -> Any:
            events.append(f"fetch {name}")
            return np.array([values], dtype=np.float32).T

        return fetch

    async def main() -> list[Any]:
        return await answers(ask(make(start=start, depth=1, max_batch=1), [1, 2, 3]))

    assert run(main()) == [[1, 2, 3]]
    assert events == ["start 1", "start 2", "fetch 1", "start 3", "fetch 2", "fetch 3"]


def test_a_request_wakes_its_event_loop_once(make: Callable[..., TowerQueue]) -> None:
    async def main() -> int:
        calls: list[Any] = []
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def count(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments)
            return original(*arguments, **options)

        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        await answers(ask(make(max_batch=2), range(20)))
        return len(calls)

    assert run(main()) == 1


def test_an_idle_queue_keeps_nothing_of_the_last_request(make: Callable[..., TowerQueue]) -> None:
    async def main() -> None:
        queue = make()
        request = ask(queue, [1])
        await answers(request)
        kept = weakref.ref(request)
        del request
        while kept() is not None:
            await asyncio.sleep(0.002)

    run(main())
