"""Cluster worker: loads the model once and encodes work units."""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oneclip._version import __version__
from oneclip.embed.batch_encoder import BatchEncoder, item_decoder
from oneclip.embed.items import Failure, Found, Item, ItemSource
from oneclip.embed.prefetch import DecodedItem, StageTimer, UnreadableItem, prefetch_items
from oneclip.embed.rows import Decode, EmbeddingMetadata
from oneclip.embed.sources import not_read
from oneclip.embed.work_units import ItemResult, KnownItems, ResultBatch, WorkUnit
from oneclip.errors import OneCLIPError

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

MAX_ATTEMPTS = 2  # at a single item; if workers keep dying, the item is reported as the cause
MAX_LOADS_PER_WORKER = 3  # of the model

LoadEncoder = Callable[..., "Encoder"]  # called with `device`


@dataclass(frozen=True)
class WorkerTask:
    """Settings that all workers receive.

    Attributes:
        load: returns the encoder; called with `device`.
        device: of the worker.
        decode: as in `embed`.
        batch_size: images in a batch.
        threads: number of threads of a worker.
        workers: number of workers.
        folder: current folder of the driver, which relative paths refer to.
        verify: read files again even if size and modification time are unchanged.
        version: of the driver's oneclip.
    """

    load: LoadEncoder
    device: str
    decode: Decode
    batch_size: int
    threads: int
    workers: int
    folder: str
    verify: bool = False
    version: str = __version__


class AttemptCounter:
    """Count how often units, single items and models were started. It runs in its own process and survives workers."""

    def __init__(self) -> None:
        self._started: Counter[tuple[object, ...]] = Counter()

    def begin(self, *what: object) -> int:
        """Count a start; return the number of starts."""
        self._started[what] += 1
        return self._started[what]

    def end(self, *what: object) -> None:
        """Uncount a start that ended well."""
        self._started[what] -= 1

    def deaths(self) -> int:
        """Return how many units were started again."""
        return sum(times - 1 for what, times in self._started.items() if what[0] == "unit" and len(what) == 2)


def probe_worker(task: WorkerTask) -> tuple[EmbeddingMetadata, int] | str:
    """Load the model on a worker; return its metadata and D, or the reason for a failure."""
    try:
        encoder = _load(task)
    except (OneCLIPError, OSError) as error:
        return _on_this_host(error)
    return EmbeddingMetadata.for_encoder(encoder, task.decode), encoder.embed_dim


