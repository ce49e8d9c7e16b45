"""Does `oneclip serve` survive 20,000 mixed requests, a tenth of them hostile?

    python benchmarks/soak.py [--requests 20000] [--clients 16] [--timeout 5] [--seed 0]

A server with the model "pocket" and an index of the example images, in a process of its own and with its default
settings except the timeout, which cuts off slow clients. All that is answered is compared with the encoder and the
index in this process. Hostile clients must get an error in the shape of OpenAI's, or a closed connection. Memory,
threads and open files are those of the idle server after a tenth of the requests, and after all. Exits with 1 if
anything is wrong. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from soaking.good import SECRET, SIZES, GoodRequest, GoodRequests
from soaking.hostile import HostileRequests, attack
from soaking.process import ROOT, Held, ServerProcess, serving
from soaking.wire import CLOSED, Connection, encode

HEALTH_PAUSE = 0.5
IDLE_SECONDS = 12.0  # after which threads for simple routes end
MEMORY_GROWTH = 0.05
PARTS = 10  # the first one warms the server up
PATIENCE = 120
BURST = 32  # requests at once
SHOWN = 40
EXAMPLES = ROOT / "examples" / "images"
HEALTH = "health"
SECRETS = (SECRET, "iVBORw0KGgo")  # texts and names; the base64 of a PNG


@dataclass
class Tally:
    """What was sent, and what came back.

    Attributes:
        statuses: by kind.
        seconds: of right answers, by kind.
        faults: what went wrong.
    """

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)

    def count(self, kind: str, status: int, problem: str | None) -> None:
        self.statuses[kind][status] += 1
        if problem is not None:
            self.faults.append(f"{kind}: {problem}")


@dataclass(frozen=True)
class Traffic:
    """Requests that are sent to a server."""

    port: int
    good: GoodRequests
    hostile: HostileRequests

    async def send(
        self, numbers: range, tally: Tally, *, clients: int, hostile_every: int = 10, seed: int = 0
    ) -> None:
        """Send requests from several clients at once, and ask for the health of the server throughout.

        Args:
            numbers: of the requests; every kind has its turn.
            tally: of the answers.
            clients: number of them.
            hostile_every: one of as many requests is hostile.
            seed: of the draw.
        """
        turns = iter(_turns(numbers, hostile_every, list(self.good.kinds), list(self.hostile.kinds)))
        gate = asyncio.Semaphore()
        watching = asyncio.ensure_future(self._watch_health(tally))
        await asyncio.gather(*(self._client(turns, tally, gate, seed) for _ in range(clients)))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def warm_up(self, tally: Tally) -> None:
        """Bring the server to the size at which it should stay.

        Many requests of each kind at once start all threads of its pools; requests with all numbers of texts and images
        have kernels compiled for these sizes of batches, which oneDNN keeps.
        """
        for kind in self.good.kinds:
            await self._burst([self.good.draw(kind, Random(number)) for number in range(BURST)], tally)
        for request in self.good.sizes():
            await self._burst([request], tally)

    async def _burst(self, requests: Sequence[GoodRequest], tally: Tally) -> None:
        """Send requests at once, each on a connection of its own."""
        connections = [Connection(self.port) for _ in requests]
        pairs = zip(connections, requests, strict=True)
        await asyncio.gather(*(_ask(connection, request, tally) for connection, request in pairs))
        for connection in connections:
            connection.abort()

    async def _client(
        self, turns: Iterator[tuple[int, str, bool]], tally: Tally, gate: asyncio.Semaphore, seed: int
    ) -> None:
        connection = Connection(self.port)
        for number, kind, is_hostile in turns:
            random = Random(f"{seed} {number}")
            if is_hostile:
                tally.count(kind, *await attack(self.port, self.hostile.draw(kind, random), gate))
            else:
                await _ask(connection, self.good.draw(kind, random), tally)
        connection.abort()

    async def _watch_health(self, tally: Tally) -> None:
        connection = Connection(self.port)
        request = GoodRequest(HEALTH, encode("GET", "/health"), _health_problem)
        try:
            while True:
                await _ask(connection, request, tally)
                await asyncio.sleep(HEALTH_PAUSE)
        finally:
            connection.abort()


async def _ask(connection: Connection, request: GoodRequest, tally: Tally) -> None:
    """Send a request that must be answered rightly."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await connection.ask(request.data)
    except TimeoutError:
        connection.abort()
        tally.count(request.kind, CLOSED, f"no answer within {PATIENCE} s")
        return
    except ConnectionError as error:
        tally.count(request.kind, CLOSED, f"no connection: {error}")
        return
    tally.seconds[request.kind].append(time.perf_counter() - start)
    found = request.problem(answer) if answer.status == 200 else f"{answer.status}: {answer.body[:300]!r}"
    tally.count(request.kind, answer.status, found)


def _health_problem(answer: Any) -> str | None:
    return None if b'"status":"ok"' in answer.body else f"{answer.body[:300]!r}"


