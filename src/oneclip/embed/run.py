"""Embed sources to disk in this process: the library behind `oneclip embed`.

with EmbeddingStore(Path("vectors.npz"), EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
    outcome = embed(encoder, find_sources(["photos"]), store, decode="exact")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from oneclip.embed.batch_encoder import BatchEncoder, FinishBatch, ItemDecoder, item_decoder
from oneclip.embed.cache import EmbeddingCache
from oneclip.embed.items import Failure, FileStamp, Item, ItemSource
from oneclip.embed.prefetch import DecodedItem, StageTimer, UnreadableItem, prefetch_items
from oneclip.embed.rows import Decode
from oneclip.embed.sources import count_items, not_read
from oneclip.embed.throughput import EmbedProgress, ThroughputMeter
from oneclip.errors import CheckpointError, OutputError
from oneclip.hub.file_types import UnsupportedFiles

if TYPE_CHECKING:
    from oneclip.encoding import BaseEncoder, Features


class FailureTable(Protocol):
    """Receiver of failures: an `ErrorTable`, or another context manager with its attributes."""

    location: str
    first: list[Failure]
    count: int

    def __enter__(self) -> FailureTable: ...

    def __exit__(self, kind: object, *error: object) -> None: ...

    def add(self, failure: Failure) -> None:
        """Record a failure."""


class EmbeddingTarget(Protocol):
    """Receiver of embeddings, which knows those of earlier runs: `EmbeddingStore`, where each method is described."""

    dropped: dict[str, int]
    unlisted: int

    def error_table(self) -> FailureTable: ...

    def has(self, name: str, digest: str) -> bool: ...

    def is_unchanged(self, name: str, stamp: FileStamp) -> bool: ...

    def find(self, digest: str) -> Features | None: ...

    def keep(self, name: str, digest: str, stamp: FileStamp | None) -> bool: ...

    def add(self, name: str, digest: str, vector: Features, stamp: FileStamp | None = None) -> None: ...

    def record_failure(self, entry: UnreadableItem) -> None: ...

    def invalid_name_reason(self, name: str) -> str | None: ...

    def flush(self) -> None: ...

    def finish(self, names: list[str], unlisted: Sequence[Failure] = ()) -> int: ...


@dataclass
class EmbedOutcome:
    """Counts and failures of a run.

    Attributes:
        encoded: items that were encoded.
        kept: items with an embedding from an earlier run.
        repeated: items whose content was already embedded under another name or in the cache.
        failed: items and sources without an embedding; all are listed in the table `errors`.
        first_failures: the first of them.
        deaths: how often a worker of a cluster died; its work was repeated.
        rows: number of rows in the finished output.
        dropped: number of rows of earlier runs that were removed, by reason.
        unlisted: number of rows that were kept although this run could not list them, for example of a missing tar.
        errors: location of the error table; it exists if `failed` is not 0.
        not_read: images and videos in the sources whose format cannot be read here.
    """

    encoded: int = 0
    kept: int = 0
    repeated: int = 0
    failed: int = 0
    first_failures: list[Failure] = field(default_factory=list)
    deaths: int = 0
    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0
    errors: str | None = None
    not_read: UnsupportedFiles = field(default_factory=UnsupportedFiles)

    @property
    def done(self) -> int:
        """Number of items that have an embedding."""
        return self.encoded + self.kept + self.repeated

    def record_failures(self, errors: FailureTable) -> None:
        """Copy the counts of the error table."""
        self.failed, self.first_failures = errors.count, errors.first
        self.errors = errors.location if errors.count else None

    def finish_store(self, store: EmbeddingTarget, names: list[str], unlisted: Sequence[Failure]) -> None:
        """Complete the output (see `EmbeddingStore.finish`) and record its numbers of rows."""
        self.rows = store.finish(names, unlisted)
        self.dropped, self.unlisted = store.dropped, store.unlisted


def embed(
    encoder: BaseEncoder,
    sources: Sequence[ItemSource],
    store: EmbeddingTarget,
    *,
    decode: Decode = "exact",
    decoder: ItemDecoder | None = None,
    batch_size: int = 32,
    cache: EmbeddingCache | None = None,
    verify: bool = False,
    report: Callable[[EmbedProgress], None] = lambda report: None,
    outcome: EmbedOutcome | None = None,
) -> EmbedOutcome:
    """Encode the items of sources into an open store.

    Args:
        encoder: the model.
        sources: see `find_sources`.
        store: receives embeddings and knows those of earlier runs.
        decode: of images "exact" or "fast"; of texts "text", or "truncate" to cut long ones.
        decoder: turns the bytes of an item into model input; by default that of the encoder.
        batch_size: images in a batch.
        cache: embeddings by content, of any earlier run.
        verify: read files again even if size and modification time are unchanged.
        report: called with the progress, at most twice a second.
        outcome: receives the counts, so that the caller has them even if this raises.

    Raises:
        CheckpointError: if the model returns no finite numbers for a whole first batch.
        DataError: if a source cannot be read any further.
        OutputError: if the output cannot be written; what was written is kept.
    """
    model, decoder = BatchEncoder(encoder, decode), decoder or item_decoder(encoder, decode)
    outcome = EmbedOutcome() if outcome is None else outcome
    timer = StageTimer()
    meter = ThroughputMeter(timer, count_items(sources), report)
    with store.error_table() as errors:
        run = _EmbedRun(store, model, batch_size, cache, outcome, errors, timer)
        found = prefetch_items(
            sources,
            decoder.decode,
            run.known,
            timer,
            depth=2 * run.batch_length + 8,
            check_header=decoder.check_header,
            unchanged=lambda item, stamp: not verify and store.is_unchanged(item.name, stamp),
        )
        try:
            for entry in found:
                meter.advance()
                run.add(entry)
            run.finish()
        except BaseException:
            with suppress(OutputError):  # it may be the reason for the first error
                store.flush()
            raise
        finally:
            outcome.record_failures(errors)
            found.close()
        outcome.not_read.update(not_read(sources))
        outcome.finish_store(store, run.names, run.unlisted)
    return outcome


class _EmbedRun:
    """State of one run, and what happens to each item."""

    def __init__(
        self,
        store: EmbeddingTarget,
        model: BatchEncoder,
        batch_size: int,
        cache: EmbeddingCache | None,
        outcome: EmbedOutcome,
        errors: FailureTable,
        timer: StageTimer,
    ) -> None:
        self._store, self._model, self._cache, self._outcome = store, model, cache, outcome
        self._errors, self._timer = errors, timer
        self.batch_length = model.batch_length(batch_size)
        self.names: list[str] = []  # of all items, in the order of the sources
        self.unlisted: list[Failure] = []
        self._seen: set[str] = set()
        self._batch: list[DecodedItem] = []  # the next one, not yet full
        self._in_progress: deque[tuple[Sequence[DecodedItem], FinishBatch]] = deque()

    def add(self, entry: DecodedItem | UnreadableItem | Failure) -> None:
        """Take the next item or failure; encode a batch when it is full."""
        if isinstance(entry, Failure):
            self._errors.add(entry)
            self.unlisted.append(entry)
            return
        if entry.item.key in self._seen:
            return
        self._seen.add(entry.item.key)
        self.names.append(entry.item.name)
        if isinstance(entry, UnreadableItem):
            self._fail(entry)
        elif entry.is_known:
            self._take_known(entry)
        elif (reason := self._store.invalid_name_reason(entry.item.name)) is not None:
            self._fail(UnreadableItem(entry.item, reason))
        else:
            self._batch.append(entry)
            if len(self._batch) == self.batch_length:
                self._encode_batch()

    def finish(self) -> None:
        """Encode the last batch and store all."""
        if self._batch:
            self._encode_batch()
        with self._timer.measure("model"):
            self._store_finished(0)

    def known(self, item: Item, digest: str) -> Any:
        """Return True for an item of an earlier run, the embedding of equal content, or None. Called in threads."""
        if self._store.has(item.name, digest):
            return True
        found = self._store.find(digest)  # a folder may have been renamed
        if found is None and self._cache is not None:
            found = self._cache.find(digest)
        return found

    def _take_known(self, entry: DecodedItem) -> None:
        """Count an item of an earlier run; store the embedding of equal content under the new name."""
        if entry.value is True:
            self._store.keep(entry.item.name, entry.digest, entry.stamp)
            self._outcome.kept += 1
        elif (reason := self._store.invalid_name_reason(entry.item.name)) is not None:
            self._fail(UnreadableItem(entry.item, reason))
        else:
            self._outcome.repeated += 1
            self._store.add(entry.item.name, entry.digest, entry.value, entry.stamp)

    def _fail(self, entry: UnreadableItem) -> None:
        self._errors.add(Failure(entry.item.name, entry.reason))
        self._store.record_failure(entry)

    def _encode_batch(self) -> None:
        """Start encoding the batch; store earlier ones beyond the depth of the model."""
        with self._timer.measure("model"):
            self._in_progress.append((self._batch, self._model.begin_entries(self._batch)))
            self._batch = []
            self._store_finished(self._model.depth)

    def _store_finished(self, depth: int) -> None:
        while len(self._in_progress) > depth:
            entries, finish = self._in_progress.popleft()
            self._store_batch(entries, *finish())

    def _store_batch(
        self, entries: Sequence[DecodedItem], found: dict[str, Features | str], new: set[str]
    ) -> None:
        vectors = {digest: value for digest, value in found.items() if not isinstance(value, str)}
        if self._model.is_image and len(new) > 1 and not vectors and not self._outcome.done:
            raise CheckpointError(str(found[next(iter(new))]))  # the model is at fault, not the images
        for entry in entries:
            value = found[entry.digest]
            if isinstance(value, str):
                self._fail(UnreadableItem(entry.item, value, entry.digest, entry.stamp))
            else:
                self._store.add(entry.item.name, entry.digest, value, entry.stamp)
        computed = {digest: vectors[digest] for digest in new & vectors.keys()}
        self._outcome.encoded += len(computed)
        self._outcome.repeated += sum(e.digest in vectors for e in entries) - len(computed)
        if self._cache is not None and computed:
            self._cache.add(computed)
