"""Metrics of a server process, in the format of Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
KINDS = ("image", "text")
ERRORS = (
    *KINDS,
    "queue_full",
    "timeout",
    "not_ready",
    "cancelled",
    "internal",
    "too_many_items",
    "too_many_characters",
)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Metrics of a server. `kind` is "image" or "text".

    With several processes, PROMETHEUS_MULTIPROC_DIR names a folder, empty at the start, in which each writes its own;
    then any of them can render the sum.

    Attributes:
        items: embeddings that were asked for, by kind.
        queued: items that were accepted and are not answered yet, by kind.
        wait_seconds: between the end of decoding and the start of a batch, by kind.
        batch_items: items of a batch, by kind.
        decode_seconds: of decoding and preprocessing one image, or tokenizing the texts of one request, by kind.
        compute_seconds: of one batch in its tower, by kind.
        errors: by kind of error, see `ERRORS`.
        threads_replaced: threads of towers that died, by kind.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ["kind"]
        self._requests = Counter("oneclip_requests", "Requests.", ["route", "status"], registry=registry)
        self._request_seconds = Histogram(
            "oneclip_request_seconds", "Seconds of a request.", ["route"], buckets=SECONDS, registry=registry
        )
        self.items = Counter("oneclip_items", "Images and texts accepted.", labels, registry=registry)
        self.queued = Gauge(
            "oneclip_queued_items",
            "Images and texts accepted and not answered yet.",
            labels,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.wait_seconds = Histogram(
            "oneclip_wait_seconds",
            "Seconds that an item waits for its tower.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_items = Histogram(
            "oneclip_batch_items", "Items of a batch.", labels, buckets=BATCH_SIZES, registry=registry
        )
        self.decode_seconds = Histogram(
            "oneclip_decode_seconds",
            "Seconds of decoding an image, or of tokenizing the texts of a request.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "oneclip_compute_seconds",
            "Seconds that a tower computes a batch.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self.errors = Counter("oneclip_errors", "Errors by kind.", labels, registry=registry)
        self.threads_replaced = Counter(
            "oneclip_threads_replaced", "Threads of towers that died.", labels, registry=registry
        )
        for kind in KINDS:  # a counter that appears with its first event has no increase to be seen
            for metric in (self.items, self.queued, self.threads_replaced):
                metric.labels(kind)
        for kind in ERRORS:
            self.errors.labels(kind)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: the path of its route, as declared; never the path that the client sent.
            status: HTTP status of the answer.
            seconds: from its first byte to the last of the answer.
        """
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """Return the body and the content type of `/metrics`, summed over the processes of the server."""
        registry = self.registry
        if os.environ.get(MULTIPROCESS_VARIABLE):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(_WithoutCreated(registry)), CONTENT_TYPE_LATEST


class _WithoutCreated(Collector):
    """Metrics of a registry without the times at which they were created: half of its lines, of no use here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def forget_process(pid: int) -> None:
    """Leave the gauges of a process that has ended out of the sums."""
    if os.environ.get(MULTIPROCESS_VARIABLE):
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