class EmbedWorker:
    """Encode work units. Independent of Ray: it receives what it needs from the cluster as functions.

    Args:
        task: settings.
        metadata: of the model on the first worker; the model here must be the same.
        known: returns the items that are done; called once.
        ask: calls a method of `AttemptCounter`.
    """

    def __init__(
        self,
        task: WorkerTask,
        metadata: EmbeddingMetadata,
        known: Callable[[], KnownItems],
        ask: Callable[..., Any],
    ) -> None:
        self._task, self._ask = task, ask
        self._problem: str | None = None
        if ask("begin", "load") > MAX_LOADS_PER_WORKER * task.workers:
            self._problem = _on_this_host(
                "workers died repeatedly while they loaded the model; check that it fits into memory"
            )
            return
        try:
            encoder = _load(task)
        except (OneCLIPError, OSError) as error:
            self._problem = _on_this_host(error)
            return
        finally:
            ask("end", "load")
        self._problem = _metadata_difference(metadata, EmbeddingMetadata.for_encoder(encoder, task.decode))
        self._model = BatchEncoder(encoder, task.decode)
        self._decoder = item_decoder(encoder, task.decode)
        self._known = known()

    def __call__(self, rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Convert pickled units to pickled result batches."""
        for content in rows["unit"]:
            unit: WorkUnit = pickle.loads(content)
            for batch in self.encode_unit(unit):
                yield {"batch": [pickle.dumps(batch)]}

    def encode_unit(self, unit: WorkUnit) -> Iterator[ResultBatch]:
        """Yield the results of a unit in batches."""
        if self._problem is not None:
            yield ResultBatch(unit.number, problem=self._problem)
            return
        careful = self._ask("begin", "unit", unit.number) > 1  # a worker died on it before
        timer = StageTimer()
        before = timer.read()
        done = 0
        batches = self._one_by_one(unit, timer) if careful else self._in_batches(unit, timer)
        try:
            for results in batches:
                now = timer.read()
                seconds = {what: now[what] - before[what] for what in now}
                before = now
                yield ResultBatch(unit.number, done, results, seconds=seconds)
                done += len(results)
        except OneCLIPError as error:  # a source that cannot be read any further
            yield ResultBatch(unit.number, problem=_on_this_host(error))
            return
        except MemoryError:
            yield ResultBatch(
                unit.number,
                problem=_on_this_host("out of memory; use fewer workers or a smaller batch"),
            )
            return
        yield ResultBatch(unit.number, done, is_last=True, not_read=dict(not_read([unit.found])))

    def _in_batches(self, unit: WorkUnit, timer: StageTimer) -> Iterator[list[ItemResult]]:
        size = self._model.batch_length(self._task.batch_size)
        source: ItemSource = _ListedSource(unit.found) if isinstance(unit.found, Sequence) else unit.found
        entries: list[DecodedItem | UnreadableItem | Failure] = []
        with closing(self._read([source], timer, 2 * size + 8)) as found:
            for entry in found:
                entries.append(entry)
                if len(entries) == size:
                    with timer.measure("model"):
                        results = self._encode_entries(entries)
                    yield results
                    entries = []
        if entries:
            with timer.measure("model"):
                results = self._encode_entries(entries)
            yield results

    def _one_by_one(self, unit: WorkUnit, timer: StageTimer) -> Iterator[list[ItemResult]]:
        """Encode one item at a time, so that an item that kills a worker is identified."""
        size = self._model.batch_length(self._task.batch_size)
        results: list[ItemResult] = []
        for index, found in enumerate(unit.found):
            entry: DecodedItem | UnreadableItem | Failure
            if self._ask("begin", "unit", unit.number, index) > MAX_ATTEMPTS and isinstance(found, Item):
                entry = UnreadableItem(found, f"{found.name}: the worker that encoded it died repeatedly")
            else:
                with closing(self._read([_ListedSource([found])], timer, 1)) as read:
                    entry = next(read)
            with timer.measure("model"):
                results += self._encode_entries([entry])
            self._ask("end", "unit", unit.number, index)
            if len(results) == size:
                yield results
                results = []
        if results:
            yield results

    def _read(self, sources: Sequence[ItemSource], timer: StageTimer, depth: int) -> Any:
        return prefetch_items(
            sources,
            self._decoder.decode,
            lambda item, digest: self._known.has(digest) or None,
            timer,
            depth=depth,
            decoders=self._task.threads,
            check_header=self._decoder.check_header,
            unchanged=lambda item, stamp: not self._task.verify and self._known.is_unchanged(item, stamp),
        )

    def _encode_entries(self, entries: Sequence[DecodedItem | UnreadableItem | Failure]) -> list[ItemResult]:
        ready = [entry for entry in entries if isinstance(entry, DecodedItem) and not entry.is_known]
        found, new = self._model.begin_entries(ready)()
        results = []
        for entry in entries:
            if isinstance(entry, Failure):
                results.append(
                    ItemResult(entry.name, None, reason=entry.reason, hides_others=entry.hides_others)
                )
                continue
            item = entry.item
            if isinstance(entry, UnreadableItem):
                results.append(ItemResult(item.name, item.key, entry.digest, reason=entry.reason))
            elif entry.is_known:
                results.append(ItemResult(item.name, item.key, entry.digest, stamp=entry.stamp))
            else:
                value, is_new = found[entry.digest], entry.digest in new
                new.discard(entry.digest)
                result = ItemResult(item.name, item.key, entry.digest, is_tried=True, stamp=entry.stamp)
                if isinstance(value, str):
                    results.append(replace(result, reason=value))
                else:
                    results.append(replace(result, vector=value, is_new=is_new))
        return results


@dataclass
class _ListedSource:
    """Source of items that the driver listed."""

    found: Sequence[Found]
    name: str = ""
    is_bulky: bool = False

    def count(self) -> int | None:
        return len(self.found)

    def __iter__(self) -> Iterator[Found]:
        return iter(self.found)


def _load(task: WorkerTask) -> Encoder:
    import torch

    if task.version != __version__:
        raise OneCLIPError(
            f"oneclip {__version__} is installed on the worker, but {task.version} on the driver"
        )
    with suppress(OSError):  # without this folder, relative paths are reported as missing
        os.chdir(task.folder)
    torch.set_num_threads(task.threads)
    return task.load(device=task.device)


def _metadata_difference(expected: EmbeddingMetadata, found: EmbeddingMetadata) -> str | None:
    """Return how a model loaded here differs from that of the first worker, or None."""
    ours, theirs = found.to_dict(), expected.to_dict()
    different = [name for name in ours if name != "model" and ours[name] != theirs[name]]
    if not different:
        return None
    details = "; ".join(f"{name} {ours[name][:12]}, not {theirs[name][:12]}" for name in different)
    return _on_this_host(f"{found.model} differs from the model on other machines: {details}")


def _on_this_host(error: object) -> str:
    return f"on {socket.gethostname()}: {error}"