def _turns(
    numbers: range, hostile_every: int, good: Sequence[str], hostile: Sequence[str]
) -> Iterator[tuple[int, str, bool]]:
    """Give each request a kind: all in turn."""
    for number in numbers:
        if number % hostile_every:
            yield number, good[(number - number // hostile_every) % len(good)], False
        else:
            yield number, hostile[number // hostile_every % len(hostile)], True


def prepare(server: ServerProcess, encoder: Any, images: Path, count: int, timeout: float) -> Traffic:
    """Make requests for a server, and the answers to them.

    Args:
        server: that runs.
        encoder: the same model in this process.
        images: folder that the server indexes.
        count: of different texts, searches and classifications.
        timeout: of the server in seconds.
    """
    from oneclip.search import Index

    with closing(Index(server.index["path"], model=encoder)) as index:
        good = GoodRequests(encoder, index, server.index["name"], sorted(images.glob("*.png")), count)
    return Traffic(server.port, good, HostileRequests(good.indexed, timeout))


def remaining_faults(server: ServerProcess) -> list[str]:
    """Return what is wrong with a server that has answered all: work that is left, lost threads, lines of the log."""
    faults = server.faults_of_log(SECRETS)
    if not server.is_running:
        return [*faults, "the server has ended"]
    for metric in ("oneclip_queued_items", "oneclip_threads_replaced_total"):
        if (found := server.metric(metric)) != 0:
            faults.append(f"{metric} is {found:g}; expected 0")
    return faults


def compare(before: Held, after: Held) -> list[str]:
    """Return what grew."""
    faults = []
    if abs(after.memory / before.memory - 1) > MEMORY_GROWTH:
        faults.append(f"memory changed by {after.memory / before.memory - 1:+.1%}")
    if after.threads != before.threads:
        faults.append(f"{after.threads} threads; before there were {before.threads}")
    if after.files != before.files:
        faults.append(f"{after.files} open files; before there were {before.files}")
    return faults


def idle(server: ServerProcess) -> Held:
    """Let the server rest, and return what it holds."""
    time.sleep(IDLE_SECONDS)
    for _ in range(2):
        server.get("/metrics")  # ends idle threads but one
    return server.held()


def report(tally: Tally, kinds: Sequence[str], title: str) -> None:
    """Print a table of kinds of requests, with the statuses of the answers."""
    say(f"{title:24} {'requests':>8} {'p50, ms':>8} {'p99, ms':>8}  answers")
    for kind in kinds:
        statuses = tally.statuses[kind]
        answers = ", ".join(
            f"{'closed' if status == CLOSED else status}: {count:,}"
            for status, count in sorted(statuses.items())
        )
        say(f"{kind:24} {statuses.total():>8,} {_milliseconds(tally.seconds[kind])}  {answers}")
    say()


def _milliseconds(seconds: Sequence[float]) -> str:
    if not seconds:
        return f"{'':8} {'':8}"
    return " ".join(f"{1000 * float(np.percentile(seconds, rank)):8.1f}" for rank in (50, 99))


def say(line: str = "") -> None:
    """Print a line of the report at once."""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=5.0, help="of the server, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    import torch

    import oneclip

    torch.set_num_threads(1)  # the server needs the processors
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = folder / "images"
        shutil.copytree(EXAMPLES, images)
        with serving(images, folder, "--timeout", str(options.timeout)) as server:
            count = max(20, options.requests // 40)
            traffic = prepare(server, oneclip.load("pocket"), images, count, options.timeout)
            tally, part, seconds = Tally(), -(-options.requests // PARTS), 0.0
            held: list[Held] = []
            asyncio.run(traffic.warm_up(tally))
            for start in range(0, options.requests, part):
                numbers, started = range(start, min(start + part, options.requests)), time.monotonic()
                asyncio.run(traffic.send(numbers, tally, clients=options.clients, seed=options.seed))
                seconds += time.monotonic() - started
                held.append(idle(server) if numbers.stop == options.requests or not held else server.held())
                print(
                    f"{numbers.stop:,} requests, {held[-1].memory / 1e6:.0f} MB", file=sys.stderr, flush=True
                )
            before, after = held[0], held[-1]
            faults = [*tally.faults, *compare(before, after), *remaining_faults(server)]
    say(f"{options.requests:,} requests of {options.clients} clients in {seconds:.0f} s\n")
    report(tally, list(traffic.good.kinds), "good requests")
    report(tally, list(traffic.hostile.kinds), "hostile requests")
    report(tally, [HEALTH, SIZES], "also")
    everything = [second for kind in traffic.good.kinds for second in tally.seconds[kind]]
    p50, p99 = _milliseconds(everything).split()
    say(f"all good requests: p50 {p50} ms, p99 {p99} ms")
    say(f"{'idle':10} {'memory, MB':>10} {'threads':>8} {'open files':>10}")
    for name, held in ((f"after {part:,}", before), ("after all", after)):
        say(f"{name:11} {held.memory / 1e6:>10.1f} {held.threads:>8} {held.files:>10}")
    say(f"memory: {after.memory / before.memory - 1:+.1%}")
    say(f"faults: {len(faults):,}")
    for fault in faults[:SHOWN]:
        say(f"- {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
