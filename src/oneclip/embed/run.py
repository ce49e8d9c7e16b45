"""Sources to vectors on disk: what `oneclip embed` does, for programs.

with Store(Path("vectors.npz"), Facts.of(encoder, "exact")) as store:
    outcome = embed(encoder, find_sources(["photos"]), store, decode="exact")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oneclip.embed.batch_encoder import Decode, Finish, Model, preparation
from oneclip.embed.cache import Cache
from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.items import Failure, Item, Source
from oneclip.embed.prefetch import Clock, Ready, Unread, read_ahead
from oneclip.embed.sources import not_read
from oneclip.embed.store import Store
from oneclip.embed.throughput import Meter, Report
from oneclip.errors import CheckpointError, OutputError
from oneclip.hub.file_types import NotRead

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, Features


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        encoded: items that went through the model.
        kept: items whose vector was there from an earlier run.
        repeated: items whose content another one had, or the cache.
        failed: items and sources without a vector; all are in the table `errors`.
        first_failures: some of them.
        deaths: how often a worker of a cluster died; what it had in hand was done again.
        rows: of the output in the end.
        dropped: how many rows of earlier runs are no longer in it, by the reason.
        unlisted: how many are in it although this run could not list them, such as those of a shard that is not there.
        errors: where the table is; it exists if `failed` is not 0.
        not_read: images and videos that were found beside the others and are not read here.
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
    not_read: NotRead = field(default_factory=NotRead)

    @property
    def done(self) -> int:
        """Items that have a vector now."""
        return self.encoded + self.kept + self.repeated


def embed(
    encoder: Encoder,
    sources: Sequence[Source],
    store: Store,
    *,
    decode: Decode = "exact",
    batch_size: int = 32,
    cache: Cache | None = None,
    verify: bool = False,
    report: Callable[[Report], None] = lambda report: None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Encode what sources hold, into a store that has been entered.

    Args:
        encoder: the model.
        sources: see `find_sources`.
        store: where vectors go, and where those of earlier runs are.
        decode: of pictures "exact" or "fast"; of captions "text", or "cut" to shorten what is too long.
        batch_size: pictures that go through the model at once.
        cache: vectors by content, of any earlier run.
        verify: read files also where their size and time are those of the earlier run.
        report: is told how far it is, at most twice a second.
        outcome: counts here, so that the caller has them also when this raises.

    Raises:
        CheckpointError: if the model gives no finite numbers for a whole first batch.
        DataError: if a source cannot be read on.
        OutputError: if the disk refuses; what was written is kept.
    """
    run = _Run(store, Model(encoder, decode), cache, outcome or Outcome())
    totals = [source.count() for source in sources]
    clock = Clock()
    meter = Meter(clock, None if None in totals else sum(t for t in totals if t is not None), report)
    size = run.model.batch(batch_size)
    seen: set[str] = set()
    names: list[str] = []
    unlisted: list[Failure] = []
    pending: list[Ready] = []
    with store.error_table() as errors:
        run.errors = errors
        prepare = preparation(encoder, decode)
        found = read_ahead(
            sources,
            prepare.decode,
            run.known,
            clock,
            ahead=2 * size + 8,
            look=prepare.look,
            unchanged=lambda item, stamp: not verify and store.is_unchanged(item.name, stamp),
        )
        try:
            for entry in found:
                meter.advance()
                if isinstance(entry, Failure):
                    errors.add(entry)
                    unlisted.append(entry)
                    continue
                if entry.item.key in seen:
                    continue
                seen.add(entry.item.key)
                names.append(entry.item.name)
                if isinstance(entry, Unread):
                    run.fail(entry)
                elif entry.is_known:
                    run.take_known(entry)
                elif (reason := store.fault(entry.item.name)) is not None:
                    run.fail(Unread(entry.item, reason))
                else:
                    pending.append(entry)
                    if len(pending) == size:
                        with clock.counting("model"):
                            run.encode(pending)
                        pending = []
            with clock.counting("model"):
                run.encode(pending)
                run.encode([])
        except BaseException:
            with suppress(OutputError):  # what ends the run may be just that
                store.flush()
            raise
        finally:
            outcome = run.outcome
            outcome.failed, outcome.first_failures = errors.count, errors.first
            outcome.errors = errors.place if errors.count else None
            found.close()
        outcome.not_read.update(not_read(sources))
        outcome.rows = store.finish(names, unlisted)
        outcome.dropped, outcome.unlisted = store.dropped, store.unlisted
    return outcome


class _Run:
    """What happens to the items of one run."""

    errors: ErrorTable

    def __init__(self, store: Store, model: Model, cache: Cache | None, outcome: Outcome) -> None:
        self.store, self.model, self.cache, self.outcome = store, model, cache, outcome
        self._begun: deque[tuple[Sequence[Ready], Finish]] = deque()

    def known(self, item: Item, digest: str) -> Any:
        """True for an item of an earlier run, the vector of equal content, or None. Called in threads."""
        if self.store.has(item.name, digest):
            return True
        found = self.store.find(digest)  # a folder may have been renamed
        if found is None and self.cache is not None:
            found = self.cache.find(digest)
        return found

    def take_known(self, entry: Ready) -> None:
        """Count what is in the store; a vector of equal content goes there."""
        if entry.value is True:
            self.store.keep(entry.item.name, entry.digest, entry.stamp)
            self.outcome.kept += 1
        elif (reason := self.store.fault(entry.item.name)) is not None:
            self.fail(Unread(entry.item, reason))
        else:
            self.outcome.repeated += 1
            self.store.add(entry.item.name, entry.digest, entry.value, entry.stamp)

    def fail(self, entry: Unread) -> None:
        """Write down why there is no vector; one of other content, of an earlier run, is none either."""
        self.errors.add(Failure(entry.item.name, entry.reason))
        if entry.digest is not None:
            self.store.forget(entry.item.name)

    def encode(self, entries: Sequence[Ready]) -> None:
        """Begin to make the vectors of a batch, and store those that are asked for now: all, after an empty one."""
        if entries:
            self._begun.append((entries, self.model.begin_entries(entries)))
        kept = self.model.ahead if entries else 0
        while len(self._begun) > kept:
            begun, finish = self._begun.popleft()
            self._store(begun, *finish())

    def _store(self, entries: Sequence[Ready], found: dict[str, Features | str], new: set[str]) -> None:
        vectors = {digest: value for digest, value in found.items() if not isinstance(value, str)}
        if self.model.sees and len(new) > 1 and not vectors and not self.outcome.done:
            raise CheckpointError(str(found[next(iter(new))]))  # it is the model, not the pictures
        for entry in entries:
            value = found[entry.digest]
            if isinstance(value, str):
                self.fail(Unread(entry.item, value, entry.digest))
            else:
                self.store.add(entry.item.name, entry.digest, value, entry.stamp)
        computed = {digest: vectors[digest] for digest in new & vectors.keys()}
        self.outcome.encoded += len(computed)
        self.outcome.repeated += sum(e.digest in vectors for e in entries) - len(computed)
        if self.cache is not None and computed:
            self.cache.add(computed)
