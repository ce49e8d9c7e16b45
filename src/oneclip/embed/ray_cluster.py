"""Sources to vectors by the workers of a Ray cluster: what `oneclip embed --engine ray` does, for programs.

    with Cluster(workers=2) as cluster:
        job = cluster.prepare(partial(oneclip.load, "ViT-B/32"), "exact")
        with Store("vectors", job.facts) as store:
            outcome = job.embed(find_sources(["photos"]), store)

The driver lists items and writes vectors; workers read, decode, hash and encode. Ray does again what a dead worker had
in hand, and the driver takes each answer once and misses none.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from oneclip.embed.batch_encoder import Decode
from oneclip.embed.items import Source, row_key
from oneclip.embed.prefetch import Clock
from oneclip.embed.ray_workers import Pool, plan_pool
from oneclip.embed.result_collector import Ledger
from oneclip.embed.rows import Facts
from oneclip.embed.run import Outcome
from oneclip.embed.sources import not_read
from oneclip.embed.store import Store
from oneclip.embed.throughput import Meter, Report
from oneclip.embed.work_units import Group, Known, units_of
from oneclip.embed.worker import Attempts, Load, Task, Worker, meet
from oneclip.errors import BrokenExtraError, ClusterError, MissingExtraError, OutputError

MOST_BLOCKS = 10_000  # of units: more would cost Ray more than it gains
UNITS_A_WORKER = 8  # at least, so that none waits long for the last; if there are enough items
REACH_SECONDS = 10.0
BATCHES_A_UNIT = 16  # at most, so that a dead worker costs little

# Ray's own words would drown ours, some of them on stdout. All are in its log files.
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Cluster:
    """A Ray cluster. A context; one that it started is stopped at the end.

    Args:
        address: of a running one (`auto`, `10.0.0.1:6379`); by default `RAY_ADDRESS`, or else one is started here.
        workers: how many; by default as many as there is room for.
        device: "cpu" or "cuda" for workers; by default GPUs if the cluster has any.

    Raises:
        MissingExtraError: without Ray.
        ClusterError: if the cluster cannot be reached.
        ConfigError: if it has no GPU, and workers want one.
    """

    def __init__(
        self, address: str | None = None, *, workers: int | None = None, device: str | None = None
    ) -> None:
        self._address, self._workers, self._device = address or os.environ.get("RAY_ADDRESS"), workers, device
        self._ray = _ray()
        self._is_ours = False

    def __enter__(self) -> Cluster:
        if not self._ray.is_initialized():
            options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
            try:
                _check_reachable(self._address)
                with _silence():
                    self._ray.init(
                        address=self._address or "local",
                        log_to_driver=False,
                        logging_level=logging.CRITICAL,
                        **options,
                    )
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                where = (
                    f"at {self._address} cannot be reached" if self._address else "could not be started here"
                )
                raise ClusterError(f"a Ray cluster {where}: {_told(error)}") from error
            self._is_ours = True
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.pool = plan_pool(nodes, self._workers, self._device)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def prepare(self, load: Load, decode: Decode, batch_size: int = 32, *, verify: bool = False) -> Job:
        """Have a first worker load the model.

        Args:
            load: gives the encoder on a worker; called with `device`. It is pickled.
            decode: as of `embed`.
            batch_size: pictures that go through the model at once.
            verify: as of `embed`.

        Raises:
            ClusterError: if the model cannot be loaded there.
        """
        pool = self.pool
        task = Task(load, pool.device, decode, batch_size, pool.threads, pool.workers, os.getcwd(), verify)
        first = self._ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=1)(meet)
        try:
            met = self._ray.get(first.remote(task))
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"no worker could load the model: {_told(error)}") from error
        if isinstance(met, str):
            raise ClusterError(f"no worker could load the model: {met}")
        return Job(self._ray, pool, task, *met)


class Job:
    """A model on a cluster.

    Attributes:
        facts: what makes its vectors.
        embed_dim: D.
    """

    def __init__(self, ray: Any, pool: Pool, task: Task, facts: Facts, embed_dim: int) -> None:
        self._ray, self._pool, self._task = ray, pool, task
        self.facts, self.embed_dim = facts, embed_dim

    def embed(
        self,
        sources: Sequence[Source],
        store: Store,
        *,
        report: Callable[[Report], None] = lambda report: None,
        outcome: Outcome | None = None,
    ) -> Outcome:
        """Encode what sources hold, into a store that has been entered; the same as `oneclip.embed.run.embed`.

        Raises:
            CheckpointError: if the model gives no finite numbers for a whole first batch.
            ClusterError: if workers cannot work, or an answer is missing in the end; what was written is kept.
            OutputError: if the disk refuses; what was written is kept.
        """
        totals = [source.count() for source in sources]
        total = None if None in totals else sum(t for t in totals if t is not None)
        clock = Clock()
        meter = Meter(clock, total, report)
        ledger = Ledger(store, outcome or Outcome())
        units = [self._ray.cloudpickle.dumps(unit) for unit in units_of(sources, self._unit_size(total))]
        attempts = self._ray.remote(num_cpus=0)(Attempts).remote()
        arrived = _Arrived(len(units))
        with store.error_table() as errors, ledger.counting(errors):
            try:
                for group in self._groups(units, store, attempts):
                    if group.problem is not None:
                        raise ClusterError(group.problem)
                    if not arrived.is_new(group):
                        continue
                    clock.add(group.seconds or {})
                    ledger.take(group)
                    meter.advance(len(group.answers))
                arrived.check()
            except BaseException as error:
                with suppress(OutputError):  # what ends the run may be just that
                    store.flush()
                if type(error).__module__.partition(".")[0] == "ray":
                    raise ClusterError(f"the cluster failed: {_told(error)}") from error
                raise
            finally:
                with suppress(Exception):  # a cluster that is gone has nobody to ask
                    ledger.outcome.deaths = self._ray.get(attempts.deaths.remote(), timeout=5)
            ledger.outcome.not_read.update(not_read(sources))
            ledger.outcome.rows = store.finish(ledger.names(), ledger.unlisted)
            ledger.outcome.dropped, ledger.outcome.unlisted = store.dropped, store.unlisted
        return ledger.outcome

    def _groups(self, units: list[bytes], store: Store, attempts: Any) -> Iterator[Group]:
        """What workers make of units, as it comes."""
        import ray.data

        if not units:
            return
        ray = self._ray
        reference = ray.put(Known((row_key(name), digest, stamp) for name, digest, stamp in store.rows()))

        def known() -> Known:
            there: Known = ray.get(reference)
            return there

        pool, workers = self._pool, min(self._pool.workers, len(units))
        with _settings(ray.data.DataContext.get_current()):
            listed = ray.data.from_items(
                [{"unit": unit} for unit in units], override_num_blocks=min(len(units), MOST_BLOCKS)
            )
            answered = listed.map_batches(
                Worker,
                fn_constructor_args=(self._task, self.facts, known, partial(_ask, attempts)),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=workers, max_size=workers),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
            )
            for row in answered.iter_rows():
                yield pickle.loads(row["group"])

    def _unit_size(self, total: int | None) -> int:
        """How many listed items make a unit."""
        most = BATCHES_A_UNIT * self._task.batch_size
        share = most if total is None else total // (UNITS_A_WORKER * self._pool.workers)
        return max(self._task.batch_size, min(most, share))


class _Arrived:
    """Which answers have come: each counts once, and none may be missing."""

    def __init__(self, units: int) -> None:
        self._counts: dict[int, dict[int, int]] = {number: {} for number in range(units)}
        self._totals: dict[int, int] = {}

    def is_new(self, group: Group) -> bool:
        """Note a group; False for one that came before, from a worker that had done it and died."""
        counts = self._counts.get(group.unit)
        if counts is None or (group.first in counts and not group.is_last):
            return False
        if group.is_last:
            self._totals[group.unit] = group.first
        else:
            counts[group.first] = len(group.answers)
        if self._totals.get(group.unit) == sum(counts.values()):
            del self._counts[group.unit]  # all of it is here
        return True

    def check(self) -> None:
        """Raise a ClusterError if something is missing."""
        if self._counts:
            raise ClusterError(
                f"of {len(self._counts)} parts of the work no answer, or not all of it, came back from the cluster"
            )


def _ask(attempts: Any, method: str, *what: object) -> Any:
    """Call a method of `Attempts`, and wait."""
    import ray

    return ray.get(getattr(attempts, method).remote(*what))


@contextmanager
def _settings(context: Any) -> Iterator[None]:
    """Ray Data as it is needed here, and as it was before."""
    wanted: Mapping[str, Any] = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "target_max_block_size": 1,  # what a worker yields is sent at once, and the same again if it is done again
    }
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    level = logger.level
    for name, value in wanted.items():
        setattr(context, name, value)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on stderr, also not from C++, which tells there that it was told to be quiet."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_reachable(address: str | None) -> None:
    """Raise an OSError if nobody listens at HOST:PORT: Ray would try for minutes, without a word."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


def _told(error: BaseException) -> str:
    """One line of an error: of what a worker raised, if it comes from one."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return (
        name if not lines else lines[0] if type(error).__module__.startswith("ray") else f"{name}: {lines[0]}"
    )


def _ray() -> Any:
    if find_spec("ray") is None:
        raise MissingExtraError("Encoding on a cluster", "ray")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BrokenExtraError("Encoding on a cluster", "ray", str(error)) from error
    return ray
