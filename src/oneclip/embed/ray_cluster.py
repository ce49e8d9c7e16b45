"""Embed sources with the workers of a Ray cluster: the library behind `oneclip embed --engine ray`.

    with RayCluster(workers=2) as cluster:
        job = cluster.prepare(partial(oneclip.load, "ViT-B/32"), "exact")
        with EmbeddingStore("vectors", job.metadata) as store:
            outcome = job.embed(find_sources(["photos"]), store)

The driver lists items and writes embeddings; workers read, decode, hash and encode. Ray repeats the work of a worker
that died; the driver counts each result once and checks that none is missing.
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

from oneclip.embed.items import ItemSource, row_key
from oneclip.embed.prefetch import StageTimer
from oneclip.embed.ray_workers import WorkerPool, plan_workers
from oneclip.embed.result_collector import ResultCollector
from oneclip.embed.rows import Decode, EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome
from oneclip.embed.sources import count_items, not_read
from oneclip.embed.store import EmbeddingStore
from oneclip.embed.throughput import EmbedProgress, ThroughputMeter
from oneclip.embed.work_units import KnownItems, ResultBatch, split_into_units
from oneclip.embed.worker import AttemptCounter, EmbedWorker, LoadEncoder, WorkerTask, probe_worker
from oneclip.errors import BrokenExtraError, ClusterError, MissingExtraError, OutputError

MAX_BLOCKS = 10_000  # of units: more would only add overhead in Ray
MIN_UNITS_PER_WORKER = 8  # if there are enough items, so that all workers finish at about the same time
CONNECT_TIMEOUT = 10.0
MAX_BATCHES_PER_UNIT = 16  # so that a dead worker loses little work

# Ray writes many messages, some to stdout. They remain in its log files.
_QUIET_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayCluster:
    """Ray cluster. A context manager; a cluster that it started is stopped at the end.

    Args:
        address: of a running cluster (`auto`, `10.0.0.1:6379`); by default `RAY_ADDRESS`, or a new local cluster.
        workers: number of workers; by default as many as fit.
        device: "cpu" or "cuda"; by default GPUs if the cluster has any.

    Raises:
        MissingExtraError: if Ray is not installed.
        ClusterError: if the cluster cannot be reached.
        ConfigError: if GPUs are requested and the cluster has none.
    """

    def __init__(
        self, address: str | None = None, *, workers: int | None = None, device: str | None = None
    ) -> None:
        self._address, self._workers, self._device = address or os.environ.get("RAY_ADDRESS"), workers, device
        self._ray = _ray()
        self._is_ours = False

    def __enter__(self) -> RayCluster:
        if not self._ray.is_initialized():
            options: dict[str, Any] = {} if self._address else {"include_dashboard": False}
            try:
                _check_reachable(self._address)
                with _silence_stderr():
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
                raise ClusterError(f"a Ray cluster {where}: {_error_line(error)}") from error
            self._is_ours = True
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self.pool = plan_workers(nodes, self._workers, self._device)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def prepare(
        self, load: LoadEncoder, decode: Decode, batch_size: int = 32, *, verify: bool = False
    ) -> RayEmbedJob:
        """Load the model on a first worker.

        Args:
            load: returns the encoder on a worker; called with `device`. It is pickled.
            decode: as in `embed`.
            batch_size: images in a batch.
            verify: as in `embed`.

        Raises:
            ClusterError: if the model cannot be loaded there.
        """
        pool = self.pool
        task = WorkerTask(
            load, pool.device, decode, batch_size, pool.threads, pool.workers, os.getcwd(), verify
        )
        first = self._ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=1)(probe_worker)
        try:
            probe = self._ray.get(first.remote(task))
        except self._ray.exceptions.RayError as error:
            raise ClusterError(f"no worker could load the model: {_error_line(error)}") from error
        if isinstance(probe, str):
            raise ClusterError(f"no worker could load the model: {probe}")
        return RayEmbedJob(self._ray, pool, task, *probe)


class RayEmbedJob:
    """Model on a cluster, ready to embed.

    Attributes:
        metadata: what makes its embeddings.
        embed_dim: D.
    """

    def __init__(
        self, ray: Any, pool: WorkerPool, task: WorkerTask, metadata: EmbeddingMetadata, embed_dim: int
    ) -> None:
        self._ray, self._pool, self._task = ray, pool, task
        self.metadata, self.embed_dim = metadata, embed_dim

    def embed(
        self,
        sources: Sequence[ItemSource],
        store: EmbeddingStore,
        *,
        report: Callable[[EmbedProgress], None] = lambda report: None,
        outcome: EmbedOutcome | None = None,
    ) -> EmbedOutcome:
        """Encode the items of sources into an open store; equivalent to `oneclip.embed.run.embed`.

        Raises:
            CheckpointError: if the model returns no finite numbers for a whole first batch.
            ClusterError: if workers fail, or a result is missing at the end; what was written is kept.
            OutputError: if the output cannot be written; what was written is kept.
        """
        total = count_items(sources)
        timer = StageTimer()
        meter = ThroughputMeter(timer, total, report)
        collector = ResultCollector(store, outcome or EmbedOutcome())
        units = [
            self._ray.cloudpickle.dumps(unit) for unit in split_into_units(sources, self._unit_size(total))
        ]
        attempts = self._ray.remote(num_cpus=0)(AttemptCounter).remote()
        received = _ReceivedResults(len(units))
        with store.error_table() as errors, collector.counting(errors):
            try:
                for batch in self._results(units, store, attempts):
                    if batch.problem is not None:
                        raise ClusterError(batch.problem)
                    if not received.is_new(batch):
                        continue
                    timer.add(batch.seconds or {})
                    collector.add(batch)
                    meter.advance(len(batch.results))
                received.check()
            except BaseException as error:
                with suppress(OutputError):  # it may be the reason for the first error
                    store.flush()
                if type(error).__module__.partition(".")[0] == "ray":
                    raise ClusterError(f"the cluster failed: {_error_line(error)}") from error
                raise
            finally:
                with suppress(Exception):  # the cluster may be gone
                    collector.outcome.deaths = self._ray.get(attempts.deaths.remote(), timeout=5)
            collector.outcome.not_read.update(not_read(sources))
            collector.outcome.finish_store(store, collector.names(), collector.unlisted)
        return collector.outcome

    def _results(self, units: list[bytes], store: EmbeddingStore, attempts: Any) -> Iterator[ResultBatch]:
        """Yield result batches of the workers as they arrive."""
        import ray.data

        if not units:
            return
        ray = self._ray
        reference = ray.put(
            KnownItems((row_key(name), digest, stamp) for name, digest, stamp in store.rows())
        )

        def known() -> KnownItems:
            there: KnownItems = ray.get(reference)
            return there

        pool, workers = self._pool, min(self._pool.workers, len(units))
        with _ray_data_settings(ray.data.DataContext.get_current()):
            listed = ray.data.from_items(
                [{"unit": unit} for unit in units], override_num_blocks=min(len(units), MAX_BLOCKS)
            )
            answered = listed.map_batches(
                EmbedWorker,
                fn_constructor_args=(self._task, self.metadata, known, partial(_call_attempts, attempts)),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=workers, max_size=workers),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
            )
            for row in answered.iter_rows():
                yield pickle.loads(row["batch"])

    def _unit_size(self, total: int | None) -> int:
        """Return the number of listed items in a work unit."""
        most = MAX_BATCHES_PER_UNIT * self._task.batch_size
        share = most if total is None else total // (MIN_UNITS_PER_WORKER * self._pool.workers)
        return max(self._task.batch_size, min(most, share))


class _ReceivedResults:
    """Record of received result batches: each counts once, and none may be missing."""

    def __init__(self, units: int) -> None:
        self._counts: dict[int, dict[int, int]] = {number: {} for number in range(units)}
        self._totals: dict[int, int] = {}

    def is_new(self, batch: ResultBatch) -> bool:
        """Record a batch; return False for one received before, from a worker that died after sending it."""
        counts = self._counts.get(batch.unit)
        if counts is None or (batch.first in counts and not batch.is_last):
            return False
        if batch.is_last:
            self._totals[batch.unit] = batch.first
        else:
            counts[batch.first] = len(batch.results)
        if self._totals.get(batch.unit) == sum(counts.values()):
            del self._counts[batch.unit]  # the unit is complete
        return True

    def check(self) -> None:
        """Raise a ClusterError if results are missing."""
        if self._counts:
            raise ClusterError(f"the cluster did not return all results of {len(self._counts)} work units")


def _call_attempts(attempts: Any, method: str, *what: object) -> Any:
    """Call a method of the remote `AttemptCounter` and wait for the result."""
    import ray

    return ray.get(getattr(attempts, method).remote(*what))


@contextmanager
def _ray_data_settings(context: Any) -> Iterator[None]:
    """Change the settings of Ray Data for the run, and restore them afterwards."""
    wanted: Mapping[str, Any] = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "target_max_block_size": 1,  # send each result immediately, and in the same pieces if a unit is repeated
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
def _silence_stderr() -> Iterator[None]:
    """Discard stderr, including what Ray's C++ code writes."""
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
    """Raise an OSError if no process listens at HOST:PORT: Ray would retry silently for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()


def _error_line(error: BaseException) -> str:
    """Return one line of an error; of the original error if a worker raised it."""
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
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BrokenExtraError("Encoding on a cluster", "ray", str(error)) from error
    return ray
